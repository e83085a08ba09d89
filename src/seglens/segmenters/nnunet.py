"""nnU-Net v2 results folders, opened as they are: plans, checkpoints, folds. Nothing in them is run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seglens.artifacts import hash_of
from seglens.cohorts.label_names import BACKGROUND, FOREGROUND, spoken
from seglens.cohorts.sequences import canonical_sequence
from seglens.documents import to_document
from seglens.foreign.plan_network import NetworkPlan
from seglens.foreign.plans import PLANS, ModelPlan, configurations, read_plan
from seglens.foreign.tensors import WeightsError, read_checkpoint
from seglens.runtime.streams import printable
from seglens.segmenters.architectures import architecture_named
from seglens.segmenters.decision import Decision
from seglens.segmenters.nnunet_network import NnunetNetwork, hookpoints_of, last_stage
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.weights import fit_weights
from seglens.shapes import Extent

CHECKPOINT = "checkpoint_final.pth"
MAX_TRAINER = 200
"""Characters of a trainer's name."""
_WANTED = {
    "trainer": ("trainer_name",),
    "configuration": ("init_args", "configuration"),
    "mirrors": ("inference_allowed_mirroring_axes",),
}
_HEAD = re.compile(r"decoder\.seg_layers\.(\d{1,2})\.")
"""Of a stage of the decoder; deep supervision trains one each, and only the finest says anything later."""
_WITHOUT_DROPOUT = re.compile(r"\.(?:conv2|skip\.\d)\.all_modules\.")
"""Of a residual block: there is a dropout in its first convolution only."""
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")


@dataclass(frozen=True)
class OpenedFolder:
    """A results folder with its networks.

    Attributes:
        folder: named TRAINER__PLANS__CONFIGURATION.
        plan: of its configuration.
        folds: name of a fold, such as ``"0"`` or ``"all"``, to its network.
        mirror_axes: of space, of 0, 1 and 2, that a window is turned round along.
        trainer: name of nnU-Net's class that trained it; "" where no checkpoint says it.
    """

    folder: Path
    plan: ModelPlan
    folds: Mapping[str, Segmenter]
    mirror_axes: tuple[int, ...]
    trainer: str


def results_folders(path: Path) -> list[Path]:
    """Folders of trained configurations: itself, or those in a data set's folder.

    Raises:
        ValueError: no such folder.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; give nnU-Net's results folder, TRAINER__PLANS__CONFIGURATION")
    inside = sorted(one for one in path.iterdir() if one.name.count("__") == 2 and (one / PLANS).is_file())
    return [path] if (path / PLANS).is_file() or not inside else inside


def open_folder(path: Path, folds: Sequence[str] | None = None, *, checkpoint: str = CHECKPOINT) -> OpenedFolder:
    """Open a results folder.

    Args:
        path: of a configuration, or of a data set with one of them.
        folds: such as ``["0"]`` or ``["all"]``; None: every numbered fold that has the checkpoint, or else ``all``.
        checkpoint: the file's name in a fold's folder.

    Raises:
        ValueError: a folder, plans or checkpoint that cannot be used, folds that do not belong together, or weights
            that do not fit the plans.
    """
    inside = results_folders(path)
    if len(inside) > 1:
        raise ValueError(f"{path} holds {', '.join(one.name for one in inside[:10])}; give the path of one of them")
    (folder,) = inside
    configurations(folder)  # another kind of folder is told by its plans
    present = _folds(folder, checkpoint)
    chosen = list(dict.fromkeys(folds)) if folds is not None else [one for one in present if one != "all"] or present
    absent = [one for one in chosen if one not in present]
    if absent or not chosen:
        there = f"folds {', '.join(present)}" if present else "no fold"
        raise ValueError(
            f"{folder}: fold {', '.join(absent) or '0'} has no {checkpoint}; there are {there}: name one of them, or "
            "another checkpoint"
        )
    read = {one: read_checkpoint(folder / f"fold_{one}" / checkpoint, _WANTED) for one in chosen}
    trainers = {_trainer(folder, beside) for _, beside in read.values()}
    names = {_configuration(folder, beside) for _, beside in read.values()}
    if len(names) > 1 or len(trainers) > 1:
        listed = printable(", ".join(name[:200] for name in sorted(names | trainers)))
        raise ValueError(f"{folder}: its folds are of several configurations or trainers ({listed}); open one fold")
    (trainer,) = trainers
    plan = read_plan(folder, names.pop())
    mirrored = [_mirror_axes(folder, beside.get("mirrors"), plan.network.spatial_dims) for _, beside in read.values()]
    shown = printable(trainer) or "not named"
    networks = {
        one: _segmenter(plan, weights, f"{folder / f'fold_{one}' / checkpoint} (trainer {shown})")
        for one, (weights, _) in read.items()
    }
    return OpenedFolder(folder, plan, networks, mirrored[0], trainer)


def _folds(folder: Path, checkpoint: str) -> list[str]:
    found = [one.name.removeprefix("fold_") for one in folder.glob("fold_*") if (one / checkpoint).is_file()]
    return sorted((one for one in found if one == "all" or (one.isascii() and one.isdecimal())), key=_fold_order)


def _fold_order(fold: str) -> tuple[bool, int]:
    return (True, 0) if fold == "all" else (False, int(fold[:6]))


def _configuration(folder: Path, beside: Mapping[str, Any]) -> str:
    """As the checkpoint says, or the folder's name."""
    name = beside.get("configuration", folder.resolve().name.rpartition("__")[2])
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{folder}: init_args.configuration in its checkpoint is {type(name).__name__}; legal: a text; take the "
            "checkpoint as nnU-Net v2 wrote it"
        )
    return name


