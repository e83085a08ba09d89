"""A study from its settings to a summary."""

import time
from collections.abc import Sequence
from pathlib import Path

from seglens.artifacts import canonical_json, write_text_whole
from seglens.runs import Run
from seglens.runtime.distributed import barrier, is_main_process, rank_and_size
from seglens.runtime.resources import peak_rss_mib
from seglens.studies.input_checksums import quarantine_reported
from seglens.studies.parallel import tasks_of, work_ahead
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Announce, Study, unseen
from seglens.studies.summary import summarise


def run_study(settings: StudySettings, out: Path, *, jobs: int = 1, announce: Announce = unseen) -> Run:
    """Do what a study asks for; finished stages are taken as they are.

    In a torch.distributed group every process calls it; `Run.finish` says what each does.

    Args:
        settings: what to do.
        out: the run's folder.
        jobs: stages at once, each in a process of its own with an equal share of the threads. From 2 on a script that
            calls this must do so under ``if __name__ == "__main__":``. In a torch.distributed group it must be 1.
        announce: shown which stage is worked on, and how far it is.

    Returns:
        The run, with summary.json written.

    Raises:
        ValueError: settings or data that cannot be used.
        ArtifactError: another process holds ``out``.
    """
    if jobs < 1 or (jobs > 1 and rank_and_size()[1] > 1):
        raise ValueError(f"jobs is {jobs}; it must be 1 or more, and 1 where a launcher started several processes")
    run = Run(out)
    study = Study(settings, run, announce)
    with run.writing(settings.model_dump(mode="json")), quarantine_reported(out, settings.cohorts):
        started = time.perf_counter()
        workers_rss_mib = 0
        if jobs > 1:
            workers_rss_mib = work_ahead(settings, tasks_of(settings), run, jobs=jobs, announce=announce)
        study.run_all()
        if is_main_process():
            summary = summarise(run, settings)
            summary["seconds"] = round(time.perf_counter() - started, 1)
            summary["peak_rss_mib"] = peak_rss_mib() + workers_rss_mib
            write_text_whole(out / "summary.json", canonical_json(summary) + "\n")
        barrier()
    return run


def run_stages(
    settings: StudySettings,
    out: Path,
    stage_names: Sequence[str],
    names: Sequence[str] = (),
    *,
    announce: Announce = unseen,
) -> Run:
    """Do some stages, and whatever they are made from.

    Args:
        settings: of the study.
        out: the run's folder.
        stage_names: methods of `Study`, such as ``("dictionary", "quality")``.
        names: segmenters to do them for; empty takes all. Stages over pairs take no names.
        announce: as in `run_study`.

    Raises:
        ValueError: a segmenter that the study does not have.
    """
    unknown = sorted(set(names) - set(settings.segmenters))
    if unknown:
        raise ValueError(f"no segmenter {', '.join(unknown)}; the study has {', '.join(settings.segmenters)}")
    run = Run(out)
    study = Study(settings, run, announce)
    with run.writing(settings.model_dump(mode="json")), quarantine_reported(out, settings.cohorts):
        for stage_name in stage_names:
            do = getattr(study, stage_name)
            if stage_name in {"alignments", "steerings", "recoveries"}:
                do()
            else:
                for name in names or settings.segmenters:
                    do(name)
    return run
