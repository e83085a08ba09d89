"""Entries of a study against its cohorts and each other, checked before any work."""

from typing import Any

from seglens.studies.hookpoints import check_hookpoints, lens_of


def unknown_names(settings: Any) -> list[str]:
    """Faults of entries that name a segmenter or a cohort which the study does not have."""
    faults = []
    for place in ("steering", "failures"):
        for number, entry in enumerate(getattr(settings, place)):
            if entry.segmenter not in settings.segmenters:
                faults.append(f"{place}[{number}].segmenter: no segmenter {entry.segmenter!r}")
            if entry.cohort not in settings.cohorts:
                faults.append(f"{place}[{number}].cohort: no cohort {entry.cohort!r}")
    for number, entry in enumerate(settings.alignment):
        unknown = [name for name in entry.segmenters if name not in settings.segmenters]
        faults += [f"alignment[{number}].segmenters: no segmenter {name!r}" for name in unknown]
    return faults


def needing_masks(settings: Any) -> list[str]:
    """Faults of segmenters and entries that need masks of a cohort without any, in a study whose names there are."""
    bare = {name for name, own in settings.cohorts.items() if not own.labelled}
    faults = [
        f"segmenters.{name}.cohort: {own.cohort} has no masks (labelled: false) to be trained on; name a labelled "
        "cohort, or open a model with model: PATH"
        for name, own in settings.segmenters.items()
        if own.cohort in bare and own.model is None
    ]
    return faults + [
        f"{place}[{number}].cohort: {entry.cohort} has no masks (labelled: false), and this is judged by them"
        for place in ("steering", "failures")
        for number, entry in enumerate(getattr(settings, place))
        if entry.cohort in bare
    ]


def asked_twice(settings: Any) -> list[str]:
    """Faults of entries whose results would bear one name, in a study whose names there are.

    Raises:
        ValueError: a hookpoint that there is not, or at which nothing is opened.
    """
    check_hookpoints(settings)
    faults = []
    for place, kind in (("steering", "label"), ("failures", "")):
        stages: list[str] = []
        for number, entry in enumerate(getattr(settings, place)):
            lens = lens_of(settings, entry.segmenter, entry.hookpoint)
            stage = "-".join([lens, entry.cohort, *([getattr(entry, kind)] if kind else [])])
            if stage in stages:
                faults.append(
                    f"{place}[{number}]: its results would be called {stage}, as those of "
                    f"{place}[{stages.index(stage)}]; ask for it once, or in a study of its own"
                )
            stages.append(stage)
    return faults
