"""One training loop for every segmenter: Dice + cross-entropy, exact resume, one device or several processes."""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seglens.artifacts import hash_of, locked
from seglens.cohorts.augmentation import augment
from seglens.cohorts.slices import SliceSet
from seglens.runtime.devices import fast_bf16
from seglens.runtime.distributed import barrier, broadcast_from_main, rank_and_size, sum_over_ranks
from seglens.runtime.progress import Progress, silent
from seglens.runtime.resources import require_disk
from seglens.runtime.signals import asked_to_stop, by_steps, stop_if_asked
from seglens.segmenters.architectures import architecture_named, build_segmenter, start_from
from seglens.segmenters.batch_norm import pooled_batch_norm
from seglens.segmenters.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from seglens.segmenters.gradient import LossGradient
from seglens.segmenters.segmenter import Segmenter, raw_logits
from seglens.shapes import Extent, Images, Masks

Augmentation = Callable[[Images, Masks, torch.Generator], tuple[Images, Masks]]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """How a segmenter is trained.

    Attributes:
        steps: optimiser steps.
        batch_size: slices a step, over all processes together.
        learning_rate: peak, reached after the warm-up; falls to 0 on a half cosine.
        encoder_learning_rate: peak for the encoder alone, where the architecture names one; None: ``learning_rate``.
        weight_decay: of AdamW, on matrices and convolutions only.
        warmup_share: share (0..1) of the steps in which the rate rises linearly.
        clip: largest norm of the gradient.
        precision: ``"bf16"`` (autocast), ``"fp32"``, or ``"auto"``: bf16 where the device computes it fast (CUDA with
            bfloat16, a CPU with AMX tiles).
        checkpoint_every: steps between two checkpoints.
        architecture_settings: see :func:`seglens.segmenters.architectures.build_segmenter`.
    """

    steps: int = 350
    batch_size: int = 16
    learning_rate: float = 1e-3
    encoder_learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    clip: float = 1.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpoint_every: int = 100
    architecture_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value}; it must be {legal}"
            for name, value, legal, good in (
                ("steps", self.steps, "at least 1", self.steps >= 1),
                ("batch_size", self.batch_size, "at least 1", self.batch_size >= 1),
                ("learning_rate", self.learning_rate, "above 0", self.learning_rate > 0),
                ("encoder_learning_rate", self.encoder_learning_rate, "above 0", (self.encoder_learning_rate or 1) > 0),
                ("weight_decay", self.weight_decay, "at least 0", self.weight_decay >= 0),
                ("warmup_share", self.warmup_share, "0 or more, below 1", 0 <= self.warmup_share < 1),
                ("clip", self.clip, "above 0", self.clip > 0),
                ("checkpoint_every", self.checkpoint_every, "at least 1", self.checkpoint_every >= 1),
            )
            if not good
        ]
        if faults:
            raise ValueError("; ".join(faults))


def train_segmenter(
    slices: SliceSet,
    *,
    architecture: str = "segformer-b0",
    init_from: Segmenter | None = None,
    settings: TrainingSettings | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    augmentation: Augmentation | None = augment,
    progress: Progress = silent,
) -> Segmenter:
    """Train on exactly these slices; the same seed gives the same weights, bit for bit, on a CPU.

    Every step draws its slices, its augmentation and its dropout from the seed and the step's number alone. So a run
    that is stopped and resumed ends in the same weights as one that was not, and the global generator is left alone.

    In a torch.distributed group each process takes its share of every batch. Dice and batch norms are pooled over the
    whole batch and gradients summed, so the result is that of one process but for rounding, and for dropout, which each
    process draws for itself. A run that was stopped goes on with another number of processes.

    Where the device has no memory for a batch, this and all later ones are done in two halves, with the same result but
    for rounding, dropout and batch norms (see :class:`seglens.segmenters.gradient.LossGradient`).

    Args:
        slices: with masks; their sequences, labels and preprocessing become the segmenter's.
        architecture: see :func:`seglens.segmenters.architectures.build_segmenter`; not used with ``init_from``.
        init_from: start from its weights, in its architecture. With other classes or sequences, the layers that do not
            fit start at random; which ones is logged and kept in the checkpoints.
        settings: None: the defaults of TrainingSettings.
        seed: of the random weights, the order, the augmentation and the dropout.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; of several processes each takes its own of that kind.
        checkpoint: folder for the checkpoints; where it holds some of the same run, training goes on from the newest.
            ``history.parquet`` in a checkpoint has the loss and rate of every step.
        augmentation: from images and masks to changed ones; None: none. The default one is for slices.
        progress: told after each step, with loss and rate.

    Returns:
        The trained segmenter on ``device``, in evaluation mode.

    Raises:
        ValueError: no slices, a checkpoint of another run (the differences are listed), or (NotEnoughMemoryError) a
            device that has no memory for half a batch.
        FloatingPointError: the loss or its gradient became NaN or infinite; the last good state is kept and named.
    """
    settings = settings or TrainingSettings()
    if len(slices) == 0:
        raise ValueError(f"{slices.name!r} has no slices; nothing to train on")
    segmenter, fresh = _starting_point(slices, architecture, init_from, settings, seed)
    run = {
        "slices": slices.hash,
        "start": segmenter.hash,
        "seed": seed,
        "settings": {name: value for name, value in asdict(settings).items() if name != "checkpoint_every"},
        "augmentation": getattr(augmentation, "__qualname__", repr(augmentation)) if augmentation else None,
        "fresh_layers": fresh,
    }
    # .hash is computed once and the network is about to change: the result is another Segmenter
    network = _optimised(
        segmenter.network,
        slices,
        spatial_dims=segmenter.spatial_dims,
        encoder=_encoder(segmenter, settings),
        settings=settings,
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        augmentation=augmentation,
        progress=progress,
        run=run,
    )
    return replace(segmenter, network=network.eval(), preprocessing=slices.preprocessing)


