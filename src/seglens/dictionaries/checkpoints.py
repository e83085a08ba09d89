"""A fit on disk, half done: one file that is replaced whole."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from seglens.artifacts import differences
from seglens.dictionaries.gradients import Weights
from seglens.foreign.tensors import check_safetensors
from seglens.runtime.atomic import whole_file
from seglens.runtime.resources import require_disk


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
    groups = {"weights": state.weights, "first": state.first_moments, "second": state.second_moments}
    tensors = {f"{group}.{name}": tensor for group, part in groups.items() for name, tensor in part._asdict().items()}
    tensors["unseen"] = state.unseen
    place = {"step": state.step, "epoch": state.epoch, "batch": state.batch, "threshold": state.threshold}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    require_disk(file, sum(tensor.numel() * tensor.element_size() for tensor in contiguous.values()), file.name)
    with whole_file(file) as partial:
        save_file(contiguous, partial, {"identity": identity, "place": json.dumps(place)})


def read_checkpoint(file: Path, identity: str, device: torch.device | str = "cpu") -> FitState:
    """Read a state back.

    Raises:
        ValueError: it belongs to a fit with other settings, seeds or data (the message says which), or it is damaged.
    """
    check_safetensors(file)
    with safe_open(file, framework="pt", device=str(device)) as opened:
        metadata = opened.metadata()
        if metadata["identity"] != identity:
            changed = differences(json.loads(metadata["identity"]), json.loads(identity))
            raise ValueError(
                f"{file} is the checkpoint of another fit: {', '.join(changed)}; give another folder or remove it"
            )
        place = json.loads(metadata["place"])
        weights, first, second = (
            Weights(*(opened.get_tensor(f"{group}.{name}") for name in Weights._fields))
            for group in ("weights", "first", "second")
        )
        unseen = opened.get_tensor("unseen")
    return FitState(weights, first, second, unseen, place["step"], place["epoch"], place["batch"], place["threshold"])
