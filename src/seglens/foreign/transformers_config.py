"""Folders of Hugging Face transformers: what config.json and preprocessor_config.json say, read as plain data."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglens.foreign.json_fields import Field, FieldError

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
MAX_SIDE = 4096
MAX_WIDTH = 8192
MAX_LAYERS = 200
MAX_CLASSES = 255
"""Of a mask of bytes."""
_STAGES = 4
_WRAP = "or build the network yourself, and give it to Segmenter.wrap(network, ...)"
_NETWORK_FIX = f"take a folder that save_pretrained of a SegformerForSemanticSegmentation wrote, {_WRAP}"
_PICTURE_FIX = f"correct {PREPROCESSOR}, as SegformerImageProcessor.save_pretrained writes it"
_KINDS = {
    name: name for name in ("SegformerImageProcessor", "SegformerImageProcessorFast", "SegformerImageProcessorPil")
}
_LISTS = {
    "hidden_sizes": ((32, 64, 160, 256), MAX_WIDTH),
    "depths": ((2, 2, 2, 2), MAX_LAYERS),
    "num_attention_heads": ((1, 2, 5, 8), MAX_WIDTH),
    "sr_ratios": ((8, 4, 2, 1), 64),
    "mlp_ratios": ((4, 4, 4, 4), 64),
}
_FIXED: dict[str, Any] = {
    "num_channels": 3,
    "num_encoder_blocks": _STAGES,
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "reshape_last_stage": True,
    "model_type": "segformer",
    "architectures": ["SegformerForSemanticSegmentation"],
}
"""Keys that may stand there with one value, which is also what a missing key means."""
_OF_TRAINING = {"hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "classifier_dropout_prob"}
_OF_TRAINING |= {"initializer_range", "semantic_loss_ignore_index"}
_BESIDE = {"id2label", "label2id", "num_labels", "decoder_hidden_size", "torch_dtype", "dtype", "transformers_version"}
_BESIDE |= {"_name_or_path", "image_size", "downsampling_rates", "output_hidden_states", "return_dict", "use_cache"}
_PICTURE_KEYS = {"do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean"}
_PICTURE_KEYS |= {"image_std", "do_reduce_labels", "reduce_labels", "image_processor_type", "feature_extractor_type"}
_PICTURE_BESIDE = {"processor_class", "do_convert_rgb", "data_format", "default_to_square", "return_tensors", "device"}
_MUST_BE_OFF = ("do_center_crop", "crop_size", "do_pad", "pad_size", "size_divisor", "input_data_format")
_PUBLISHED = (
    (r"encoder\.patch_embeddings\.(\d+)\.", r"stages.\1.patch_embeddings."),
    (r"encoder\.block\.(\d+)\.", r"stages.\1.blocks."),
    (r"encoder\.layer_norm\.(\d+)\.", r"stages.\1.layer_norm."),
    (r"attention\.self\.query\.", "attention.q_proj."),
    (r"attention\.self\.key\.", "attention.k_proj."),
    (r"attention\.self\.value\.", "attention.v_proj."),
    (r"attention\.self\.sr\.", "attention.sequence_reduction.sequence_reduction."),
    (r"attention\.self\.layer_norm\.", "attention.sequence_reduction.layer_norm."),
    (r"attention\.output\.dense\.", "attention.o_proj."),
    (r"mlp\.dense1\.", "mlp.fc1."),
    (r"mlp\.dense2\.", "mlp.fc2."),
    (r"layer_norm_1\.", "layernorm_before."),
    (r"layer_norm_2\.", "layernorm_after."),
    (r"decode_head\.linear_c\.", "decode_head.linear_projections."),
)
"""Names in files, which are those of transformers before 5, and the modules of today that they mean."""


@dataclass(frozen=True)
class PictureRule:
    """Steps that bring a picture to the network.

    Attributes:
        size: rows and columns that it is resized to, bilinear with antialiasing; None: not resized.
        scale: that bytes are multiplied by.
        mean: of R, G and B, subtracted after that.
        std: of R, G and B, divided by.
        reduced: whether class n stands for the value n + 1 of the masks that it was trained on.
    """

    size: tuple[int, int] | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reduced: bool


@dataclass(frozen=True)
class SegformerPlan:
    """Network, classes and preparation that a folder describes.

    Attributes:
        settings: of the architecture, as `seglens.segmenters.segformer.segformer` takes them.
        classes: names in the order of the outputs.
        picture: what is done before.
    """

    settings: dict[str, Any]
    classes: tuple[str, ...]
    picture: PictureRule


def is_transformers_folder(folder: Path) -> bool:
    """Whether a folder looks like one of transformers: ``config.json`` beside weights or a preprocessor."""
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in (WEIGHTS, PREPROCESSOR))


def read_segformer(folder: Path) -> SegformerPlan:
    """Read the two JSON files of a SegFormer's folder; nothing is run or imported.

    Raises:
        FieldError: a key that is not known, or a value that cannot be used, with what is legal and what to do.
    """
    config = Field.of(folder / CONFIG, _NETWORK_FIX)
    if "auto_map" in config:
        config["auto_map"].refuse("no such key: it names code, which is never run")
    for key, legal in _FIXED.items():
        given = config.get(key)
        if given is not None and (given.value != legal or isinstance(given.value, bool) != isinstance(legal, bool)):
            given.refuse(str(legal))
    config["model_type"].text()
    _refuse_unknown(config, {*_LISTS, *_FIXED, *_OF_TRAINING, *_BESIDE})
    settings: dict[str, Any] = {}
    for key, (usual, most) in _LISTS.items():
        listed = config.get(key)
        settings[key] = list(usual if listed is None else listed.wholes(_STAGES, 1, most))
    decoder = config.get("decoder_hidden_size")
    settings["decoder_hidden_size"] = 256 if decoder is None else decoder.whole(1, MAX_WIDTH)
    for width, heads in zip(settings["hidden_sizes"], settings["num_attention_heads"], strict=True):
        if width % heads:
            raise FieldError(
                f"{config.file}: hidden_sizes has {width}, which the {heads} of num_attention_heads do not divide; "
                f"legal: multiples of it; {_NETWORK_FIX}"
            )
    return SegformerPlan(
        settings, _classes(config["id2label"]), _picture(Field.of(folder / PREPROCESSOR, _PICTURE_FIX))
    )


def module_names(names: Iterable[str]) -> dict[str, str]:
    """Name of a tensor in a SegFormer's file to its name in the network of transformers 5.

    Raises:
        FieldError: two names that mean one tensor.
    """
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        own = name
        for pattern, module in _PUBLISHED:
            own = re.sub(pattern, module, own)
        if own in taken:
            raise FieldError(f"the weights {taken[own][:80]} and {name[:80]} are one tensor of the network; keep one")
        taken[own] = name
        found[name] = own
    return found


def _classes(field: Field) -> tuple[str, ...]:
    entries = field.entries()
    if not 2 <= len(entries) <= MAX_CLASSES or set(entries) != {str(number) for number in range(len(entries))}:
        field.refuse(f"the names of 2 to {MAX_CLASSES} classes by the keys '0', '1', ... without a gap")
    return tuple(entries[str(number)].text() for number in range(len(entries)))


def _picture(field: Field) -> PictureRule:
    _refuse_unknown(field, {*_PICTURE_KEYS, *_PICTURE_BESIDE, *_MUST_BE_OFF})
    for key in ("image_processor_type", "feature_extractor_type"):
        kind = field.get(key)
        if kind is not None:
            kind.one_of(_KINDS)
    for key in _MUST_BE_OFF:
        step = field.get(key)
        if step is not None and step.value is not False:
            step.refuse("false, null or no such key")
    square = field.get("default_to_square")
    if square is not None and square.value is not True:
        square.refuse("true or no such key: else a size of one number is that of the shorter side")
    resample = field.get("resample")
    if resample is not None:
        resample.whole(2, 2)  # PIL's number of bilinear
    scaled, normalised = (_truth(field, key, True) for key in ("do_rescale", "do_normalize"))
    factor = field.get("rescale_factor")
    scale = 1 / 255 if factor is None else factor.number(1e-6, 1e3)
    reduced = _truth(field, "do_reduce_labels", _truth(field, "reduce_labels", False))
    return PictureRule(
        _size(field) if _truth(field, "do_resize", True) else None,
        scale if scaled else 1.0,
        tuple(one.number(-1e6, 1e6) for one in field["image_mean"].items(3)) if normalised else (0.0,) * 3,
        tuple(one.number(1e-6, 1e6) for one in field["image_std"].items(3)) if normalised else (1.0,) * 3,
        reduced,
    )


def _size(field: Field) -> tuple[int, int]:
    size = field["size"]
    if not isinstance(size.value, dict):
        side = size.whole(32, MAX_SIDE)
        return side, side
    if set(size.value) != {"height", "width"}:
        size.refuse("a whole number, or an object of height and width")
    return size["height"].whole(32, MAX_SIDE), size["width"].whole(32, MAX_SIDE)


def _truth(field: Field, key: str, usual: bool) -> bool:
    given = field.get(key)
    return usual if given is None else given.truth()


def _refuse_unknown(field: Field, known: set[str]) -> None:
    for key, entry in field.entries().items():
        if key not in known:
            entry.refuse(f"only known keys; {key[:80]!r} is none, and may change what the network does")