def _starting_point(
    slices: SliceSet, architecture: str, init_from: Segmenter | None, settings: TrainingSettings, seed: int
) -> tuple[Segmenter, list[str]]:
    if init_from is not None and init_from.architecture is None:
        network = deepcopy(init_from.network).cpu()
        wrapped = Segmenter.wrap(
            network,
            sequences=slices.sequences,
            labels=slices.labels,
            hookpoints=init_from.hookpoints,
            size=_size(slices, init_from.spatial_dims),
        )
        init_from.check_data(slices.name, slices.sequences)
        if wrapped.n_classes != init_from.n_classes:
            raise ValueError(
                f"init_from wraps a network of {init_from.n_classes} classes, {slices.name!r} has {wrapped.n_classes}; "
                "give that network an output of as many channels first"
            )
        return wrapped, []
    chosen = init_from.architecture if init_from is not None and init_from.architecture is not None else None
    name = architecture if chosen is None else chosen["name"]
    segmenter = build_segmenter(
        name,
        sequences=slices.sequences,
        labels=slices.labels,
        size=_size(slices, architecture_named(name).spatial_dims),
        seed=seed,
        settings=settings.architecture_settings if chosen is None else chosen["settings"],
    )
    fresh = [] if init_from is None else start_from(segmenter, init_from)
    if fresh:
        log.info("these layers do not fit %s and start at random: %s", slices.name, ", ".join(fresh))
    return segmenter, fresh


def _size(slices: SliceSet, spatial_dims: int) -> int | Extent:
    """Size of the segmenter for these samples."""
    return slices.size[-1] if spatial_dims == 2 else slices.size


def _optimised(
    network: nn.Module,
    slices: SliceSet,
    *,
    spatial_dims: int,
    encoder: str | None,
    settings: TrainingSettings,
    seed: int,
    device: str,
    checkpoint: Path | None,
    augmentation: Augmentation | None,
    progress: Progress,
    run: Mapping[str, Any],
) -> nn.Module:
    """The network after all steps, from the newest checkpoint of the same run where there is one.

    Every process of a group takes its share of each batch; the first keeps the checkpoints, and its state is the one
    that all begin from. ``run`` says what a checkpoint must be of to be gone on from.
    """
    place = torch.device(device)
    rank, size = rank_and_size()
    if size > 1:
        place = torch.device(place.type)  # the one that this process has chosen
    if settings.batch_size < size:
        raise ValueError(
            f"batch_size is {settings.batch_size}, processes are {size}; each needs a slice of every batch"
        )
    if checkpoint is not None and rank == 0:
        # weights and AdamW's two moments, beside the checkpoint before
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        require_disk(checkpoint, 2 * 3 * n_bytes, "the checkpoints of the training")
    with torch.random.fork_rng(devices=_forked(place)), pooled_batch_norm(network):
        run = {**run, "precision": _precision(settings, place)}
        network.to(place).train()
        optimiser = _optimiser(network, settings, encoder)

        def state() -> Checkpoint:
            found = None if checkpoint is None else newest_checkpoint(checkpoint, run)
            return found or Checkpoint.of(network, optimiser, 0, [])

        with locked(checkpoint) if checkpoint is not None and rank == 0 else nullcontext():
            start = broadcast_from_main(state)
            start.restore(network, optimiser)
            history = start.history
            autocast = torch.autocast(place.type, torch.bfloat16, enabled=run["precision"] == "bf16")

            def forward(images: Images) -> Tensor:
                with autocast:
                    return raw_logits(network, images, spatial_dims)

            def keep(done: int) -> None:
                if checkpoint is not None and rank == 0:
                    save_checkpoint(checkpoint, Checkpoint.of(network, optimiser, done, history), run)

            gradient = LossGradient(network, forward, size)
            with by_steps():
                for step in range(start.step, settings.steps):
                    rate = rate_at(step, settings)
                    for group in optimiser.param_groups:
                        group["lr"] = rate * group["share"]
                    rows = batch_rows(len(slices), settings.batch_size, step, seed)
                    images, masks = slices.images(rows), slices.masks(rows)
                    if augmentation is not None:
                        generator = torch.Generator().manual_seed(_mixed(seed, "augmentation", step))
                        images, masks = augmentation(images, masks, generator)
                    images, masks = images[rank::size].to(place), masks[rank::size].to(place)
                    value = gradient(images, masks, partial(_mixed, seed, "dropout", step, rank))
                    sum_over_ranks([p.grad for p in network.parameters() if p.grad is not None])
                    norm = float(torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip))
                    if not (math.isfinite(value) and math.isfinite(norm)):
                        if step > start.step and not _due(step, settings):
                            keep(step)
                        barrier()
                        raise FloatingPointError(_lost(value, norm, step, settings, checkpoint))
                    optimiser.step()
                    history.append({"step": step + 1, "loss": value, "rate": rate})
                    done = step + 1
                    stopping = rank == 0 and asked_to_stop() is not None
                    if _due(done, settings) or done == settings.steps or stopping:
                        keep(done)
                    progress(done, settings.steps, loss=value, rate=rate)
                    if stopping:  # the first ends the others
                        stop_if_asked()
            barrier()
    return network


