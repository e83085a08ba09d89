"""Pretrained encoders: from a local folder, or from a pinned revision of the model hub."""

import re
from pathlib import Path

from torch import Tensor

from seglens.foreign.tensors import check_safetensors, refuse_non_finite

FILES = ("config.json", "*.safetensors", "pytorch_model.bin")
_PINNED = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")


def refuse_unpinned(name: str) -> None:
    """Refuse a model of the hub without its commit: what a branch means changes from one day to the next.

    Args:
        name: a local folder, or ``owner/model@commit``.

    Raises:
        ValueError: it is neither.
    """
    if not name or not (Path(name).is_dir() or _PINNED.fullmatch(name)):
        raise ValueError(
            f"pretrained {name!r} is neither a folder nor a model of the hub with its commit, such as "
            "nvidia/mit-b0@<40 hexadecimal digits>; the model's page lists its commits under 'Files'"
        )


def encoder_weights(name: str) -> dict[str, Tensor]:
    """The weights of a SegFormer encoder.

    What the hub's cache holds is taken from there, without a word to the hub; only what is missing is downloaded. No
    code of the model is run: safetensors are checked first, a ``.bin`` is read as plain weights.

    Args:
        name: a local folder, or ``owner/model@commit``.

    Raises:
        ValueError: neither of them, not in the cache while the hub does not answer, or no sound SegFormer.
    """
    refuse_unpinned(name)
    if Path(name).is_dir():
        return _read(Path(name), name)
    from huggingface_hub import snapshot_download

    pinned = _PINNED.fullmatch(name)
    assert pinned is not None
    for cached in (True, False):
        try:
            folder = snapshot_download(
                pinned["name"], revision=pinned["revision"], allow_patterns=list(FILES), local_files_only=cached
            )
            return _read(Path(folder), name)
        except Exception as error:  # not cached, or cached in part; below: whatever a network can raise
            if not cached:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise ValueError(
                    f"pretrained {name!r} is not whole in the hub's cache, and the hub did not give it ({reason}); "
                    f"where there is a network: hf download {pinned['name']} --revision {pinned['revision']}"
                ) from None
    raise AssertionError("the loop above returns or raises")


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    from transformers.models.segformer.modeling_segformer import SegformerModel

    for file in folder.glob("*.safetensors"):
        check_safetensors(file)
    try:
        model, found = SegformerModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: tensors of other sizes than its config.json says
        raise ValueError(f"pretrained {name!r}: {str(error).splitlines()[0]}") from None
    # transformers draws at random what the file does not have, and only says so on the screen
    absent = sorted({str(key) for kind in ("missing_keys", "mismatched_keys") for key in found.get(kind, ())})
    if absent:
        shown = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
        raise ValueError(f"pretrained {name!r} is no whole SegFormer encoder: {shown} are not in it; give one that is")
    weights: dict[str, Tensor] = dict(model.state_dict())
    refuse_non_finite(weights, name)
    return weights
