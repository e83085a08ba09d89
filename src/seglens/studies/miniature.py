"""A study in small, whose stages show what those of the whole one cost."""

import operator
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from seglens.artifacts import canonical_json
from seglens.lens_names import segmenter_of
from seglens.studies.analysis import Unit
from seglens.studies.hookpoints import AUTO, design_of, hookpoints_of
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.settings import FailureSettings, PhantomSettings, SteeringSettings, StudySettings

MAX_ALIKE = 2
"""Segmenters of one design in a miniature: what compares two needs a pair."""
MAX_BATCH = 4
"""Slices a step of the miniatures; a step's time grows with its slices."""
STAND_IN = "edema"
"""Label of the phantoms that stands in for a class of real data."""
_Entry = TypeVar("_Entry", SteeringSettings, FailureSettings)


@dataclass(frozen=True)
class Miniature:
    """Sizes of a study in small: patients a cohort, and steps of segmenters and dictionaries."""

    subjects: int
    segmenter_steps: int
    dictionary_steps: int


def miniature(settings: StudySettings, size: Miniature, expansion: int | None) -> StudySettings:
    """Make a study small: phantoms instead of its cohorts, few patients and steps, the same sizes of networks.

    Of segmenters with one design two stay, and of entries that differ in nothing that costs time one.

    Args:
        settings: of the study.
        size: how small.
        expansion: of its dictionaries; None takes what is set, or 2.

    Raises:
        ValueError: a study of models of others, or of more sequences than phantoms have.
    """
    from seglens.phantoms.subject import SEQUENCES

    n_sequences = len(settings.sequences)
    if n_sequences > len(SEQUENCES):
        raise ValueError(f"the study has {n_sequences} sequences; a plan can be made for up to {len(SEQUENCES)}")
    others = [name for name, own in settings.segmenters.items() if own.of_others]
    if others:
        raise ValueError(
            f"segmenters: {', '.join(others)} is a model of others, and no plan is made for the windows of such; "
            "`seglens open MODEL` says seconds and bytes of a volume"
        )
    starts = {name: _first_start(settings, name) for name in settings.segmenters}
    settings = _representative(settings)
    content: dict[str, Any] = settings.model_dump(mode="json")
    own_names = all(name in SEQUENCES for name in settings.sequences)
    content |= {"sequences": settings.sequences if own_names else SEQUENCES[:n_sequences], "minimum_effect": 0.0}
    content |= {"foreground": AUTO, "name": "miniature"}
    for name, own in settings.cohorts.items():
        phantom = own.phantom or PhantomSettings(population="adult", slices=depth_of(settings, name))
        few = phantom.model_copy(update={"subjects": size.subjects}).model_dump(mode="json")
        content["cohorts"][name] = {"phantom": few, "fractions": own.fractions.model_dump()}
    for name, segmenter in settings.segmenters.items():
        less = content["segmenters"][name]
        less.pop("model", None)  # one that is opened has a trained one of its design in its place
        less |= {"steps": size.segmenter_steps, "epochs": None, "pretrained": None}
        less |= {"init_from": None, "network": starts[name].model_dump(mode="json")["network"]}
        less["batch_size"] = min(segmenter.batch_size, MAX_BATCH)
        if hookpoints_of(settings, name) == (AUTO,):
            less["hookpoints"] = [middle_place(settings, name)]
    dictionaries = content["dictionaries"]
    dictionaries["steps"] = size.dictionary_steps
    if dictionaries["expansion"] == AUTO:
        dictionaries["expansion"] = expansion or 2
    for entry in content["steering"]:
        if settings.cohorts[entry["cohort"]].phantom is None:
            entry["label"] = STAND_IN
    return StudySettings.model_validate(content)


def like_unit(settings: StudySettings, unit: Unit, done: Sequence[Unit]) -> Unit | None:
    """The unit that was done and stands for another: its names are of the same designs, or at least its first is."""

    def kind(part: str | int) -> str | int:
        lens = str(part)
        if segmenter_of(lens) in settings.segmenters:
            return f"{_design(settings, segmenter_of(lens))}{lens.partition('@')[2]}"
        return "cohort" if lens in settings.cohorts else part

    kinds = [kind(part) for part in unit]
    by_kinds = [(sum(map(operator.eq, kinds, map(kind, own))), own == unit, own) for own in done]
    return max(by_kinds, key=lambda found: found[:2])[2] if by_kinds else None


def middle_place(settings: StudySettings, segmenter: str) -> str:
    """The place that ``auto`` is taken for: the middle of the encoder."""
    from seglens.segmenters.architectures import architecture_named

    own = settings.segmenters[segmenter]
    row = architecture_named(own.architecture)
    known = list(row.hookpoints({**row.defaults, **own.network}))
    return known[min(1, len(known) - 1)]


def depth_of(settings: StudySettings, cohort: str) -> int:
    """Give the slices of a phantom of a cohort, or of one in its place."""
    phantom = settings.cohorts[cohort].phantom
    return phantom.slices if phantom else 6


def _representative(settings: StudySettings) -> StudySettings:
    """The study with everything that costs time in its own way, and little of it more than once."""
    aligned = {name for entry in settings.alignment for name in entry.segmenters}
    asked = [entry.segmenter for entry in settings.steering] + [entry.segmenter for entry in settings.failures]
    kept: dict[str, list[str]] = {}
    for name in dict.fromkeys([*aligned, *asked, *settings.segmenters]):
        alike = kept.setdefault(_design(settings, name), [])
        if len(alike) < MAX_ALIKE or name in aligned:
            alike.append(name)
    names = {name for alike in kept.values() for name in alike}
    steering = _first_of_each_design(settings, settings.steering, names)
    failures = _first_of_each_design(settings, settings.failures, names)
    cohorts = {settings.segmenters[name].cohort for name in names}
    cohorts |= {entry.cohort for entry in steering} | {entry.cohort for entry in failures}
    return settings.model_copy(
        update={
            "segmenters": {name: own for name, own in settings.segmenters.items() if name in names},
            "cohorts": {name: own for name, own in settings.cohorts.items() if name in cohorts},
            "steering": steering,
            "failures": failures,
        }
    )


def _first_of_each_design(settings: StudySettings, entries: Sequence[_Entry], names: Set[str]) -> list[_Entry]:
    first: dict[str, _Entry] = {}
    for entry in entries:
        if entry.segmenter in names:
            first.setdefault(f"{_design(settings, entry.segmenter)}@{entry.hookpoint}", entry)
    return list(first.values())


def _design(settings: StudySettings, name: str) -> str:
    """All of a segmenter that the time of its stages depends on, but for steps and slices."""
    own = settings.segmenters[name]
    return canonical_json([design_of(settings, name), own.batch_size, hookpoints_of(settings, name)])


def _first_start(settings: StudySettings, name: str) -> SegmenterSettings:
    """The segmenter that a chain of starts begins with: its network is that of all of them."""
    own = settings.segmenters[name]
    return _first_start(settings, own.init_from) if own.init_from else own
