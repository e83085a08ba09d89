"""summary.json: the figures of a run under stable keys."""

from collections.abc import Mapping
from typing import Any

from seglens.runs import Run
from seglens.studies.analysis import Analysis
from seglens.studies.settings import StudySettings


def summarise(run: Run, settings: StudySettings, analyses: Mapping[str, Analysis]) -> dict[str, Any]:
    """Collect what the finished stages found; a stage that was not run leaves an empty list.

    Args:
        run: with finished stages.
        settings: of the study.
        analyses: the table, by name.
    """
    summary = {"study": settings.name, "seed": settings.seed, "settings": settings.model_dump(mode="json")}
    for row in analyses.values():
        if row.summary is not None:
            summary |= row.summary(run, settings) or {}
        elif documents := _documents(run, row):
            summary[row.name] = documents
    return summary | {"timings": {stage: run.timings[stage] for stage in run.stages() if stage in run.timings}}


def _documents(run: Run, row: Analysis) -> list[dict[str, Any]]:
    """Findings of the units of an analysis, each under ``of``."""
    found = []
    for stage in run.stages(f"{row.name}/"):
        artifact = run.artifact(stage)
        content = artifact.document(row.name) if artifact.has(f"{row.name}.json") else {}
        found.append({"of": stage.removeprefix(f"{row.name}/"), **content})
    return found
