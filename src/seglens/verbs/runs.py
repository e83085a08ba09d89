"""The verbs of a finished run: ``seglens report``, ``explore`` and ``doctor``, which also examines the machine."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from seglens.runtime.malloc import keep_freed_memory
from seglens.verbs.options import DONE, FAULT, QUARANTINED, WHOLE

SERVER_KEEPS = 2**28
"""Bytes of freed memory that the explorer holds on to (see `keep_freed_memory`): it waits for a person."""


def report(run: Annotated[Path, Parameter(help="A run's folder.")]) -> int:
    """Write report.html anew from a run's finished stages."""
    from seglens.runs import Run
    from seglens.studies.report import write_report

    print(write_report(Run(run)))
    return DONE


def explore(
    run: Annotated[Path, Parameter(help="A finished run's folder.")],
    *,
    save: Annotated[
        Path | None, Parameter(help="Write the chosen latents as one HTML file that can be sent, and open nothing.")
    ] = None,
    latents: Annotated[
        tuple[str, ...], Parameter(help="With --save, a segmenter and its latents: adult:3,17. May be repeated.")
    ] = (),
    port: Annotated[int, WHOLE, Parameter(help="0 takes a free one.")] = 0,
    open_browser: Annotated[bool, Parameter(name="--browser", help="Open the page in your browser.")] = True,
) -> int:
    """Look at latents and turn them, in a browser on this machine; Ctrl-C ends it."""
    from tempfile import TemporaryDirectory

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

    with TemporaryDirectory(prefix="seglens-") as folder:

        def announce(address: str) -> None:
            print(f"open {address}", flush=True)
            if open_browser:
                _open_privately(address, Path(folder))

        keep_freed_memory(SERVER_KEEPS)
        serve(run, port=port, announce=announce)
    return DONE


def _save_latents(run: Path, path: Path, chosen: tuple[str, ...]) -> None:
    """Write chosen latents, such as ``adult:3,17``, as one page with the names that people gave."""
    from seglens.explorer.names import Names
    from seglens.reports.chosen import write_chosen
    from seglens.runs import Run

    latents: dict[str, list[int]] = {}
    for entry in chosen:
        segmenter, _, numbers = entry.rpartition(":")
        if not segmenter or not all(number.strip().isdecimal() and number.isascii() for number in numbers.split(",")):
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
    page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address)}">', encoding="utf-8")
    webbrowser.open(page.as_uri())


def doctor(
    folder: Annotated[
        Path | None, Parameter(help="Of a run or of one artifact in it; without one, the machine is examined.")
    ] = None,
    *,
    repair: Annotated[
        bool, Parameter(help="Set damaged artifacts of a run aside, to be made again.", negative="")
    ] = False,
) -> int:
    """Versions, devices, memory, disk, and what would break; or whether every byte is as it was written."""
    from seglens.artifacts import MANIFEST

    if folder is not None and not (folder / MANIFEST).is_file():
        return _doctor_of_run(folder, repair=repair)
    if folder is not None and not repair:
        return _doctor_of_artifact(folder)
    if repair:
        raise ValueError("--repair mends a run; give its folder: seglens doctor RUN --repair")
    from seglens.doctor import examine

    text, healthy = examine()
    print(text)
    return DONE if healthy else FAULT


def _doctor_of_artifact(folder: Path) -> int:
    from seglens.artifacts import ArtifactError, read_artifact

    try:
        artifact = read_artifact(folder, verify=True)
    except ArtifactError as error:
        print(f"DAMAGED       {error}")
        return FAULT
    record = artifact.computed_by.text if artifact.computed_by else "no record"
    print(f"{folder}: {artifact.kind} of {len(artifact.sha256)} files, whole\ncomputed by   {record}")
    return DONE


def _doctor_of_run(run: Path, *, repair: bool) -> int:
    from seglens.studies.integrity import integrity_of
    from seglens.studies.integrity import repair as set_aside
    from seglens.terminal import StageDisplay

    with StageDisplay()(f"doctor {run}") as progress:
        integrity = integrity_of(run, progress=progress)
    print(integrity.text())
    if not repair:
        return FAULT if integrity.faulty else DONE
    moved = set_aside(integrity)
    for place in moved:
        print(f"moved to {place}")
    return QUARANTINED if moved else DONE
