"""SegFormer B0 to B5 and U-Net, from a description that is saved with the weights."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from seglens.segmenters.pretrained import encoder_weights
from seglens.segmenters.segmenter import Hookpoint, Segmenter, fit_weights

# Table 6 of the SegFormer paper (arXiv 2105.15203)
_WIDE = (64, 128, 320, 512)
SEGFORMERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "segformer-b0": {"hidden_sizes": (32, 64, 160, 256), "depths": (2, 2, 2, 2), "decoder_hidden_size": 256},
        "segformer-b1": {"hidden_sizes": _WIDE, "depths": (2, 2, 2, 2), "decoder_hidden_size": 256},
        "segformer-b2": {"hidden_sizes": _WIDE, "depths": (3, 4, 6, 3), "decoder_hidden_size": 768},
        "segformer-b3": {"hidden_sizes": _WIDE, "depths": (3, 4, 18, 3), "decoder_hidden_size": 768},
        "segformer-b4": {"hidden_sizes": _WIDE, "depths": (3, 8, 27, 3), "decoder_hidden_size": 768},
        "segformer-b5": {"hidden_sizes": _WIDE, "depths": (3, 6, 40, 3), "decoder_hidden_size": 768},
    }
)
SEGFORMER_SETTINGS = (
    "hidden_sizes",
    "depths",
    "decoder_hidden_size",
    "num_attention_heads",
    "sr_ratios",
    "mlp_ratios",
    "drop_path_rate",
    "classifier_dropout_prob",
)
UNET: Mapping[str, Any] = MappingProxyType({"features": (16, 16, 32, 64, 128, 16), "dropout": 0.0})
ARCHITECTURES = (*SEGFORMERS, "unet")


def build_segmenter(
    architecture: str = "segformer-b0",
    *,
    sequences: Sequence[str],
    labels: Mapping[int, str],
    size: int,
    seed: int = 0,
    pretrained: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Segmenter:
    """A segmenter with random weights (or a pretrained encoder), in evaluation mode.

    Args:
        architecture: ``"segformer-b0"`` to ``"segformer-b5"`` (arXiv 2105.15203), or ``"unet"`` (MONAI's BasicUNet).
        sequences: names of the input channels.
        labels: label value (0..K-1) to class name.
        size: side of the slices, pixels: a multiple of 32 for SegFormer, of 16 for U-Net.
        seed: of the random weights; the global generator is left alone.
        pretrained: a local folder of a SegFormer, or a model of the hub and its commit, ``"nvidia/mit-b0@<commit>"``,
            which is downloaded where the hub's cache does not have it. Its encoder is taken over; the first convolution
            is spread over the sequences, and the head stays random.
        settings: parts of the architecture to change. SegFormer: hidden_sizes, depths, decoder_hidden_size,
            num_attention_heads, sr_ratios, mlp_ratios, drop_path_rate, classifier_dropout_prob. U-Net: features (six
            widths), dropout.

    Raises:
        ValueError: unknown architecture or setting, a size that the network cannot take, or pretrained weights that
            cannot be had.

    Example:
        >>> segmenter = build_segmenter(  # doctest: +SKIP
        ...     "segformer-b0", sequences=("T1c",), labels={0: "background", 1: "tumour"}, size=128
        ... )
        >>> list(segmenter.hookpoints)  # doctest: +SKIP
        ['stage1', 'stage2', 'stage3', 'stage4']
    """
    description = describe_architecture(architecture, len(sequences), len(labels), settings)
    factor = 16 if architecture == "unet" else 32
    if size < factor or size % factor:
        raise ValueError(f"size {size}: {architecture} needs a multiple of {factor}, such as 128 or 256")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = build_network(description)
    if pretrained is not None:
        _take_over_encoder(network, architecture, pretrained)
    return Segmenter(network.eval(), description, tuple(sequences), dict(labels), hookpoints_of(description), size)


def describe_architecture(
    architecture: str, n_sequences: int, n_classes: int, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All that :func:`build_network` needs, JSON-able.

    Raises:
        ValueError: unknown architecture or setting.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    settings = dict(settings or {})
    legal = tuple(UNET) if architecture == "unet" else SEGFORMER_SETTINGS
    unknown = sorted(set(settings) - set(legal))
    if unknown:
        raise ValueError(f"{architecture} has no settings {', '.join(unknown)}; it has {', '.join(legal)}")
    base = UNET if architecture == "unet" else SEGFORMERS[architecture]
    chosen = {
        name: list(value) if isinstance(value, Sequence) else value for name, value in {**base, **settings}.items()
    }
    return {"name": architecture, "n_sequences": n_sequences, "n_classes": n_classes, "settings": chosen}


def build_network(architecture: Mapping[str, Any]) -> nn.Module:
    """The module of a description of :func:`describe_architecture`; its weights come from the global generator."""
    settings = architecture["settings"]
    if architecture["name"] == "unet":
        from seglens.segmenters.unet import unet

        return unet(architecture["n_sequences"], architecture["n_classes"], settings)
    from seglens.segmenters.segformer import segformer

    return segformer(architecture["n_sequences"], architecture["n_classes"], settings)


def hookpoints_of(architecture: Mapping[str, Any]) -> dict[str, Hookpoint]:
    """The places that are opened: SegFormer's four stages, U-Net's five encoder and four decoder levels."""
    if architecture["name"] != "unet":
        stages = range(len(architecture["settings"]["hidden_sizes"]))
        return {f"stage{stage + 1}": Hookpoint(f"segformer.stages.{stage}") for stage in stages}
    encoder = {"encoder0": Hookpoint("conv_0")} | {f"encoder{n}": Hookpoint(f"down_{n}") for n in range(1, 5)}
    return encoder | {f"decoder{n}": Hookpoint(f"upcat_{n}") for n in range(4, 0, -1)}


def _take_over_encoder(network: nn.Module, architecture: str, name: str) -> None:
    if architecture == "unet":
        raise ValueError("pretrained weights are taken from a SegFormer; build the U-Net without pretrained")
    foreign = encoder_weights(name)
    first = "stages.0.patch_embeddings.proj.weight"
    encoder = network.get_submodule("segformer")
    own = encoder.state_dict()
    if first in foreign:
        # the mean over the photograph's colours, shared by the sequences, keeps the size of what comes out
        n_colours, n_sequences = foreign[first].shape[1], own[first].shape[1]
        mean = foreign[first].mean(1, keepdim=True)
        foreign[first] = (mean * (n_colours / n_sequences)).expand(-1, n_sequences, -1, -1).clone()
    fit_weights(encoder, foreign, name)


def start_from(target: Segmenter, source: Segmenter) -> list[str]:
    """Copy every tensor of ``source`` whose name and shape fit into ``target``'s network.

    Returns:
        The names of ``target``'s tensors that did not fit and keep their own (random) values; with other classes
        the last layer.

    Raises:
        ValueError: nothing fits: another architecture.
    """
    own, foreign = target.network.state_dict(), source.network.state_dict()
    fitting = {name: foreign[name] for name in own if name in foreign and foreign[name].shape == own[name].shape}
    if not fitting:
        raise ValueError("init_from has no tensor that fits this architecture; train the same architecture on both")
    target.network.load_state_dict({**own, **{name: value.to(own[name].device) for name, value in fitting.items()}})
    return [name for name in own if name not in fitting]