def _trainer(folder: Path, beside: Mapping[str, Any]) -> str:
    """As the checkpoint says; "" where it does not."""
    name = beside.get("trainer", "")
    if not isinstance(name, str) or len(name) > MAX_TRAINER:
        got = f"a text of {len(name)} characters" if isinstance(name, str) else type(name).__name__
        raise ValueError(
            f"{folder}: trainer_name in its checkpoint is {got}; legal: a text of at most {MAX_TRAINER} characters; "
            "take the checkpoint as nnU-Net v2 wrote it"
        )
    return name


def _mirror_axes(folder: Path, axes: Any, spatial_dims: int) -> tuple[int, ...]:
    """Axes of space, three whatever the network; those of a network of planes are its rows and columns."""
    given = () if axes is None else axes
    plain = isinstance(given, tuple | list) and all(type(axis) is int and 0 <= axis < spatial_dims for axis in given)
    if not plain or len(set(given)) != len(given):
        raise ValueError(
            f"{folder}: inference_allowed_mirroring_axes in its checkpoint is {str(axes)[:40]}; legal: different axes "
            f"of 0 to {spatial_dims - 1}, or none; take the checkpoint as nnU-Net v2 wrote it"
        )
    return tuple(axis + 3 - spatial_dims for axis in given)


def _segmenter(plan: ModelPlan, weights: Mapping[str, Tensor], origin: str) -> Segmenter:
    """The network with its weights, each tensor once, and what it says of itself."""
    own = each_once(weights, plan.network, origin)
    last = last_stage(plan.network)
    own = {name: tensor for name, tensor in own.items() if not (found := _HEAD.match(name)) or int(found[1]) >= last}
    n_channels, n_heads = len(plan.channels), len(plan.heads)
    with torch.device("meta"):  # no memory before the sizes are known to be those of the file
        network = NnunetNetwork(plan.network, n_channels, n_heads)
    fit_weights(network, own, origin, assign=True)
    labels = labels_of(plan)
    size: int | Extent = (1, *plan.patch) if len(plan.patch) == 2 else plan.patch  # type: ignore[assignment]
    settings = {"plan": to_document(plan.network), "n_heads": n_heads}
    return Segmenter(
        network.eval(),
        architecture_named("nnunet").describe(n_channels, len(labels), settings),
        sequences_of(plan),
        labels,
        hookpoints_of(plan.network),
        size,
        decision=decision_of(plan),
        identity=hash_of(to_document(plan)),
    )


def each_once(weights: Mapping[str, Tensor], plan: NetworkPlan, origin: str) -> dict[str, Tensor]:
    """Weights as float32, each under one name: nnU-Net's modules have two or three ways to most of them.

    Args:
        weights: as a checkpoint has them.
        plan: of the network.
        origin: what they are called in a message.

    Raises:
        WeightsError: two names of one tensor with different values.
    """
    found: dict[str, Tensor] = {}
    first: dict[str, str] = {}
    for name, tensor in weights.items():
        bare = _WRAPPERS.sub("", name)
        direct = bare.removeprefix("decoder.") if bare.startswith("decoder.encoder.") else bare
        norm = 2 if plan.dropout and not _WITHOUT_DROPOUT.search(direct) else 1
        own = direct.replace(".all_modules.0.", ".conv.").replace(f".all_modules.{norm}.", ".norm.")
        if own not in found:
            found[own], first[own] = tensor.float() if tensor.is_floating_point() else tensor, name
            continue
        other = weights[first[own]]
        shared = other.data_ptr() == tensor.data_ptr() and other.shape == tensor.shape
        if not shared and not torch.equal(other, tensor):
            raise WeightsError(
                f"{origin}: {first[own]} and {name} are two names of one tensor of nnU-Net and have different values; "
                "take the checkpoint as nnU-Net wrote it"
            )
    return found


def sequences_of(plan: ModelPlan) -> tuple[str, ...]:
    """The channels by the names that cohorts give them, each different."""
    names = [canonical_sequence(name) for name in plan.channels]
    return tuple(name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names))


def labels_of(plan: ModelPlan) -> dict[int, str]:
    """Labels numbered from 0, the background: classes by value, or regions in the order of the network's outputs."""
    names = plan.heads if plan.class_order is None else (BACKGROUND, *plan.heads)
    return {
        number: f"{name}_{number}" if number and spoken(name) in (FOREGROUND, BACKGROUND) else name
        for number, name in enumerate(names)
    }


def decision_of(plan: ModelPlan) -> Decision:
    """Classes, or regions with the labels whose written values belong to each."""
    if plan.class_order is None:
        return Decision()
    written = {label: value for label, value in codes_of(plan).items() if label}
    members = tuple(
        tuple(label for label, value in written.items() if value in plan.labels[name]) for name in plan.heads
    )
    return Decision(True, (), members)


def codes_of(plan: ModelPlan) -> dict[int, int]:
    """Label to the value that nnU-Net writes for it."""
    if plan.class_order is None:
        return {number: number for number in range(len(plan.heads))}
    return {0: 0, **{number + 1: value for number, value in enumerate(plan.class_order)}}
