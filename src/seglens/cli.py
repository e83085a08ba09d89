"""The command ``seglens``: its verbs, and what an error means to whoever gave the command."""

import errno
import os
import sys
import traceback
from contextlib import ExitStack, nullcontext, redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path

from cyclopts import App

from seglens.runtime.malloc import keep_freed_memory
from seglens.runtime.signals import Stopped, asked_to_stop, heeding_signals
from seglens.runtime.streams import lasting_streams
from seglens.studies.table import analysis_table, verbs_of
from seglens.verbs.analyses import verb_of
from seglens.verbs.audit import audit
from seglens.verbs.data import check, phantom
from seglens.verbs.foreign import convert_pkl, name, unpack
from seglens.verbs.models import open_, predict
from seglens.verbs.options import DONE, FAULT, QUARANTINED, REFUSED
from seglens.verbs.runs import doctor, explore, report
from seglens.verbs.studies import demo, plan, reproduce, run

OWN = (
    demo,
    run,
    plan,
    reproduce,
    report,
    explore,
    doctor,
    phantom,
    check,
    open_,
    predict,
    audit,
    unpack,
    convert_pkl,
    name,
)
"""Verbs beside those of the table of analyses."""


app = App(
    name="seglens",
    help="Open a segmentation model: what two populations share inside it, what is particular to one, what fails. "
    "With --debug a fault shows its traceback.",
    version_flags=["--version"],
)
for own in OWN:
    app.command(own)
_TAKEN = frozenset(app)


def add_analyses() -> list[str]:
    """Add the verbs of the table of analyses to the command.

    Returns:
        The verbs that several processes do together; any other is done by the first of them.

    Raises:
        ValueError: an installed analysis that cannot be loaded, or whose verb there is already.
    """
    verbs = verbs_of(analysis_table())
    for verb, rows in verbs.items():
        if verb in _TAKEN:
            raise ValueError(f"the analysis {rows[0].name} has the verb {verb!r}, which the command has already")
        if verb not in app:
            app.command(verb_of(rows), name=verb)
    return [demo.__name__, run.__name__, *verbs]


def main() -> None:
    """Entry point; docs/exit-codes.md says what the exit codes mean."""
    keep_freed_memory()
    with lasting_streams() as out, heeding_signals():
        try:
            many = int(os.environ.get("WORLD_SIZE", "1")) > 1
            code, complaint = (_as_one_of_many(), "") if many else _answer()
        except (Exception, Stopped) as error:  # before the processes have met, or between two lines of this
            code, complaint = _explained(error)
        out.flush()
        if out.full and code == DONE:
            code, complaint = REFUSED, f"seglens: all is done, but not all of the output was written: {out.full}"
        if complaint:
            print(complaint, file=sys.stderr)
        sys.exit(code)


def _as_one_of_many() -> int:
    """The command as one of a launcher's processes: the first speaks for all, and who fails ends all."""
    from seglens.runtime.distributed import alone, broadcast_from_main, launched

    with ExitStack() as stack:
        watchdog = stack.enter_context(launched())
        speaks = sys.stderr
        if watchdog.rank > 0:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        together = next(iter(_asked()), "") in add_analyses()
        with nullcontext() if together else alone():
            code, complaint = _answer() if together or watchdog.rank == 0 else (DONE, "")
        if code in (DONE, QUARANTINED):
            try:
                return broadcast_from_main(lambda: code)
            except (RuntimeError, Stopped) as error:
                code, complaint = _explained(error)
        code, first = watchdog.fail(code)
        if first and complaint:
            print(f"{complaint} (process {watchdog.rank})" if watchdog.rank else complaint, file=speaks)
        return code


def _answer() -> tuple[int, str]:
    """Do what the command line asks for; the exit code, and what is to be said on the error stream."""
    try:
        add_analyses()
        code = app(_asked(), exit_on_error=False, print_error=True, result_action="return_value")
        return (code if isinstance(code, int) else DONE), ""
    except (Exception, Stopped) as error:
        return _explained(error)


def _asked() -> list[str]:
    """The command line without what any verb takes.

    Raises:
        ValueError: an empty argument, which would stand for the present folder.
    """
    for before, argument in pairwise(["seglens", *sys.argv[1:]]):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            raise ValueError(f"nothing is given after {argument or before}; give a value, or leave the option out")
    return [argument for argument in sys.argv[1:] if argument != "--debug"]


def _explained(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error, for the person who gave the command."""
    from cyclopts import CycloptsError

    number = error.number if isinstance(error, Stopped) else asked_to_stop()
    if number is not None:  # what fails after that fails because its workers were stopped too
        stop = Stopped(number)
        return stop.exit_code, f"seglens: stopped by {stop}; the same command goes on where this one was"
    if isinstance(error, CycloptsError):  # has been printed
        return REFUSED, ""
    refusal = _out_of_memory(error) or _refused_path(error)
    code = REFUSED if refusal or isinstance(error, ValueError | FloatingPointError) else FAULT
    if "--debug" in sys.argv or os.environ.get("SEGLENS_DEBUG"):
        return code, "".join(traceback.format_exception(error)).rstrip()
    if code == REFUSED:
        return code, f"seglens: {refusal or error}"
    return code, f"seglens: {type(error).__name__}: {error}\nadd --debug for the traceback"


def _out_of_memory(error: BaseException) -> str:
    """Advice where the memory was too little in a place that does not halve its batches; "" for other errors."""
    if isinstance(error, ValueError) or not isinstance(error, RuntimeError | MemoryError):
        return ""
    from seglens.runtime.oom import first_line, out_of_memory

    fix = "make batches (batch_size) or slices (size) smaller, or start more processes"
    return f"out of memory: {first_line(error)}; {fix}" if out_of_memory(error) else ""


_PATH_ERRORS = {
    errno.ELOOP: "it is a link where none is followed, or links lead round in a circle",
    errno.ENAMETOOLONG: "a name is longer than the file system takes",
    errno.EACCES: "it may not be read or written",
    errno.EPERM: "it may not be read or written",
    errno.EROFS: "it is read-only",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "it is a folder",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.EIO: "the disk reports an error",
}


def _refused_path(error: BaseException) -> str:
    """Advice where the system refuses a path, for a reason that lies with the path; "" for other errors."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in _PATH_ERRORS:
        return ""
    return f"{error.filename}: {_PATH_ERRORS[error.errno]}; give another path, or mend this one"


if __name__ == "__main__":
    main()
