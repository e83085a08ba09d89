"""Archives that others made (BraTS and nnU-Net come as .zip, the Medical Segmentation Decathlon as .tar)."""

import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import Any

from seglens.runtime.atomic import WritingError, whole_folder
from seglens.runtime.resources import InsufficientResourcesError, require_disk

MAX_FILES = 200_000
MAX_RATIO = 200
"""Bytes that one packed byte may become. Scans, packed already, hardly change; a mask of zeros reaches 1000."""
GENEROUS_BYTES = 2**30
"""Below this an archive may unfold by any ratio."""
_CHUNK = 2**20
MAX_PAX_BYTES = 2**20
"""Of one pax header: names and times of one entry."""
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,6}) [^=\n]+=")
_MANY_DIGITS = re.compile(rb"[0-9]{41}")


class ArchiveError(ValueError):
    """An archive that is not unpacked."""


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    kind: str
    key: Any


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a .zip or .tar archive into a new folder: all of it, or nothing.

    Names, kinds and sizes of all entries are checked before the first byte is written, and no file becomes longer than
    was said.

    Args:
        archive: the file; a .tar is not packed.
        folder: must not exist.

    Returns:
        The number of files.

    Raises:
        ArchiveError: entries that lead out of the folder, links and devices, two entries of one name, an archive that
            unfolds to an absurd size, or one that is damaged.
        InsufficientResourcesError: it unfolds to more than the disk has free.
    """
    if not archive.is_file():
        raise ArchiveError(f"{archive} is not a file; give a .zip or .tar archive")
    if folder.exists():
        raise ArchiveError(f"{folder} exists; give another folder")
    try:
        with _opened(archive) as (entries, open_entry), whole_folder(folder) as partial:
            files = _checked(archive, entries)
            require_disk(partial, sum(entry.size for entry, _ in files), f"{archive} unpacked")
            for entry, parts in files:
                target = partial.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_entry(entry.key) as source, target.open("xb") as sink:
                    _copy(source, sink, entry, archive)
    except (ArchiveError, InsufficientResourcesError, WritingError):
        raise
    except (
        Exception
    ) as fault:  # zipfile and tarfile raise a dozen kinds, IndexError for a file without a name among them
        reason = (str(fault) or type(fault).__name__).splitlines()[0]
        raise ArchiveError(f"{archive}: cannot be unpacked ({reason}); get it again") from None
    return len(files)


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[_Entry], Any]]:
    # zipfile goes by the end of a file, where a .tar may hold a whole .zip
    with ExitStack() as stack:
        try:
            tape = stack.enter_context(tarfile.open(archive, "r:", tarinfo=_BoundedEntry))
        except (OSError, tarfile.TarError):
            if not zipfile.is_zipfile(archive):
                raise ArchiveError(f"{archive}: neither a .zip nor a plain .tar archive; give one of them") from None
            zipped = stack.enter_context(zipfile.ZipFile(archive))
            yield [_of_zip(info) for info in zipped.infolist()], zipped.open
        else:
            yield list(_of_tar(tape)), tape.extractfile


class _BoundedEntry(tarfile.TarInfo):
    """Entry whose pax header is looked at first: tarfile's own search takes a minute for 200 kB of digits."""

    def _proc_pax(self, tarfile: Any) -> Any:
        start = tarfile.fileobj.tell()
        header = tarfile.fileobj.read(min(self.size, MAX_PAX_BYTES))
        tarfile.fileobj.seek(start)
        if self.size > MAX_PAX_BYTES or not _is_pax(header):
            raise ArchiveError("a pax header in it is damaged or absurdly large; get it again")
        return super()._proc_pax(tarfile)  # type: ignore[misc]


def _is_pax(header: bytes) -> bool:
    """Whether it is a row of records ``length key=value``, without more digits in a row than a number has."""
    position = 0
    while position < len(header) and header[position]:
        record = _PAX_RECORD.match(header, position)
        end = position + int(record[1]) if record else 0
        if not record or end < record.end() or header[end - 1 : end] != b"\n":
            return False
        position = end
    return not _MANY_DIGITS.search(header)


def _of_zip(info: zipfile.ZipInfo) -> _Entry:
    mode = info.external_attr >> 16
    kind = "folder" if info.is_dir() else "file"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = "link or device"
    return _Entry(info.filename, info.file_size, kind, info)


def _of_tar(tape: tarfile.TarFile) -> Iterator[_Entry]:
    for number, info in enumerate(tape):
        if number > MAX_FILES:
            return
        kind = "file" if info.isreg() else "folder" if info.isdir() else "link or device"
        yield _Entry(info.name, info.size, kind, info)


def _checked(archive: Path, entries: list[_Entry]) -> list[tuple[_Entry, tuple[str, ...]]]:
    if len(entries) > MAX_FILES:
        raise ArchiveError(f"{archive}: more than {MAX_FILES} entries; unpack it in parts by hand")
    files: list[tuple[_Entry, tuple[str, ...]]] = []
    seen: set[tuple[str, ...]] = set()
    around: set[tuple[str, ...]] = set()
    for entry in entries:
        parts = PurePosixPath(entry.name).parts
        if not parts and entry.kind == "folder":  # "./", with which `tar -C folder .` begins
            continue
        inside = parts and not any(part in ("..", "/") or part.startswith("/") for part in parts)
        if not inside or any(mark in entry.name for mark in ("\\", "\0")) or ":" in parts[0]:
            raise ArchiveError(
                f"{archive}: the entry {entry.name[:120]!r} leads out of the folder; nothing was unpacked"
            )
        if entry.kind == "folder":
            continue
        if entry.kind != "file":
            raise ArchiveError(f"{archive}: the entry {entry.name[:120]!r} is a {entry.kind}; nothing was unpacked")
        key = tuple(part.casefold() for part in parts)
        if key in seen:
            raise ArchiveError(f"{archive}: two entries {entry.name[:120]!r} (capitals aside); nothing was unpacked")
        seen.add(key)
        around.update(key[:depth] for depth in range(1, len(key)))
        files.append((entry, parts))
    if seen & around:
        both = "/".join(min(seen & around))
        raise ArchiveError(f"{archive}: {both[:120]!r} is a file and a folder; nothing was unpacked")
    total, packed = sum(entry.size for entry, _ in files), archive.stat().st_size
    if total > max(GENEROUS_BYTES, MAX_RATIO * packed):
        raise ArchiveError(
            f"{archive}: its {packed} bytes would become {total}, more than {MAX_RATIO} times; nothing was unpacked"
        )
    return files


def _copy(source: BufferedIOBase, sink: BufferedIOBase, entry: _Entry, archive: Path) -> None:
    left = entry.size
    while chunk := source.read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise ArchiveError(f"{archive}: {entry.name[:120]!r} is longer than it says; nothing was unpacked")
        sink.write(chunk)
    if left:
        raise ArchiveError(
            f"{archive}: {entry.name[:120]!r} is {left} bytes shorter than it says; nothing was unpacked"
        )
