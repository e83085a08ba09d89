"""Cohorts are cut into slices of one size, or into the windows of a model of others."""

from typing import TYPE_CHECKING, Any

from seglens.documents import to_document
from seglens.studies.analyses.check import each_cohort
from seglens.studies.analysis import Analysis, Unit

if TYPE_CHECKING:
    from seglens.artifacts import Artifact
    from seglens.cohorts.preprocessing import Preprocessing
    from seglens.cohorts.slice_set import SliceSet
    from seglens.cohorts.slices import SliceSampling
    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import CohortRecord, Summary


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """Its own check; ``foreground: auto`` looks at all cohorts."""
    from seglens.cohorts.foreground import AUTO

    return [("check", other) for other in (each_cohort(settings) if settings.foreground == AUTO else [unit])]


def inputs(study: "Study", name: str) -> dict[str, Any]:
    """The cases that are used, as if the others had never been there."""
    from dataclasses import asdict

    from seglens.studies.cohorts import identity_of

    checked, model = study.result("check", name), study.shown_to()
    return {
        "cohort": identity_of(checked.cohort.without(checked.report.quarantined), checked.sha256),
        **({"windows": model.preparation} if model else {"preprocessing": _preprocessing(study).to_json()}),
        "sampling": asdict(_sampling(study.settings, name)),
        "seed": study.settings.seed,
    }


def run(study: "Study", work: "Work", name: str) -> None:
    """Cut the slices, or windows."""
    from functools import partial

    from seglens.cohorts.slices import prepare_slices
    from seglens.segmenters.window_samples import prepare_windows

    checked, model = study.result("check", name), study.shown_to()
    prepare = (
        partial(prepare_slices, checked.cohort, _preprocessing(study))
        if model is None
        else partial(prepare_windows, model, checked.cohort)
    )
    prepare(
        _sampling(study.settings, name),
        folder=work.path,
        quarantined=checked.report.quarantined,
        sha256=checked.sha256,
        seed=study.settings.seed,
        progress=work.progress,
    )


def read(study: "Study", artifact: "Artifact", name: str) -> "SliceSet":
    """The slices, all splits."""
    from seglens.cohorts.slice_set import SliceSet

    return SliceSet.read(artifact)


def _preprocessing(study: "Study") -> "Preprocessing":
    """Preprocessing of every network of the study."""
    from seglens.cohorts.foreground import AUTO
    from seglens.studies.cohorts import preprocessing_of

    cohorts = study.settings.cohorts if study.settings.foreground == AUTO else ()
    return preprocessing_of(study.settings, [study.result("check", cohort).report for cohort in cohorts])


def _sampling(settings: "StudySettings", name: str) -> "SliceSampling":
    from seglens.cohorts.slices import SliceSampling

    own = settings.cohorts[name]
    return SliceSampling(lesion_free_share=own.lesion_free_share, slices_per_volume=own.slices_per_volume)


def summary(run: "Run", settings: "StudySettings") -> dict[str, Any]:
    """Counts of every cohort."""
    return {"cohorts": [to_document(_record(run, name)) for name in settings.cohorts if f"slices/{name}" in run]}


def _record(run: "Run", name: str) -> "CohortRecord":
    import polars as pl

    from seglens.cohorts.slice_set import SliceSet
    from seglens.summaries import CohortRecord, PhantomRecord, SplitRecord

    check = run.artifact(f"check/{name}").document("check")
    slices = SliceSet.read(run.artifact(f"slices/{name}"))
    empty = [not bool(slices.masks([row]).any()) for row in range(len(slices))] if slices.labelled else None
    index = slices.index.with_columns(pl.Series("empty", empty) if empty else pl.lit(None, pl.UInt32).alias("empty"))
    n_empty = pl.col("empty").sum() if empty else pl.col("empty").first()
    counted = index.group_by("split", maintain_order=True).agg(pl.col("patient").n_unique(), pl.len(), n_empty)
    return CohortRecord(
        name=check["name"],
        n_cases=check["n_cases"],
        n_patients=check["n_patients"],
        n_slices=index.height,
        n_quarantined=len(check["quarantined"]),
        sequences=tuple(check["sequences"]),
        labels={int(value): label for value, label in check["labels"].items()},
        phantom=PhantomRecord(**check["phantom"]) if check["phantom"] else None,
        splits={split: SplitRecord(*counts) for split, *counts in counted.iter_rows()},
    )


def section(run: "Run", summary: "Summary") -> "Section":
    """The data."""
    from seglens.reports.sections.cohorts import cohorts_section

    return cohorts_section(run, summary)


SLICES = Analysis(
    "slices",
    "Cut the study's cohorts into slices.",
    each_cohort,
    inputs,
    run,
    after=("check",),
    reads=reads,
    read=read,
    verb="",
    summary=summary,
    section=section,
    by_default=True,
    kept=True,
)
