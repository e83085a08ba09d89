"""The verbs of a whole study: all of its analyses, or the paper's experiments on it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from seglens.verbs.analyses import exit_code
from seglens.verbs.options import DONE, WHOLE, Jobs, Out, Strict, StudyFile

if TYPE_CHECKING:
    from seglens.studies.settings import StudySettings


def demo(
    *,
    out: Out = Path("demo"),
    seed: Annotated[int, WHOLE, Parameter(help="Everything random follows from it.")] = 0,
    jobs: Jobs = None,
    quick: Annotated[
        bool, Parameter(help="Two small cohorts, the same stages, under two minutes.", negative="")
    ] = False,
) -> int:
    """Phantom cohorts, every stage, one HTML report."""
    from seglens.studies.demo import demo_settings

    return _run(demo_settings(seed, quick=quick), out, jobs)


def run(
    study: StudyFile | None = None,
    *,
    out: Out = Path("results"),
    jobs: Jobs = None,
    strict: Strict = False,
    example: Annotated[
        bool, Parameter(help="Print a commented study file and stop; `--example paper`: the paper's.", negative="")
    ] = False,
) -> int:
    """Every stage on your own cohorts, one HTML report."""
    from seglens.runtime.suggestions import did_you_mean
    from seglens.studies.example import EXAMPLES
    from seglens.studies.settings import SettingsError, StudySettings

    if example:
        name = "study" if study is None else str(study)
        if name not in EXAMPLES:
            raise SettingsError(f"no example {name!r}; {did_you_mean(name, EXAMPLES)}there are {', '.join(EXAMPLES)}")
        print(EXAMPLES[name], end="")
        return DONE
    if study is None:
        raise SettingsError("no study file given; write one with `seglens run --example > study.yaml`")
    settings = StudySettings.read(study)
    return _run(settings.model_copy(update={"strict": settings.strict or strict}), out, jobs)


def plan(
    study: StudyFile | None = None,
    *,
    demo: Annotated[bool, Parameter(help="Of the demo instead of a study file.", negative="")] = False,
    quick: Annotated[bool, Parameter(help="With --demo: of its small form.", negative="")] = False,
    out: Annotated[Path, Parameter(help="Folder where the run would be, for the room on its disk.")] = Path("results"),
    jobs: Jobs = None,
) -> int:
    """Cost of a study on this machine: slices, tokens, disk, memory and hours, from miniatures of it."""
    from seglens.studies.demo import demo_settings
    from seglens.studies.parallel import default_jobs
    from seglens.studies.plan_text import plan_text
    from seglens.studies.planning import plan_study
    from seglens.studies.settings import SettingsError, StudySettings
    from seglens.terminal import StageDisplay

    if demo == (study is not None) or (quick and not demo):
        raise SettingsError("give either a study file or --demo; --quick goes with --demo")
    settings = demo_settings(quick=quick) if study is None else StudySettings.read(study)
    made = plan_study(settings, jobs=default_jobs() if jobs is None else jobs, announce=StageDisplay())
    print(plan_text(made, out))
    return DONE


def reproduce(
    *experiments: Annotated[str, Parameter(help="Names; none takes all. `--list` prints them.")],
    study: Annotated[Path | None, Parameter(help="Your study's YAML file; without one, the demo's cohorts.")] = None,
    out: Out = Path("reproduction"),
    seed: Annotated[int, WHOLE, Parameter(help="Of the demo's cohorts.")] = 0,
    jobs: Jobs = None,
    quick: Annotated[bool, Parameter(help="Two small cohorts; the figures mean nothing.", negative="")] = False,
    faces: Annotated[
        Path | None, Parameter(help="For non_medical: a folder in the CelebAMask-HQ layout; without one, drawn faces.")
    ] = None,
    list_: Annotated[bool, Parameter(name="--list", help="Print the experiments and stop.", negative="")] = False,
) -> int:
    """Every table and figure of the paper between its floor and its ceiling, and what goes beyond them; one page."""
    from seglens.experiments import EXPERIMENTS, non_medical
    from seglens.experiments.page import write_reproduction
    from seglens.experiments.reproduction import reproduce
    from seglens.studies.demo import demo_settings
    from seglens.studies.parallel import default_jobs
    from seglens.studies.settings import StudySettings
    from seglens.terminal import StageDisplay

    if list_:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:<16} {experiment.title} ({experiment.paper})")
        return DONE
    settings = StudySettings.read(study) if study else demo_settings(seed, quick=quick)
    jobs = default_jobs() if jobs is None else jobs
    offered = EXPERIMENTS if faces is None else {**EXPERIMENTS, "non_medical": non_medical.on_folder(faces)}
    done = reproduce(settings, out, experiments, experiments=offered, jobs=jobs, announce=StageDisplay())
    print(write_reproduction(done.run))
    for name, error in done.faults.items():
        print(f"{name} broke off: {error}", file=sys.stderr)
    if done.faults:
        raise next(iter(done.faults.values()))
    return exit_code(done.run)


def _run(settings: "StudySettings", out: Path, jobs: int | None) -> int:
    from seglens.reports.findings import plain_findings
    from seglens.runtime.distributed import broadcast_from_main
    from seglens.studies.parallel import default_jobs
    from seglens.studies.report import write_report
    from seglens.studies.study import run_study
    from seglens.studies.table import analysis_table
    from seglens.summaries import summary_of
    from seglens.terminal import StageDisplay

    display = StageDisplay()
    finished = run_study(settings, out, jobs=default_jobs() if jobs is None else jobs, announce=display)
    with display("report"):
        page = broadcast_from_main(lambda: write_report(finished))
    for row in analysis_table().values():
        for sentence in row.sentences(finished) if row.sentences and row.part_of(settings) else ():
            print(sentence)
    summary = summary_of(finished)
    for finding in plain_findings(summary) if summary else ():
        print(f"- {finding}")
    print(page)
    return exit_code(finished)
