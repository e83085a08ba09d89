"""The command ``seglens``: verbs, no logic. Heavy imports happen inside the verb that needs them."""

import os
import sys
import traceback
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from seglens.allocator import keep_freed_memory
from seglens.cohort_verbs import Strict, check, pairs, predict
from seglens.foreign_verbs import convert_pkl, name, unpack
from seglens.running import Stopped, asked_to_stop, heeding_signals

if TYPE_CHECKING:
    from seglens.studies.run import Run
    from seglens.studies.settings import StudySettings

DONE, FAULT, REFUSED, QUARANTINED = 0, 1, 2, 3
SERVER_KEEPS = 2**28
"""Bytes of freed memory that the explorer holds on to (see `keep_freed_memory`): it waits for a person."""
TOGETHER = ("demo", "run", "train", "extract", "fit", "describe", "diff", "steer")
"""Verbs that several processes do together; any other is done by the first of them."""

app = App(
    name="seglens",
    help="Open a segmentation model: what two populations share inside it, what is particular to one, what fails. "
    "With --debug a fault shows its traceback.",
    version_flags=["--version"],
)

Out = Annotated[Path, Parameter(help="Folder of the run; finished stages in it are reused.")]
Jobs = Annotated[int | None, Parameter(help="Stages at once, a worker process each; by default one a core, 4 at most.")]
StudyFile = Annotated[Path, Parameter(help="The study's YAML file; `seglens run --example` prints one.")]


@app.command
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


@app.command
def run(
    study: StudyFile | None = None,
    *,
    out: Out = Path("results"),
    jobs: Jobs = None,
    strict: Strict = False,
    example: Annotated[bool, Parameter(help="Print a commented study file and stop.", negative="")] = False,
) -> int:
    """Every stage on your own cohorts, one HTML report."""
    from seglens.studies.settings import EXAMPLE, SettingsError, StudySettings

    if example:
        print(EXAMPLE, end="")
        return DONE
    if study is None:
        raise SettingsError("no study file given; write one with `seglens run --example > study.yaml`")
    settings = StudySettings.read(study)
    return _run(settings.model_copy(update={"strict": settings.strict or strict}), out, jobs)


app.command(check)
app.command(predict)
app.command(unpack)
app.command(convert_pkl, name="convert-pkl")
app.command(name)


@app.command
def phantom(
    *,
    out: Annotated[Path, Parameter(help="Folder for the cohort, in nnU-Net's raw layout.")],
    population: Literal["adult", "pediatric", "ssa", "healthy"],
    subjects: int = 20,
    seed: int = 0,
    slices: int = 10,
    size: int = 128,
    factor: Annotated[
        list[str] | None, Parameter(help="One difference of another population, such as noise=ssa; repeatable.")
    ] = None,
) -> int:
    """Make a cohort with planted truth."""
    from seglens.cohorts.phantom.cohort import write_phantom_cohort
    from seglens.terminal import StageDisplay

    factors = pairs(",".join(factor or []))
    with StageDisplay()(f"phantom {population}") as progress:
        write_phantom_cohort(
            out,
            population,
            subjects=subjects,
            seed=seed,
            factors=factors,
            size=size,
            slices=slices,
            workers=os.cpu_count() or 1,
            progress=progress,
        )
    return DONE


@app.command
def train(study: StudyFile, *names: str, out: Out = Path("results")) -> int:
    """Train the study's segmenters (or those named) and score them on every cohort."""
    return _stages(study, out, names, ("segmenter", "scores"))


@app.command
def extract(study: StudyFile, *names: str, out: Out = Path("results")) -> int:
    """Measure what each hookpoint does and store the activations of the chosen one."""
    return _stages(study, out, names, ("effects", "store"))


@app.command
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


@app.command
def describe(study: StudyFile, *names: str, out: Out = Path("results")) -> int:
    """Say what each latent means."""
    return _stages(study, out, names, ("atlas",))


@app.command
def diff(study: StudyFile, *, out: Out = Path("results")) -> int:
    """Align the dictionaries of all pairs of segmenters, between floor and ceiling."""
    return _stages(study, out, (), ("alignments",))


