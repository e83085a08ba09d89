"""`seglens reproduce`: experiments on a study's cohorts, each result an artifact of the run, and reproduction.json."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seglens.artifacts import Artifact, ArtifactError, Draft, canonical_json, finite, new_artifact, write_text_whole
from seglens.experiments import EXPERIMENTS
from seglens.experiments.experiment import Experiment, ExperimentResult, NotApplicableError
from seglens.runs import Run, Stage
from seglens.runtime.progress import Announce, Progress, unseen
from seglens.studies.analysis import Analysis
from seglens.studies.input_checksums import quarantine_reported
from seglens.studies.parallel import Task, tasks_of, work_ahead
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Study
from seglens.studies.table import analysis_table

KIND = "experiment"
UNDER_EXPERIMENTS = ("slices", "segmenter", "effects", "store", "dictionary", "variant")
"""Analyses that nearly every experiment needs."""
FILE = "reproduction.json"


@dataclass(frozen=True)
class FindingRecord:
    """Content of finding.json: the tables' names and order, and what stands beside them (see `ExperimentResult`)."""

    tables: tuple[str, ...]
    headline: tuple[tuple[str, float | None], ...]
    paragraphs: tuple[str, ...]
    left_out: tuple[str, ...]
    not_applicable: str | None


@dataclass(frozen=True)
class Outcome:
    """Outcome of an experiment on a study: a result, or the reason why there is none.

    Attributes:
        finding: None where the study cannot carry the experiment.
        not_applicable: the reason; None beside a finding.
    """

    finding: ExperimentResult | None
    not_applicable: str | None = None

    def write(self, draft: Draft) -> None:
        """Write into an artifact of kind ``"experiment"``: a parquet file a table, and finding.json."""
        found = self.finding or ExperimentResult({}, {}, ())
        for name, table in found.tables.items():
            draft.save_table(name, table)
        record = FindingRecord(
            tables=tuple(found.tables),
            headline=tuple((name, finite(value)) for name, value in found.headline.items()),
            paragraphs=tuple(found.paragraphs),
            left_out=tuple(found.left_out),
            not_applicable=self.not_applicable,
        )
        draft.save_record("finding", record)

    @classmethod
    def read(cls, artifact: Artifact) -> "Outcome":
        """Read what ``write`` wrote."""
        record = artifact.record("finding", FindingRecord)
        if record.not_applicable is not None:
            return cls(None, record.not_applicable)
        tables = {name: artifact.table(name) for name in record.tables}
        return cls(ExperimentResult(tables, dict(record.headline), record.paragraphs, record.left_out))


@dataclass(frozen=True)
class Reproduction:
    """Outcomes of `reproduce`.

    Attributes:
        run: with every finished experiment as a stage ``experiment/<name>``.
        faults: experiments that broke off, and how; the others were done nevertheless.
    """

    run: Run
    faults: Mapping[str, Exception]


def reproduce(
    settings: StudySettings,
    out: Path,
    names: Sequence[str] = (),
    *,
    experiments: Mapping[str, Experiment] = EXPERIMENTS,
    jobs: int = 1,
    announce: Announce = unseen,
) -> Reproduction:
    """Run experiments; finished ones, and finished stages under them, are taken as they are.

    Args:
        settings: of the study whose cohorts and segmenters they run on.
        out: the run's folder; that of a finished study or demo is continued.
        names: experiments; empty takes all.
        experiments: to choose from.
        jobs: stages and experiments at once, as in `run_study`.
        announce: shown which stage is worked on, and how far it is.

    Returns:
        The run, with reproduction.json written.

    Raises:
        ValueError: an experiment that does not exist, or data that cannot be used.
        ArtifactError: another process holds ``out``.
        OSError: the disk is full, or the folder cannot be written.
    """
    unknown = [name for name in names if name not in experiments]
    if unknown:
        raise ValueError(f"no experiment {', '.join(unknown)}; there are {', '.join(experiments)}")
    run = Run(out)
    table = analysis_table()
    study = Study(settings, run, table, announce)
    faults: dict[str, Exception] = {}
    asked = [experiments[name] for name in names or experiments]
    with run.writing(settings.model_dump(mode="json")), quarantine_reported(out, settings.cohorts):
        if jobs > 1:
            work_ahead(settings, _tasks(settings, table, asked), run, jobs=jobs, announce=announce)
        for cohort in settings.cohorts:  # data that cannot be used are no experiment's fault
            study.slices(cohort)
        for experiment in asked:
            try:
                _finish(study, experiment)
            except OSError:
                raise
            except Exception as error:  # one broken experiment must not cost the hours of the others
                faults[experiment.name] = error
        document = {
            "study": settings.name,
            "seed": settings.seed,
            "trained on": {name: own.cohort for name, own in settings.segmenters.items()},
            "experiments": {name: _entry(run, experiments[name]) for name in finished(run, experiments)},
            "faults": {name: f"{type(error).__name__}: {error}" for name, error in faults.items()},
        }
        write_text_whole(out / FILE, canonical_json(document) + "\n")
    return Reproduction(run, faults)


