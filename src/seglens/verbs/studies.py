"""The verbs of a study: all of it, one stage of it, or the paper's experiments on it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from seglens.verbs.options import DONE, QUARANTINED, Jobs, Out, Strict, StudyFile

if TYPE_CHECKING:
    from seglens.runs import Run
    from seglens.studies.settings import StudySettings


def demo(
    *,
    out: Out = Path("demo"),
    seed: Annotated[int, Parameter(help="Everything random follows from it.")] = 0,
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
    example: Annotated[bool, Parameter(help="Print a commented study file and stop.", negative="")] = False,
) -> int:
    """Every stage on your own cohorts, one HTML report."""
    from seglens.studies.example import EXAMPLE
    from seglens.studies.settings import SettingsError, StudySettings

    if example:
        print(EXAMPLE, end="")
        return DONE
    if study is None:
        raise SettingsError("no study file given; write one with `seglens run --example > study.yaml`")
    settings = StudySettings.read(study)
    return _run(settings.model_copy(update={"strict": settings.strict or strict}), out, jobs)


def train(study: StudyFile, *names: str, out: Out = Path("results")) -> int:
    """Train the study's segmenters (or those named) and score them on every cohort."""
    return _stages(study, out, names, ("segmenter", "scores"))


def extract(study: StudyFile, *names: str, out: Out = Path("results")) -> int:
    """Measure what each hookpoint does and store the activations of the chosen one."""
    return _stages(study, out, names, ("effects", "store"))


def fit(
    study: StudyFile,
    *names: str,
    out: Out = Path("results"),
    no_store: Annotated[
        bool,
        Parameter(help="Compute activations when they are read; as `store: false` in the study file.", negative=""),
    ] = False,
) -> int:
    """Fit a dictionary to each segmenter's activations and measure its quality."""
    return _stages(study, out, names, ("dictionary", "quality"), store=not no_store)


def describe(study: StudyFile, *names: str, out: Out = Path("results")) -> int:
    """Say what each latent means."""
    return _stages(study, out, names, ("atlas",))


def diff(study: StudyFile, *, out: Out = Path("results")) -> int:
    """Align the dictionaries of all pairs of segmenters, between floor and ceiling."""
    return _stages(study, out, (), ("alignments",))


def steer(
    study: StudyFile,
    *,
    out: Out = Path("results"),
    policy: Annotated[
        Literal["held_out", "auto"],
        Parameter(
            help="auto: an edit only where it beats every baseline in cross-validation, else it says that none does."
        ),
    ] = "held_out",
) -> int:
    """Adapt segmenters to other cohorts, and recover failures, by changing latents."""
    if policy == "auto":
        from seglens.studies.settings import StudySettings
        from seglens.studies.verdict_stages import decide
        from seglens.terminal import StageDisplay

        for sentence in decide(StudySettings.read(study), out, announce=StageDisplay()):
            print(f"- {sentence}")
        return DONE
    return _stages(study, out, (), ("steerings", "recoveries"))


def reproduce(
    *experiments: Annotated[str, Parameter(help="Names; none takes all. `--list` prints them.")],
    study: Annotated[Path | None, Parameter(help="Your study's YAML file; without one, the demo's cohorts.")] = None,
    out: Out = Path("reproduction"),
    seed: Annotated[int, Parameter(help="Of the demo's cohorts.")] = 0,
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
    return _exit_code(done.run)


def _run(settings: "StudySettings", out: Path, jobs: int | None) -> int:
    from seglens.reports.findings import plain_findings
    from seglens.reports.report import write_report
    from seglens.runtime.distributed import broadcast_from_main
    from seglens.studies.parallel import default_jobs
    from seglens.studies.study import run_study
    from seglens.terminal import StageDisplay

    display = StageDisplay()
    finished = run_study(settings, out, jobs=default_jobs() if jobs is None else jobs, announce=display)
    with display("report"):
        page = broadcast_from_main(lambda: write_report(finished))
    _print_effects(finished)
    for finding in plain_findings(finished.summary):
        print(f"- {finding}")
    print(page)
    return _exit_code(finished)


def _stages(study: Path, out: Path, names: tuple[str, ...], stages: tuple[str, ...], *, store: bool = True) -> int:
    from seglens.studies.settings import StudySettings
    from seglens.studies.study import run_stages
    from seglens.terminal import StageDisplay

    settings = StudySettings.read(study)
    settings = settings.model_copy(update={"store": settings.store and store})
    finished = run_stages(settings, out, stages, names, announce=StageDisplay())
    if "effects" in stages:
        _print_effects(finished)
    return _exit_code(finished)


def _print_effects(run: "Run") -> None:
    """Foreground Dice before and after each hookpoint's activation is replaced by its mean."""
    for stage in run.stages("effects/"):
        table = run.artifact(stage).table("effects")
        rows = table.filter(table["class"] == "foreground").to_dicts()
        drops = [f"{row['hookpoint']} {row['dice_before'] or 0:.2f} to {row['dice_ablated'] or 0:.2f}" for row in rows]
        print(f"mean ablation, {stage.removeprefix('effects/')}: {', '.join(drops)}")


def _exit_code(run: "Run") -> int:
    checks = [run.artifact(stage).document("check") for stage in run.stages("check/")]
    return QUARANTINED if any(check["quarantined"] for check in checks) else DONE