@app.command
def steer(
    study: StudyFile,
    *,
    out: Out = Path("results"),
    policy: Annotated[
        Literal["held_out", "auto"],
        Parameter(
            help="auto: an edit only where it beats every rival in cross-validation, else it says that none does."
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


@app.command
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
    from seglens.reports.reproduction import write_reproduction
    from seglens.studies.demo import demo_settings
    from seglens.studies.paper import EXPERIMENTS, non_medical
    from seglens.studies.paper.reproduction import reproduce
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


@app.command
def report(run: Annotated[Path, Parameter(help="A run's folder.")]) -> int:
    """Write report.html anew from a run's finished stages."""
    from seglens.reports.report import write_report
    from seglens.studies.run import Run

    print(write_report(Run(run)))
    return DONE


@app.command
def explore(
    run: Annotated[Path, Parameter(help="A finished run's folder.")],
    *,
    save: Annotated[
        Path | None, Parameter(help="Write the chosen latents as one HTML file that can be sent, and open nothing.")
    ] = None,
    latents: Annotated[
        tuple[str, ...], Parameter(help="With --save, a segmenter and its latents: adult:3,17. May be repeated.")
    ] = (),
    port: Annotated[int, Parameter(help="0 takes a free one.")] = 0,
    open_browser: Annotated[bool, Parameter(name="--browser", help="Open the page in your browser.")] = True,
) -> int:
    """Look at latents and turn them, in a browser on this machine; Ctrl-C ends it."""
    try:
        from seglens.explorer.serving import serve
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed; the explorer is an extra: pip install 'med-seglens[explorer]'"
        ) from None
    if save is not None:
        _save_latents(run, save, latents)
        return DONE
    if latents:
        raise ValueError("--latents are those that --save writes; give --save FILE too")

    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="seglens-") as folder:

        def told(address: str) -> None:
            print(f"open {address}", flush=True)
            if open_browser:
                _open_privately(address, Path(folder))

        keep_freed_memory(SERVER_KEEPS)
        serve(run, port=port, told=told)
    return DONE


def _save_latents(run: Path, path: Path, chosen: tuple[str, ...]) -> None:
    """Write chosen latents, such as ``adult:3,17``, as one page with the names that people gave."""
    from seglens.explorer.names import Names
    from seglens.reports.chosen import write_chosen
    from seglens.studies.run import Run

    latents: dict[str, list[int]] = {}
    for entry in chosen:
        segmenter, _, numbers = entry.rpartition(":")
        if not segmenter or not all(number.strip().isdecimal() for number in numbers.split(",")):
            raise ValueError(f"--latents {entry!r}: give a segmenter and numbers, such as adult:3,17")
        latents.setdefault(segmenter, []).extend(int(number) for number in numbers.split(","))
    opened, names = Run(run), Names(run)
    hashes = {
        name: opened.artifact(f"atlas/{name}").document("atlas")["context"]["dictionary_hash"]
        for name in latents
        if f"atlas/{name}" in opened
    }
    given = {(name, latent): own.name for name, hash_ in hashes.items() for latent, own in names.of(hash_).items()}
    print(write_chosen(opened, latents, path, given=given))


def _open_privately(address: str, folder: Path) -> None:
    """Open an address that holds a secret by way of a page in a folder of ours: others can read a command line."""
    import webbrowser
    from html import escape

    page = folder / "explorer.html"
    page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address)}">')
    webbrowser.open(page.as_uri())


@app.command
def doctor(
    run: Annotated[Path | None, Parameter(help="A run's folder; without one, the machine is examined.")] = None,
    *,
    repair: Annotated[bool, Parameter(help="Set damaged artifacts aside, to be made again.", negative="")] = False,
) -> int:
    """Versions, devices, memory, disk, and what would break; or whether every byte of a run is as it was written."""
    if run is not None:
        return _doctor_of_run(run, repair=repair)
    if repair:
        raise ValueError("--repair mends a run; give its folder: seglens doctor RUN --repair")
    from seglens.doctor import examine

    text, healthy = examine()
    print(text)
    return DONE if healthy else FAULT


