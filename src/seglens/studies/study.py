"""A study from its settings to a summary."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from seglens.artifacts import canonical_json, write_text_whole
from seglens.lens_names import segmenter_of
from seglens.runs import Run
from seglens.runtime.distributed import barrier, is_main_process, rank_and_size
from seglens.runtime.progress import Announce, unseen
from seglens.runtime.resources import peak_rss_mib
from seglens.runtime.suggestions import did_you_mean
from seglens.studies.analysis import Analysis, Unit
from seglens.studies.input_checksums import quarantine_reported
from seglens.studies.parallel import tasks_of, work_ahead
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Study
from seglens.studies.summary import summarise
from seglens.studies.table import analysis_table
from seglens.summaries import FILE


def run_study(settings: StudySettings, out: Path, *, jobs: int = 1, announce: Announce = unseen) -> Run:
    """Do what a study asks for; finished stages are taken as they are.

    In a torch.distributed group every process calls it; `Run.finish` says what each does.

    Args:
        settings: what to do.
        out: the run's folder.
        jobs: stages at once, each in a process of its own. It changes no result: every stage is computed with the same
            number of threads (`seglens.runtime.threads.stage_threads`). From 2 on a script that calls this must do so
            under ``if __name__ == "__main__":``. In a torch.distributed group it must be 1.
        announce: shown which stage is worked on, and how far it is.

    Returns:
        The run, with summary.json written.

    Raises:
        ValueError: settings or data that cannot be used.
        ArtifactError: another process holds ``out``.
    """
    table = analysis_table()
    asked = [(row, unit) for row in table.values() if row.part_of(settings) for unit in row.units(settings)]
    with _at_work(settings, out, table, jobs, announce) as study:
        started = time.perf_counter()
        workers_rss_mib = _finish(study, asked, jobs)
        if is_main_process():
            summary = summarise(study.run, settings, table)
            summary["seconds"] = round(time.perf_counter() - started, 1)
            summary["peak_rss_mib"] = peak_rss_mib() + workers_rss_mib
            write_text_whole(out / FILE, canonical_json(summary) + "\n")
        barrier()
    return study.run


def run_stages(
    settings: StudySettings,
    out: Path,
    stage_names: Sequence[str],
    names: Sequence[str] = (),
    *,
    jobs: int = 1,
    announce: Announce = unseen,
) -> Run:
    """Do some analyses, and whatever they are made from.

    Args:
        settings: of the study.
        out: the run's folder.
        stage_names: of analyses, such as ``("dictionary", "quality")``.
        names: what to do them for, by the names that a unit of each begins with, such as segmenters; empty takes all.
        jobs: as in `run_study`.
        announce: as in `run_study`.

    Raises:
        ValueError: a name that none of their units begins with.
    """
    table = analysis_table()
    units = [(table[name], unit) for name in stage_names for unit in table[name].units(settings)]
    known = dict.fromkeys(name for row, unit in units for name in _names_of(row, unit))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"{', '.join(stage_names)}: there is none for {', '.join(unknown)}; {did_you_mean(unknown[0], known)}"
            f"the study has {', '.join(known)}"
        )
    chosen = [(row, unit) for row, unit in units if not names or {*_names_of(row, unit)} & {*names}]
    with _at_work(settings, out, table, jobs, announce) as study:
        _finish(study, chosen, jobs)
    return study.run


def _names_of(row: Analysis, unit: Unit) -> list[str]:
    """Names by which a unit is chosen; that of a segmenter stands for all of its lenses."""
    subjects = [str(name) for name in unit[: row.subjects]]
    return [*map(segmenter_of, subjects), *subjects]


@contextmanager
def _at_work(
    settings: StudySettings, out: Path, table: Mapping[str, Analysis], jobs: int, announce: Announce
) -> Iterator[Study]:
    if jobs < 1 or (jobs > 1 and rank_and_size()[1] > 1):
        raise ValueError(f"jobs is {jobs}; it must be 1 or more, and 1 where a launcher started several processes")
    run = Run(out)
    study = Study(settings, run, table, announce)
    with run.writing(settings.model_dump(mode="json")), quarantine_reported(out, settings.cohorts):
        yield study


def _finish(study: Study, asked: Iterable[tuple[Analysis, Unit]], jobs: int) -> int:
    """Do units of analyses; the memory that workers have held, in MiB."""
    pairs = [(row.name, unit) for row, unit in asked]
    workers_rss_mib = 0
    if jobs > 1:
        tasks = tasks_of(study.settings, study.analyses, pairs)
        workers_rss_mib = work_ahead(study.settings, tasks, study.run, jobs=jobs, announce=study.announce)
    for name, unit in pairs:
        study.result(name, *unit)
    return workers_rss_mib
