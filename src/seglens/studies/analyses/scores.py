"""Scores of every segmenter on the test split of every cohort with its labels."""

from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, Unit, nothing

if TYPE_CHECKING:
    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import Summary

VERSION = 2


def units(settings: "StudySettings") -> list[Unit]:
    """Every segmenter on every cohort with masks."""
    labelled = [cohort for cohort, own in settings.cohorts.items() if own.labelled]
    return [(name, cohort) for name in settings.segmenters for cohort in labelled]


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The segmenter and the slices."""
    return [("segmenter", unit[:1]), ("slices", unit[1:])]


def inputs(study: "Study", name: str, cohort: str) -> dict[str, Any] | None:
    """The segmenter and the slices; None where the cohort has other labels."""
    segmenter, slices = study.segmenter(name), study.slices(cohort)
    if dict(slices.labels) != dict(segmenter.labels):
        return None
    return {"segmenter": segmenter.hash, "slices": slices.split("test").hash, "version": VERSION}


def run(study: "Study", work: "Work", name: str, cohort: str) -> None:
    """Score the test slices, and keep what the report shows of the worst patients."""
    from seglens.segmenters.scoring import evaluate
    from seglens.segmenters.worst_patients import worst_patients

    slices, segmenter = study.slices(cohort).split("test"), study.segmenter(name)
    with work.draft() as draft:
        scores = evaluate(segmenter, slices, hd95=True, progress=work.progress)
        draft.save_table("scores", scores.table)
        worst_patients(segmenter, slices, scores).write(draft)


def section(run: "Run", summary: "Summary") -> "Section":
    """How well each segmenter does, at home and away."""
    from seglens.reports.sections.segmentation import segmentation_section

    return segmentation_section(summary)


SCORES = Analysis(
    "scores",
    "Score them on every cohort.",
    units,
    inputs,
    run,
    after=("segmenter", "slices"),
    reads=reads,
    label="{}@{}".format,
    verb="train",
    summary=nothing,
    section=section,
    by_default=True,
    together=True,
)
