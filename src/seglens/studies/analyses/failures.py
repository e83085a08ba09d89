"""A segmenter's worst slices of a cohort are recovered by changing latents."""

from typing import TYPE_CHECKING, Any

from seglens.studies.analyses.steering import corrected_by, corrected_inputs, reads, results_of
from seglens.studies.analysis import Analysis, Unit
from seglens.studies.hookpoints import lens_of

if TYPE_CHECKING:
    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import Summary

VERSION = 3


def units(settings: "StudySettings") -> list[Unit]:
    """Entries of ``failures``."""
    return [
        (lens_of(settings, entry.segmenter, entry.hookpoint), entry.cohort, entry.worst) for entry in settings.failures
    ]


def label(name: str, cohort: str, worst: int) -> str:
    """One entry for a segmenter and a cohort."""
    return f"{name}-{cohort}"


def inputs(study: "Study", name: str, cohort: str, worst: int) -> dict[str, Any]:
    """The dictionary, both splits of the cohort and how many slices."""
    return {"worst": worst, "version": VERSION} | corrected_inputs(study, name, cohort)


def run(study: "Study", work: "Work", name: str, cohort: str, worst: int) -> None:
    """Choose edits and count the slices that they recover, beside random latents."""
    from seglens.steering.failure_recovery import recover

    with work.draft() as draft:
        recover(
            *corrected_by(study, name, cohort),
            worst=worst,
            source=name,
            seed=study.settings.seed,
            progress=work.progress,
        ).write(draft)


def summary(run: "Run", settings: "StudySettings") -> dict[str, Any]:
    """Every policy of every entry."""
    return {"failures": results_of(run, "failures")}


def section(run: "Run", summary: "Summary") -> "Section":
    """Recovered failures, with pictures."""
    from seglens.reports.sections.failures import failures_section

    return failures_section(run, summary)


FAILURES = Analysis(
    "failures",
    "Recover failures.",
    units,
    inputs,
    run,
    after=("dictionary", "slices"),
    reads=reads,
    label=label,
    verb="steer",
    summary=summary,
    section=section,
    by_default=True,
    together=True,
    weight=10.0,
)
