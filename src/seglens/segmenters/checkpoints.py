"""The state of a training run on disk: written whole, and read only by the same run."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from seglens.artifacts import canonical_json, differences, new_artifact, read_artifact

KIND = "training-checkpoint"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Checkpoint:
    """All that the next step depends on; random numbers follow from the seed and the step's number.

    Attributes:
        step: steps done.
        weights: the network's state.
        moments: AdamW's state, named by parameter and moment.
        history: a row a step done: step, loss, rate.
    """

    step: int
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    history: list[dict[str, Any]]

    @classmethod
    def of(
        cls, network: nn.Module, optimiser: torch.optim.Optimizer, step: int, history: list[dict[str, Any]]
    ) -> "Checkpoint":
        """The present state."""
        moments = {
            f"{name}|{moment}": optimiser.state[parameter][moment]
            for name, parameter in network.named_parameters()
            for moment in MOMENTS
            if moment in optimiser.state.get(parameter, {})
        }
        return cls(
            step, {name: value.to("cpu", copy=True) for name, value in network.state_dict().items()}, moments, history
        )

    def restore(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Put the state back into a network and an optimiser of the same run."""
        network.load_state_dict(dict(self.weights))
        for name, parameter in network.named_parameters():
            moments = {
                moment: self.moments[f"{name}|{moment}"] for moment in MOMENTS if f"{name}|{moment}" in self.moments
            }
            if moments:
                # clones: what was read is mapped from a file that the next checkpoint removes
                optimiser.state[parameter] = {key: value.to(parameter.device).clone() for key, value in moments.items()}


def save_checkpoint(folder: Path, state: Checkpoint, run: Mapping[str, Any]) -> None:
    """Write ``step_<n>`` into ``folder``, then remove the older ones: there is a whole one at any moment."""
    path = folder / f"step_{state.step:07d}"
    with new_artifact(path, kind=KIND, inputs=run) as draft:
        draft.save_tensors("model", state.weights)
        draft.save_tensors("optimiser", state.moments)
        draft.save_table("history", pl.DataFrame(state.history))
    for older in _finished(folder)[:-1]:
        shutil.rmtree(older)


def newest_checkpoint(folder: Path, run: Mapping[str, Any]) -> Checkpoint | None:
    """The newest checkpoint of this run; None where there is none yet.

    Raises:
        ValueError: the folder belongs to another run; the differences are listed.
    """
    finished = _finished(folder)
    if not finished:
        return None
    artifact = read_artifact(finished[-1], KIND, verify=True)
    # through JSON, as the manifest went: tuples become lists
    changed = differences(artifact.inputs, json.loads(canonical_json(run)))
    if changed:
        raise ValueError(
            f"{folder} holds checkpoints of another run: {'; '.join(changed)}. Give another folder or remove it"
        )
    step = int(finished[-1].name.removeprefix("step_"))
    history = artifact.table("history").to_dicts()
    return Checkpoint(step, artifact.tensors("model"), artifact.tensors("optimiser"), history)


def _finished(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*") if path.is_dir())
