"""An experiment: a named question to a study, answered by tables, a few figures and paragraphs.

An experiment that a study cannot carry at all raises `NotApplicableError`; one that it carries in part says the rest in
`ExperimentResult.left_out`. Expensive pieces (fits, trainings) are artifacts of their own: `part`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from seglens.artifacts import Artifact, Draft
from seglens.reports.experiment_figures import Figure
from seglens.runs import Stage
from seglens.runtime.progress import Progress
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Study

__all__ = ["Experiment", "ExperimentResult", "Figure", "NotApplicableError", "Published", "nothing_ahead", "part"]


class NotApplicableError(ValueError):
    """A study's data or settings cannot carry an experiment; the message says what is missing, as one clause.

    Such as ``"needs two segmenters of one architecture; the study has adult"``.
    """


@dataclass(frozen=True)
class ExperimentResult:
    """Answer of an experiment.

    Attributes:
        tables: name to table, each written as parquet; long format, column names are plain words.
        headline: the few numbers that reproduction.json and docs/findings.md quote; None where undefined, never NaN.
        paragraphs: plain text for the page: what was done, what it shows, what it does not show.
        left_out: what this study's data cannot carry, and why.
    """

    tables: Mapping[str, pl.DataFrame]
    headline: Mapping[str, float | None]
    paragraphs: Sequence[str]
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Published:
    """A figure of the paper, to stand beside one of ours.

    Attributes:
        value: in the unit of our headline.
        where: place in the paper, and the convention behind it where it differs from ours.
    """

    value: float
    where: str


def nothing_ahead(settings: StudySettings) -> Sequence[Callable[[Study], object]]:
    """For experiments that are done in one piece."""
    return ()


@dataclass(frozen=True, eq=False)
class Experiment:
    """A named question to a study; each is only equal to itself.

    Attributes:
        name: such as ``"shared"``.
        title: for the page.
        paper: such as ``"Tables 1 and 7"``, or ``"beyond the paper"``.
        run: answers it; may raise `NotApplicableError`.
        version: raise it when ``run`` computes something else from the same study: results of before are done again.
        inputs: what ``run`` reads beside the study, such as the hash of a folder.
        figures: drawn from the tables, in this order.
        published: headline to the paper's own figure, where a comparison makes sense.
        folded: tables that the page shows closed, because they are long.
        parts: of a study's settings, stages that ``run`` finds finished and that take long enough to be done side by
            side before it.
    """

    name: str
    title: str
    paper: str
    run: Callable[[Study, Progress], ExperimentResult]
    version: int = 1
    inputs: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    published: Mapping[str, Published] = field(default_factory=dict)
    folded: Sequence[str] = ()
    parts: Callable[[StudySettings], Sequence[Callable[[Study], object]]] = nothing_ahead


def part(
    study: Study,
    name: str,
    kind: str,
    inputs: Mapping[str, Any],
    make: Callable[[Draft, Progress], None],
) -> Artifact:
    """An expensive piece of an experiment as an artifact of its own: found again by the next run, and by others.

    Args:
        study: that it belongs to.
        name: of the stage, such as ``"joint/adult~pediatric-seed1"``.
        kind: of artifact.
        inputs: JSON-able settings and input hashes; equal inputs mean an equal result.
        make: writes the draft.

    Returns:
        The finished artifact.
    """
    return study.draft(Stage(name, kind, inputs), make)