def finished(run: Run, experiments: Mapping[str, Experiment] = EXPERIMENTS) -> list[str]:
    """The experiments whose outcome a run holds, in the order of the page."""

    def is_finished(stage: str) -> bool:
        try:
            return stage in run and bool(run.artifact(stage))
        except ArtifactError:  # its folder was removed to have it done again
            return False

    return [name for name in experiments if is_finished(f"experiment/{name}")]


def outcome_of(run: Run, name: str) -> Outcome:
    """The outcome of a finished experiment."""
    return Outcome.read(run.artifact(f"experiment/{name}"))


def _tasks(settings: StudySettings, table: Mapping[str, Analysis], asked: Sequence[Experiment]) -> list[Task]:
    """The dictionaries of a study, which nearly every experiment needs; the longest parts; and the experiments."""
    under = [(name, unit) for name in UNDER_EXPERIMENTS for unit in table[name].units(settings)]
    stages = tasks_of(settings, table, under)
    parts = {
        experiment: [Task(_attempt, (do,), frozenset(stages)) for do in experiment.parts(settings)]
        for experiment in asked
    }
    whole = [
        Task(_attempt, (partial(_finish, experiment=experiment),), frozenset([*stages, *own]))
        for experiment, own in parts.items()
    ]
    return [*stages, *itertools.chain(*parts.values()), *whole]


def _attempt(study: Study, do: Callable[[Study], object]) -> None:
    """In a worker: what breaks off there is met again, and told, by the process that keeps the books."""
    with suppress(Exception):
        do(study)


def _finish(study: Study, experiment: Experiment) -> None:
    """Everything a study computes follows from its settings and slices, so these are an experiment's inputs."""
    inputs = {
        "version": experiment.version,
        "inputs": dict(experiment.inputs),
        "settings": study.settings.model_dump(mode="json"),
        "slices": {cohort: study.slices(cohort).hash for cohort in study.settings.cohorts},
    }
    stage = Stage(f"experiment/{experiment.name}", KIND, inputs)

    def make(path: Path, checkpoint: Path) -> None:
        with study.announce(stage.name) as progress:
            outcome = _answer(experiment, study, progress)
        with new_artifact(path, kind=KIND, inputs=inputs) as draft:
            outcome.write(draft)

    study.run.finish(stage, make)


def _answer(experiment: Experiment, study: Study, progress: Progress) -> Outcome:
    try:
        return Outcome(experiment.run(study, progress))
    except NotApplicableError as reason:
        return Outcome(None, str(reason))


def _entry(run: Run, experiment: Experiment) -> dict[str, Any]:
    outcome = outcome_of(run, experiment.name)
    entry: dict[str, Any] = {"title": experiment.title, "paper": experiment.paper}
    if outcome.finding is None:
        return entry | {"not_applicable": outcome.not_applicable}
    return entry | {
        "headline": dict(outcome.finding.headline),
        "published": {
            name: {"value": published.value, "where": published.where}
            for name, published in experiment.published.items()
        },
        "left_out": list(outcome.finding.left_out),
        "seconds": run.timings.get(f"experiment/{experiment.name}"),
    }
