"""A fit on disk, half done: one file that is replaced whole."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from seglens.dictionaries.gradients import Weights


@dataclass(frozen=True)
class FitState:
    """Everything that the next step of a fit depends on.

    Attributes:
        weights: what is trained.
        first_moments: Adam's running means.
        second_moments: Adam's running mean squares.
        unseen: tokens seen since each latent fired.
        step: steps done.
        epoch: which pass over the data.
        batch: batches of that pass already used.
        threshold: BatchTopK's last threshold.
    """

    weights: Weights
    first_moments: Weights
    second_moments: Weights
    unseen: Tensor
    step: int
    epoch: int
    batch: int
    threshold: float | None


def write_checkpoint(file: Path, state: FitState, identity: str) -> None:
    """Replace ``file`` by this state in one step.

    Args:
        file: its place; the folder is made.
        state: what to keep.
        identity: canonical JSON of what the fit was started with.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    groups = {"weights": state.weights, "first": state.first_moments, "second": state.second_moments}
    tensors = {f"{group}.{name}": tensor for group, part in groups.items() for name, tensor in part._asdict().items()}
    tensors["unseen"] = state.unseen
    place = {"step": state.step, "epoch": state.epoch, "batch": state.batch, "threshold": state.threshold}
    partial = file.with_name(f".{file.name}.partial")
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        partial,
        {"identity": identity, "place": json.dumps(place)},
    )
    handle = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    partial.rename(file)


def read_checkpoint(file: Path, identity: str, device: torch.device | str = "cpu") -> FitState:
    """Read a state back.

    Raises:
        ValueError: it belongs to a fit with other settings, seeds or data; the message says which.
    """
    with safe_open(file, framework="pt", device=str(device)) as opened:
        metadata = opened.metadata()
        if metadata["identity"] != identity:
            differences = _differences(json.loads(metadata["identity"]), json.loads(identity))
            raise ValueError(
                f"{file} is the checkpoint of another fit: {differences}; give another folder or remove it"
            )
        place = json.loads(metadata["place"])
        weights, first, second = (
            Weights(*(opened.get_tensor(f"{group}.{name}") for name in Weights._fields))
            for group in ("weights", "first", "second")
        )
        unseen = opened.get_tensor("unseen")
    return FitState(weights, first, second, unseen, place["step"], place["epoch"], place["batch"], place["threshold"])


def _differences(there: Any, here: Any, name: str = "") -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        parts = [
            _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
            for key in sorted(there.keys() | here.keys())
        ]
        return ", ".join(part for part in parts if part)
    return "" if there == here else f"{name} was {there!r} and is now {here!r}"
