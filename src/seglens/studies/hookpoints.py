"""Where the segmenters of a study are opened: one lens for each hookpoint of each segmenter.

A segmenter's first hookpoint is its primary one. The lens there bears the segmenter's name, as do its stages
(``dictionary/adult``); a lens at a further hookpoint is named after both (``dictionary/adult@stage3``).
"""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

from seglens.lens_names import lens_name, segmenter_of
from seglens.runtime.suggestions import did_you_mean

if TYPE_CHECKING:
    import polars as pl

    from seglens.activations.effects import HookpointChoice
    from seglens.studies.analysis import Unit

AUTO = "auto"


def hookpoints_or_auto(value: Any) -> Any:
    """Give ``auto`` as it is and else a tuple of different names, of one name too; a validator of settings.

    Raises:
        ValueError: anything else.
    """
    if value == AUTO:
        return value
    names = (value,) if isinstance(value, str) else value
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    if not named or not names or len(set(names)) < len(names) or AUTO in names:
        raise ValueError(f"{value!r} is neither auto nor one or several different hookpoints, such as [stage2, stage3]")
    return tuple(names)


def hookpoints_of(settings: Any, segmenter: str) -> tuple[str, ...]:
    """Hookpoints at which a segmenter of a study is opened, the primary one first; ``("auto",)`` where it is chosen.

    Of a list for all segmenters, those that its architecture has; ``auto`` where that is none.
    """
    own = settings.segmenters[segmenter]
    wanted = settings.hookpoints if own.hookpoints is None else own.hookpoints
    if wanted == AUTO:
        return (AUTO,)
    known = _known(own)
    return tuple(name for name in wanted if name in known) or (AUTO,)


def hookpoint_of(settings: Any, lens: str) -> str:
    """Hookpoint of a lens, ``auto`` where it is still to be chosen."""
    return lens.partition("@")[2] or hookpoints_of(settings, segmenter_of(lens))[0]


def lens_of(settings: Any, segmenter: str, hookpoint: str | None) -> str:
    """Name of a segmenter's lens at one of its hookpoints; None takes the primary one."""
    primary = hookpoint in (None, hookpoints_of(settings, segmenter)[0])
    return segmenter if primary or hookpoint is None else lens_name(segmenter, hookpoint)


def lenses_of(settings: Any, segmenter: str) -> list[str]:
    """Names of all lenses of a segmenter, the primary one first."""
    return [lens_of(settings, segmenter, hookpoint) for hookpoint in hookpoints_of(settings, segmenter)]


def each_lens(settings: Any) -> "list[Unit]":
    """Units of an analysis that is done at every hookpoint of every segmenter of a study."""
    return [(lens,) for segmenter in settings.segmenters for lens in lenses_of(settings, segmenter)]


def alike(settings: Any, lens: str) -> list[str]:
    """Lenses of one network's design at one hookpoint with this one, itself included: of one activation space."""
    design, hookpoint = design_of(settings, segmenter_of(lens)), hookpoint_of(settings, lens)
    return [
        lens_of(settings, name, hookpoint)
        for name in settings.segmenters
        if design_of(settings, name) == design and hookpoint in hookpoints_of(settings, name)
    ]


def measured(settings: Any, lens: str) -> list[str]:
    """Segmenters by whose effects a hookpoint is chosen: of those that are `alike`, whose own cohort has masks."""
    names = [segmenter_of(other) for other in alike(settings, lens)]
    return [name for name in names if settings.cohorts[settings.segmenters[name].cohort].labelled]


def labelled_lenses(settings: Any) -> "list[Unit]":
    """Units of an analysis that is done at every hookpoint of every segmenter whose own cohort has masks."""
    labelled = {name for name, own in settings.segmenters.items() if settings.cohorts[own.cohort].labelled}
    return [unit for unit in each_lens(settings) if segmenter_of(str(unit[0])) in labelled]


def design_of(settings: Any, name: str) -> dict[str, Any]:
    """Architecture of a segmenter and its parts, which are those of what it starts from: what its weights fit."""
    from seglens.segmenters.architectures import architecture_named

    own = settings.segmenters[name]
    first = own
    while first.init_from is not None:
        first = settings.segmenters[first.init_from]
    return architecture_named(own.architecture).describe(1, 2, first.network)


def aligned_pairs(settings: Any) -> list[tuple[str, str]]:
    """Pairs of lenses that a study aligns: all segmenters at their primary hookpoints, and what ``alignment`` adds."""
    pairs = list(combinations(settings.segmenters, 2))
    for entry in settings.alignment:
        lenses = [lens_of(settings, name, entry.hookpoint) for name in _opened_at(settings, entry)]
        pairs += [pair for pair in combinations(lenses, 2) if pair not in pairs]
    return pairs


