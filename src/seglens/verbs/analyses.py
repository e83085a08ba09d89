"""The verbs that the table of analyses gives: each does its rows, and whatever they are made from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from seglens.verbs.options import DONE, QUARANTINED, Jobs, Out, StudyFile

if TYPE_CHECKING:
    from seglens.runs import Run
    from seglens.studies.analysis import Analysis


def verb_of(rows: "Sequence[Analysis]") -> Callable[..., int]:
    """The function behind a verb.

    Args:
        rows: of the table, in the order in which they are done.
    """

    def verb(
        study: StudyFile,
        *names: Annotated[str, Parameter(help="Which, such as names of segmenters; none takes all.")],
        out: Out = Path("results"),
        jobs: Jobs = None,
        no_store: Annotated[
            bool,
            Parameter(help="Compute activations when they are read; as `store: false` in the study file.", negative=""),
        ] = False,
    ) -> int:
        from seglens.studies.parallel import default_jobs
        from seglens.studies.settings import StudySettings
        from seglens.studies.study import run_stages
        from seglens.terminal import StageDisplay

        settings = StudySettings.read(study)
        settings = settings.model_copy(update={"store": settings.store and not no_store})
        finished = run_stages(
            settings,
            out,
            [row.name for row in rows],
            names,
            jobs=default_jobs() if jobs is None else jobs,
            announce=StageDisplay(),
        )
        for row in rows:
            for sentence in row.sentences(finished) if row.sentences else ():
                print(sentence)
        return exit_code(finished)

    verb.__doc__ = " ".join(row.about for row in rows)
    return verb


def exit_code(run: "Run") -> int:
    """Whether cases of a run were left out."""
    checks = [run.artifact(stage).document("check") for stage in run.stages("check/")]
    return QUARANTINED if any(check["quarantined"] for check in checks) else DONE
