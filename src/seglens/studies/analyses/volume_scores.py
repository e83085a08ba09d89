"""Scores of every segmenter on whole volumes: all slices of the test cases, on the files' own grid."""

from typing import TYPE_CHECKING, Any

from seglens.studies.analyses.scores import units
from seglens.studies.analysis import Analysis, Unit

if TYPE_CHECKING:
    from seglens.cohorts.case import Cohort
    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import Summary

VERSION = 1


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The segmenter and the cohort's files."""
    return [("segmenter", unit[:1]), ("check", unit[1:])]


def inputs(study: "Study", name: str, cohort: str) -> dict[str, Any] | None:
    """The segmenter, the files and the regions; None where the cohort has other labels or no test case."""
    from seglens.studies.cohorts import identity_of

    segmenter, test = study.segmenter(name), _test_cases(study, name, cohort)
    if dict(test.labels) != dict(segmenter.labels) or not test.cases:
        return None
    return {
        "segmenter": segmenter.hash,
        "cohort": identity_of(test, study.result("check", cohort).sha256),
        "regions": {region: sorted(values) for region, values in study.settings.cohorts[cohort].regions.items()},
        "version": VERSION,
    }


def run(study: "Study", work: "Work", name: str, cohort: str) -> None:
    """Segment and score every volume of the test split."""
    from seglens.segmenters.score_summary import VolumeSummary
    from seglens.segmenters.volume_scores import evaluate_volumes

    test = _test_cases(study, name, cohort)
    regions = study.settings.cohorts[cohort].regions
    scores = evaluate_volumes(
        study.opened(name) or study.segmenter(name), test, regions=regions, progress=work.progress
    )
    with work.draft() as draft:
        draft.save_table("volumes", scores.table)
        draft.save_record("summaries", scores.summaries(), list[VolumeSummary])


def summary(run: "Run", settings: "StudySettings") -> dict[str, Any]:
    """One record a segmenter and cohort."""
    found = []
    for name, cohort in units(settings):
        stage = VOLUME_SCORES.stage((name, cohort))
        if stage in run:
            scores = run.artifact(stage).document("summaries")
            found.append({"segmenter": name, "cohort": cohort, "scores": scores})
    return {"volume_scores": found}


def section(run: "Run", summary: "Summary") -> "Section | None":
    """Whole volumes, beside the sampled slices of the section before."""
    from seglens.reports.sections.whole_volumes import volume_section

    return volume_section(summary)


def _test_cases(study: "Study", name: str, cohort: str) -> "Cohort":
    from dataclasses import replace

    checked = study.result("check", cohort)
    usable = checked.cohort.without(checked.report.quarantined)
    splits = usable.split_of()
    cases = tuple(case for case in usable.cases if splits.get(case.id) == "test")
    ids = tuple(case.id for case in cases)
    return replace(usable, cases=cases, splits={"test": ids}, deal=None).with_sequences(study.segmenter(name).sequences)


VOLUME_SCORES = Analysis(
    "volume_scores",
    "Score them on whole volumes.",
    units,
    inputs,
    run,
    after=("segmenter", "check"),
    reads=reads,
    label="{}@{}".format,
    verb="train",
    summary=summary,
    section=section,
    by_default=True,
    together=True,
)
