"""How bytes get to the disk: under a temporary name, flushed, renamed; and what is said when the disk takes no more."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file system takes no file of that size",
    errno.EROFS: "it is read-only",
    errno.EACCES: "it may not be written to",
    errno.EPERM: "it may not be written to",
    errno.ENOTDIR: "a part of its path is a file",
    errno.ELOOP: "a part of its path is a link that leads round in a circle, or one where none is followed",
    errno.ENAMETOOLONG: "a name in it is longer than the file system takes",
    errno.EEXIST: "a part of its path is a file",
    errno.EIO: "the disk reports an error",
}


class WritingError(ValueError):
    """A folder or file that cannot be written; nothing is left under its final name."""


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a new folder: it appears under its name when the block ends without an error, and not at all otherwise.

    Args:
        path: the final folder; must not exist.

    Yields:
        The folder to be filled, beside it.

    Raises:
        WritingError: the disk is full, read-only or broken.
    """
    partial = path.with_name(f".{path.name}.partial")
    with clear_refusals(path):
        try:
            make_folder(path.parent)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            for inside in partial.rglob("*"):
                _flush(inside)
            _flush(partial)
            partial.rename(path)
            _flush(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Replace a file in one step: readers see the old content or the new, never a part.

    Args:
        path: the file; its folder is made.

    Yields:
        The file to be written, beside it.

    Raises:
        WritingError: the disk is full, read-only or broken; the old content is still there.
    """
    partial = path.with_name(f".{path.name}.partial")
    with clear_refusals(path):
        make_folder(path.parent)
        # a run from somebody else may hold a link of that name, which would be followed
        partial.unlink(missing_ok=True)
        try:
            yield partial
            _flush(partial)
            partial.replace(path)
            _flush(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        WritingError: the file system takes no folders, as that of ``/proc`` does.
        OSError: anything else that it refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        raise WritingError(f"{path} cannot be made: no folder can be made at that place; give another one") from None


@contextmanager
def clear_refusals(path: Path) -> Iterator[None]:
    """Turn what a disk refuses inside the block into a message that says how to mend it.

    Args:
        path: what is being written.

    Raises:
        WritingError: in place of an error of the file system, also where a library has wrapped it.
    """
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if isinstance(error, WritingError) or number not in _REFUSALS or _is_elsewhere(error, path):
            raise
        raise WritingError(
            f"{path} cannot be written: {_REFUSALS[number]}{_free(path)}; "
            "make room or give another folder, what is finished is kept"
        ) from error


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors and polars are written in Rust, whose errors come as text
    code = re.search(r"\(os error (\d+)\)", str(error))
    return int(code.group(1)) if code else None


def _is_elsewhere(error: Exception, path: Path) -> bool:
    """Whether the error names a file that has nothing to do with ``path``, such as one that is read."""
    named = getattr(error, "filename", None)
    return isinstance(named, str | os.PathLike) and not Path(named).absolute().is_relative_to(path.parent.absolute())


def _free(path: Path) -> str:
    for folder in path.parents:
        if folder.is_dir():
            return f" ({shutil.disk_usage(folder).free} bytes are free in {folder})"
    return ""


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