def _lost(loss: float, norm: float, step: int, settings: TrainingSettings, checkpoint: Path | None) -> str:
    if step == 0:
        kept = "no step was done before"
    elif checkpoint is None:
        kept = f"the last good state was after step {step}; give a checkpoint folder to keep it"
    else:
        kept = f"the last good state is after step {step}, it is kept in {max(checkpoint.glob('step_*'))}"
    return (
        f"the loss is {loss} and its gradient's norm {norm} at step {step + 1} of {settings.steps}; {kept}. Lower "
        f"learning_rate (now {settings.learning_rate:g}), or use precision='fp32' if it was bf16"
    )


def _due(done: int, settings: TrainingSettings) -> bool:
    return done % settings.checkpoint_every == 0


def rate_at(step: int, settings: TrainingSettings) -> float:
    """Rate of a step (0-based): linear warm-up, then a half cosine to 0."""
    warmup = round(settings.warmup_share * settings.steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (settings.steps - warmup)))


def batch_rows(n_slices: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The slices of a step (0-based): an endless row of shuffled passes, cut into batches."""
    rows: list[int] = []
    position = step * batch_size
    while len(rows) < batch_size:
        turn, offset = divmod(position + len(rows), n_slices)
        generator = torch.Generator().manual_seed(_mixed(seed, "order", turn))
        order = torch.randperm(n_slices, generator=generator)
        rows += order[offset : offset + batch_size - len(rows)].tolist()
    return rows


def _precision(settings: TrainingSettings, device: torch.device) -> str:
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if fast_bf16(device) else "fp32"


def _mixed(seed: int, purpose: str, *numbers: int) -> int:
    return int(hash_of([seed, purpose, *numbers])[:15], 16)


def _encoder(segmenter: Segmenter, settings: TrainingSettings) -> str | None:
    """Name of the module that is trained at a rate of its own.

    Raises:
        ValueError: such a rate is set, and the network has no such module.
    """
    if settings.encoder_learning_rate is None:
        return None
    described = segmenter.architecture
    encoder = None if described is None else architecture_named(described["name"]).encoder
    if encoder is None:
        raise ValueError(
            f"encoder_learning_rate is {settings.encoder_learning_rate:g}, but {segmenter} has no encoder with a name; "
            "leave it out"
        )
    return encoder


def _optimiser(network: nn.Module, settings: TrainingSettings, encoder: str | None) -> torch.optim.Optimizer:
    """AdamW: matrices and convolutions with weight decay, all else without; the encoder's apart where it has a rate."""
    apart = set() if encoder is None else set(network.get_submodule(encoder).parameters())
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    slow = (settings.encoder_learning_rate or settings.learning_rate) / settings.learning_rate
    groups: list[dict[str, Any]] = []
    for own, share in (([p for p in parameters if p not in apart], 1.0), ([p for p in parameters if p in apart], slow)):
        groups += [
            {"params": [p for p in own if p.ndim > 1], "weight_decay": settings.weight_decay, "share": share},
            {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, "share": share},
        ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate, fused=True)


def _forked(device: torch.device) -> list[int]:
    return list(range(torch.cuda.device_count())) if device.type == "cuda" else []
