"""Where the segmenters of a study are opened."""

from collections.abc import Sequence

import polars as pl

from seglens.activations.effects import HookpointChoice, choose_hookpoint
from seglens.runtime.suggestions import did_you_mean
from seglens.segmenters.architectures import architecture_named
from seglens.studies.settings import StudySettings


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
