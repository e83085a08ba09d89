"""Checksums that a folder keeps of the files that were read for it, and the one report of what was wrong with them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seglens.artifacts import write_text_whole
from seglens.cohorts.case import Cohort, ImageRef
from seglens.cohorts.findings import CheckReport, write_quarantine
from seglens.foreign.json_text import parse_json
from seglens.runtime.distributed import is_main_process

FOLDER = "inputs"


def places_of(cohort: Cohort) -> dict[str, ImageRef]:
    """Each file that is read of a cohort, by case and sequence (or mask), wherever the data set lies."""
    return {
        f"{case.id}/{name}": ref
        for case in cohort.cases
        for name, ref in [*case.images.items(), ("mask", case.mask)]
        if ref is not None and name in (*cohort.sequences, "mask")
    }


def files_of(cohort: Cohort) -> list[Path]:
    """The files of a cohort that may be read and are there; a link out of its folder is not followed to be hashed."""
    used = {ref.path for ref in places_of(cohort).values()}
    allowed = {
        ref.path
        for case in cohort.cases
        for ref in (*case.images.values(), case.mask)
        if ref and case.reading.allows(ref.path)
    }
    return sorted(path for path in used & allowed if path.is_file())


def cohorts_of(folder: Path) -> list[str]:
    """The cohorts whose files a folder remembers."""
    return sorted(path.stem for path in (folder / FOLDER).glob("*.json"))


def known_files(folder: Path, cohort: Cohort) -> dict[Path, str]:
    """Sha256 of the cohort's files as they were when they were first found right for this folder."""
    known = _read(folder, cohort.name).get("sha256", {})
    return {ref.path: known[place] for place, ref in places_of(cohort).items() if place in known}


def refuse_other_files(folder: Path, cohort: Cohort) -> None:
    """Refuse a cohort that has lost or gained files since this folder was begun; a case that was wrong may be mended.

    Raises:
        ValueError: which files, and what to do.
    """
    before = _read(folder, cohort.name)
    if not before:
        return
    known, now = set(before["sha256"]), set(places_of(cohort))
    mendable = CheckReport.from_json(before["report"]).quarantined
    gone = sorted(known - now)
    new = sorted(place for place in now - known if place.rpartition("/")[0] not in mendable)
    faults = [
        f"{len(places)} {what}: {', '.join(places[:5])}{', ...' if len(places) > 5 else ''}"
        for what, places in (("gone", gone), ("new", new))
        if places
    ]
    if faults:
        raise ValueError(
            f"{folder} was begun with other files of {cohort.name}: {'; '.join(faults)}. Give another folder, or "
            f"remove {_path(folder, cohort.name)} to go on here with the files as they are now"
        )


def refuse_another_data_set(folder: Path, cohort: Cohort, root: Path) -> None:
    """Refuse a data set of the same name in another place: its files are not those that were looked at before.

    Raises:
        ValueError: whose files are remembered, and what to do.
    """
    before = _read(folder, cohort.name).get("root")
    if before not in (None, str(root.resolve())):
        raise ValueError(
            f"{folder} remembers the files of {before} as {cohort.name}, and {root} is another folder; give another "
            f"--out, or, if the files were moved, write their new place into {_path(folder, cohort.name)} as root"
        )


def remember(
    folder: Path, cohort: Cohort, sha256: Mapping[Path, str], report: CheckReport, *, root: Path | None = None
) -> None:
    """Keep the report, and the sha256 of every file of a case that nothing is wrong with; what was known stays known.

    A case that was quarantined may be mended; one that was right must stay as it was.

    Args:
        folder: which remembers.
        cohort: that was looked at.
        sha256: of its files.
        report: what was found.
        root: the data set's folder, where the name alone does not tell which one it is; None keeps what is known.
    """
    if not is_main_process():
        return
    used = places_of(cohort.without(report.quarantined))
    found = {place: sha256[ref.path] for place, ref in used.items() if ref.path in sha256}
    before = _read(folder, cohort.name)
    content = {
        "about": "remove this file if the cohort's files have been changed on purpose",
        "sha256": found | before.get("sha256", {}),
        "report": report.to_json(),
    }
    if root is not None or "root" in before:
        content["root"] = before["root"] if root is None else str(root.resolve())
    path = _path(folder, cohort.name)
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, text)


@contextmanager
def quarantine_reported(folder: Path, cohorts: Iterable[str]) -> Iterator[None]:
    """However the block ends, write what was found in these cohorts: ``quarantine.json`` and ``quarantine.txt``."""
    try:
        yield
    finally:
        documents = [_read(folder, name).get("report") for name in cohorts]
        if is_main_process() and any(documents):
            write_quarantine(folder, [CheckReport.from_json(one) for one in documents if one])


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = _path(folder, name)
    try:
        content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if content:
            CheckReport.from_json(content["report"])
            if not all(isinstance(digest, str) for digest in content["sha256"].values()):
                raise ValueError("a sha256 is due behind every file")
        elif not isinstance(content, dict):
            raise ValueError("names and values are due")
        return content
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it, and the files count as seen for the first time"
        ) from None


def _path(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name.replace('/', '-')}.json"