def _doctor_of_run(run: Path, *, repair: bool) -> int:
    from seglens.studies.condition import condition_of
    from seglens.studies.condition import repair as set_aside
    from seglens.terminal import StageDisplay

    with StageDisplay()(f"doctor {run}") as progress:
        condition = condition_of(run, progress=progress)
    print(condition.text())
    if not repair:
        return FAULT if condition.faulty else DONE
    moved = set_aside(condition)
    for place in moved:
        print(f"moved to {place}")
    return QUARANTINED if moved else DONE


def _run(settings: "StudySettings", out: Path, jobs: int | None) -> int:
    from seglens.processes import from_first
    from seglens.reports.findings import plain_findings
    from seglens.reports.report import write_report
    from seglens.studies.parallel import default_jobs
    from seglens.studies.study import run_study
    from seglens.terminal import StageDisplay

    display = StageDisplay()
    finished = run_study(settings, out, jobs=default_jobs() if jobs is None else jobs, announce=display)
    with display("report"):
        page = from_first(lambda: write_report(finished))
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


def main() -> None:
    """Entry point; docs/exit-codes.md says what the exit codes mean."""
    keep_freed_memory()
    with heeding_signals():
        try:
            many = int(os.environ.get("WORLD_SIZE", "1")) > 1
            code, complaint = (_as_one_of_many(), "") if many else _answer()
        except (Exception, Stopped) as error:  # before the processes have met, or between two lines of this
            code, complaint = _explained(error)
        if complaint:
            print(complaint, file=sys.stderr)
        sys.exit(code)


def _as_one_of_many() -> int:
    """The command as one of a launcher's processes: the first speaks for all, and who fails ends all."""
    from seglens.processes import from_first, launched

    with ExitStack() as stack:
        team = stack.enter_context(launched())
        speaks = sys.stderr
        if team.rank > 0:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        mine = team.rank == 0 or (len(sys.argv) > 1 and sys.argv[1] in TOGETHER)
        code, complaint = _answer() if mine else (DONE, "")
        if code in (DONE, QUARANTINED):
            try:
                return from_first(lambda: code)
            except (RuntimeError, Stopped) as error:
                code, complaint = _explained(error)
        code, first = team.fail(code)
        if first and complaint:
            print(f"{complaint} (process {team.rank})" if team.rank else complaint, file=speaks)
        return code


def _answer() -> tuple[int, str]:
    """Do what the command line asks for; the exit code, and what is to be said on the error stream."""
    asked = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(asked, exit_on_error=False, print_error=True, result_action="return_value")
        return (code if isinstance(code, int) else DONE), ""
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE, ""
    except (Exception, Stopped) as error:
        return _explained(error)


def _explained(error: BaseException) -> tuple[int, str]:
    """What an error means to whoever gave the command: the exit code, and what to say."""
    from cyclopts import CycloptsError

    number = error.number if isinstance(error, Stopped) else asked_to_stop()
    if number is not None:  # what fails after that fails because its workers were stopped too
        stop = Stopped(number)
        return stop.exit_code, f"seglens: stopped by {stop}; the same command goes on where this one was"
    if isinstance(error, CycloptsError):  # has been printed
        return REFUSED, ""
    full = _out_of_memory(error)
    code = REFUSED if full or isinstance(error, ValueError | FloatingPointError) else FAULT
    if "--debug" in sys.argv or os.environ.get("SEGLENS_DEBUG"):
        return code, "".join(traceback.format_exception(error)).rstrip()
    if code == REFUSED:
        return code, f"seglens: {full or error}"
    return code, f"seglens: {type(error).__name__}: {error}\nadd --debug for the traceback"


def _out_of_memory(error: BaseException) -> str:
    """What to do where the memory was too little in a place that does not halve its batches; "" for other errors."""
    if isinstance(error, ValueError) or not isinstance(error, RuntimeError | MemoryError):
        return ""
    from seglens.halving import first_line, out_of_memory

    cure = "make batches (batch_size) or slices (size) smaller, or start more processes"
    return f"out of memory: {first_line(error)}; {cure}" if out_of_memory(error) else ""


if __name__ == "__main__":
    main()