def common_hookpoint(effects: "Sequence[pl.DataFrame]", minimum_drop: float) -> "HookpointChoice":
    """`choose_hookpoint` for several segmenters of one architecture: an effect counts as far as all of them have it.

    Args:
        effects: of each segmenter, as `hookpoint_effects` gives them.
        minimum_drop: of the foreground Dice, what counts as a real effect.
    """
    from seglens.activations.effects import choose_hookpoint

    return choose_hookpoint(smallest_effects(effects), minimum_drop=minimum_drop)


def check_hookpoints(settings: Any) -> None:
    """Refuse a study that names a hookpoint which there is not, or at which nothing is opened.

    Raises:
        ValueError: every fault, each with the nearest names and all there are.
    """
    faults = [*_unknown(settings), *_unmeasured(settings), *_unopened(settings)]
    if faults:
        raise ValueError("; ".join(faults))


def smallest_effects(effects: "Sequence[pl.DataFrame]") -> "pl.DataFrame":
    """Of several segmenters' effects, at each hookpoint and class the one with the smallest drop of Dice."""
    import polars as pl

    order = effects[0].select("hookpoint", "class")
    smallest = (
        pl.concat(effects)
        .sort(pl.col("dice_before") - pl.col("dice_ablated"))
        .unique(["hookpoint", "class"], keep="first", maintain_order=True)
    )
    return order.join(smallest, on=["hookpoint", "class"], how="left", maintain_order="left")


def _known(own: Any) -> tuple[str, ...]:
    """Hookpoints of a segmenter's network."""
    return _places(own.architecture, json.dumps(own.network))


@lru_cache(maxsize=64)  # a network of MONAI is built for it
def _places(architecture: str, network: str) -> tuple[str, ...]:
    from seglens.segmenters.architectures import architecture_named  # brings torch

    row = architecture_named(architecture)
    return tuple(row.hookpoints({**row.defaults, **json.loads(network)}))


def _unknown(settings: Any) -> Iterable[str]:
    if settings.hookpoints != AUTO:
        known = tuple(dict.fromkeys(name for own in settings.segmenters.values() for name in _known(own)))
        for wanted in settings.hookpoints:
            if wanted not in known:
                yield (
                    f"hookpoint {wanted!r} is in none of the study's architectures; {did_you_mean(wanted, known)}"
                    f"give auto or one of {', '.join(known)}"
                )
    for name, own in settings.segmenters.items():
        known = _known(own) if own.hookpoints not in (None, AUTO) else ()
        for wanted in own.hookpoints if known else ():
            if wanted not in known:
                yield (
                    f"segmenters.{name}.hookpoints: {own.architecture} has no hookpoint {wanted!r}; "
                    f"{did_you_mean(wanted, known)}give auto or one of {', '.join(known)}"
                )


def _unmeasured(settings: Any) -> Iterable[str]:
    for name, own in settings.segmenters.items():
        if hookpoints_of(settings, name) == (AUTO,) and not measured(settings, name):
            yield (
                f"segmenters.{name}.hookpoints: auto measures what each place does to the Dice, and {own.cohort} has "
                f"no masks (labelled: false); give one of {', '.join(_known(own))}"
            )


def _unopened(settings: Any) -> Iterable[str]:
    for place in ("steering", "failures"):
        for number, entry in enumerate(getattr(settings, place)):
            opened = hookpoints_of(settings, entry.segmenter)
            if entry.hookpoint is not None and entry.hookpoint not in opened:
                yield (
                    f"{place}[{number}].hookpoint: {entry.segmenter} is not opened at {entry.hookpoint!r} but at "
                    f"{', '.join(opened)}; {did_you_mean(entry.hookpoint, opened)}name it under hookpoints too"
                )
    for number, entry in enumerate(settings.alignment):
        opened_at = _opened_at(settings, entry)
        if len(opened_at) < 2:
            named = dict.fromkeys(one for name in settings.segmenters for one in hookpoints_of(settings, name))
            yield (
                f"alignment[{number}].hookpoint: {', '.join(opened_at) or 'no segmenter'} is opened at "
                f"{entry.hookpoint!r}, and a pair takes two; {did_you_mean(entry.hookpoint, named)}"
                f"the study's hookpoints are {', '.join(named)}"
            )


def _opened_at(settings: Any, entry: Any) -> list[str]:
    """Segmenters that an entry of ``alignment`` compares."""
    return [
        name for name in entry.segmenters or settings.segmenters if entry.hookpoint in hookpoints_of(settings, name)
    ]
