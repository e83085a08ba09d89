"""Segmenters of a study: how they are trained, and where they are opened."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from seglens.activations.effects import HookpointChoice, choose_hookpoint
from seglens.cohorts.slice_set import SliceSet
from seglens.runtime.progress import Progress
from seglens.runtime.suggestions import did_you_mean
from seglens.segmenters.architectures import architecture_named, build_segmenter
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import TrainingSettings, train_segmenter
from seglens.studies.settings import SegmenterSettings, StudySettings


def train(
    slices: SliceSet,
    own: SegmenterSettings,
    *,
    start: Segmenter | None,
    size: int,
    seed: int,
    device: str,
    checkpoint: Path,
    progress: Progress,
) -> Segmenter:
    """`train_segmenter` with a study's settings.

    Args:
        slices: to train on.
        own: the segmenter's settings.
        start: the segmenter that this one goes on from; None: from the pretrained encoder of its settings, or from
            random weights.
        size: rows and columns of a slice, in pixels.
        seed: of the first weights and of all that training draws.
        device: to train on, as torch names it.
        checkpoint: folder for checkpoints.
        progress: of the steps.
    """
    if start is None and own.pretrained is not None:
        start = build_segmenter(
            own.architecture,
            sequences=slices.sequences,
            labels=slices.labels,
            size=size,
            seed=seed,
            pretrained=own.pretrained,
        )
    return train_segmenter(
        slices,
        architecture=own.architecture,
        init_from=start,
        settings=training_settings(own),
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        progress=progress,
    )


def training_settings(own: SegmenterSettings) -> TrainingSettings:
    """A study's settings of one segmenter as the trainer takes them."""
    settings = TrainingSettings(steps=own.steps, batch_size=own.batch_size)
    return settings if own.learning_rate is None else replace(settings, learning_rate=own.learning_rate)


def common_hookpoint(effects: Sequence[pl.DataFrame], minimum_drop: float) -> HookpointChoice:
    """`choose_hookpoint` for several segmenters of one architecture: an effect counts as far as all of them have it.

    Args:
        effects: of each segmenter, as `hookpoint_effects` gives them.
        minimum_drop: of the foreground Dice, what counts as a real effect.
    """
    return choose_hookpoint(smallest_effects(effects), minimum_drop=minimum_drop)


def check_hookpoint(settings: StudySettings) -> None:
    """Refuse a study whose hookpoint is in none of its architectures.

    Raises:
        ValueError: with the nearest names, and all there are.
    """
    wanted = settings.hookpoint
    architectures = dict.fromkeys(own.architecture for own in settings.segmenters.values())
    rows = [architecture_named(name) for name in architectures]
    known = dict.fromkeys(place for row in rows for place in row.hookpoints(row.defaults))
    if wanted != "auto" and wanted not in known:
        raise ValueError(
            f"hookpoint {wanted!r} is in none of the study's architectures; {did_you_mean(wanted, known)}give auto or "
            f"one of {', '.join(known)}"
        )


def smallest_effects(effects: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Of several segmenters' effects, at each hookpoint and class the one with the smallest drop of Dice."""
    order = effects[0].select("hookpoint", "class")
    smallest = (
        pl.concat(effects)
        .sort(pl.col("dice_before") - pl.col("dice_ablated"))
        .unique(["hookpoint", "class"], keep="first", maintain_order=True)
    )
    return order.join(smallest, on=["hookpoint", "class"], how="left", maintain_order="left")
