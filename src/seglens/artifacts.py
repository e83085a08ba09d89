"""A result on disk: a folder of safetensors, parquet and JSON with one hashed manifest.

A folder appears under its final name only when every byte of it is on disk: it is written beside its place under a
temporary name, flushed, then renamed. So whatever has its final name is whole, whenever the process was killed.

The manifest's hash covers the kind, the inputs and the sha256 of every file, and nothing that differs between two runs
of the same computation (no times, no paths, no machine): same seed, same hash. What computed it stands beside the hash,
as ``computed_by``.

A file is compared with its sha256 when a process reads it for the first time, block by block: a bit that turned on the
disk is refused, not computed with.
"""

import hashlib
import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import psutil
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor, uint8

from seglens.documents import ESCAPED, from_document, to_document
from seglens.foreign.json_text import parse_json
from seglens.foreign.tensors import read_safetensors
from seglens.runtime.atomic import clear_refusals, make_folder, whole_file, whole_folder
from seglens.runtime.distributed import is_main_process
from seglens.runtime.provenance import Provenance
from seglens.runtime.resources import require_disk

FORMAT = 1
T = TypeVar("T")
MANIFEST = "manifest.json"
_VERIFIED: dict[Path, tuple[tuple[int, int, int], str]] = {}
"""Files that this process has compared: size, time and inode as they were, and the sha256."""


class ArtifactError(ValueError):
    """An artifact is missing, damaged, of another kind, or held by another process."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_of(value: Any) -> str:
    """Sha256 (hex) of a JSON-able value's canonical text."""
    return hashlib.sha256(canonical_json(value).encode(errors=ESCAPED)).hexdigest()


def hash_file(path: Path) -> str:
    """Sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Sha256 (hex) over names, types, shapes and values: the identity of a model's weights, wherever they are kept."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A finished result.

    Attributes:
        path: its folder.
        kind: what it is, such as ``"slices"`` or ``"dictionary"``.
        inputs: the settings and input hashes that it was made from.
        hash: the identity of its content (kind, inputs and every file's sha256).
        computed_by: what computed it, no part of the hash; None where that was not recorded.
        sha256: of each file, by its name.
    """

    path: Path
    kind: str
    inputs: Mapping[str, Any]
    hash: str
    computed_by: Provenance | None = None
    sha256: Mapping[str, str] = field(default_factory=dict, repr=False)

    def has(self, file: str) -> bool:
        """Whether it holds a file, such as ``scores.parquet``."""
        return file in self.sha256

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read ``name.safetensors``; pages come from disk when they are touched.

        Raises:
            ArtifactError: as `verified`.
            WeightsError: it is no sound safetensors file.
        """
        return read_safetensors(self.verified(f"{name}.safetensors"))

    def table(self, name: str) -> pl.DataFrame:
        """Read ``name.parquet``.

        Raises:
            ArtifactError: as `verified`, or it is no parquet file.
        """
        path = self.verified(f"{name}.parquet")
        try:
            with path.open("rb") as file:  # polars takes no path that is not UTF-8
                return pl.read_parquet(file)
        except pl.exceptions.PolarsError as error:
            raise _damaged(path, error) from None

    def document(self, name: str) -> Any:
        """Read ``name.json``.

        Raises:
            ArtifactError: as `verified`, or it is no JSON.
        """
        path = self.verified(f"{name}.json")
        try:
            return parse_json(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise _damaged(path, error) from None

    def record(self, name: str, kind: Callable[..., T]) -> T:
        """Read ``name.json`` as a frozen dataclass, or a container of some.

        Raises:
            ArtifactError: as `verified`.
            DocumentError: it is damaged or of another version; the message names file, key and what is due.
        """
        path = self.verified(f"{name}.json")
        return from_document(path.read_bytes(), kind, path)

    def verified(self, name: str) -> Path:
        """Path of a file whose bytes are those that were written.

        The sha256 is compared once in a process, and again where the file's size, time or inode has changed since.

        Args:
            name: with its ending.

        Raises:
            ArtifactError: no such file in the manifest or in the folder, or one that differs.
        """
        path = self.path / name
        if name not in self.sha256 or not path.is_file():
            names = ", ".join(sorted(self.sha256)) or "no file"
            what = "is gone" if name in self.sha256 else f"is none of its files; it holds {names}"
            raise ArtifactError(f"{self.path}: {name} {what}; {_advice(self.path)}")
        facts, known = _facts(path), _VERIFIED.get(path.absolute())
        if known != (facts, self.sha256[name]):
            if hash_file(path) != self.sha256[name]:
                raise ArtifactError(
                    f"{self.path}: {name} differs from its sha256 in the manifest; {_advice(self.path)}"
                )
            _VERIFIED[path.absolute()] = facts, self.sha256[name]
        return path


class Draft:
    """An artifact being written; every method takes a file's name without its ending."""

    def __init__(self, path: Path):
        self.path = path

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write ``name.safetensors``."""
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in contiguous.values())
        require_disk(self.path, n_bytes, f"{self.path.name.strip('.')}: {name}.safetensors")
        save_file(contiguous, self.path / f"{name}.safetensors")

    def save_table(self, name: str, table: pl.DataFrame) -> None:
        """Write ``name.parquet``."""
        with (self.path / f"{name}.parquet").open("wb") as file:  # polars takes no path that is not UTF-8
            table.write_parquet(file, compression="zstd", statistics=False)

    def save_document(self, name: str, value: Any) -> None:
        """Write ``name.json``; NaN is refused, write None with a count beside it."""
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (self.path / f"{name}.json").write_text(text + "\n", encoding="utf-8", errors=ESCAPED)

    def save_record(self, name: str, value: Any, kind: Any = None) -> None:
        """Write ``name.json`` from a frozen dataclass, or from a container of some, whose type ``kind`` then says."""
        self.save_document(name, to_document(value, kind))


def finite(value: float | int | None) -> float | None:
    """The value, or None where it is undefined: what a document may hold, since JSON knows no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)


class _Unkept(Draft):
    """The draft of a process that does not write: takes everything, keeps nothing."""

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        pass

    def save_table(self, name: str, table: pl.DataFrame) -> None:
        pass

    def save_document(self, name: str, value: Any) -> None:
        pass


@contextmanager
def new_artifact(path: Path, *, kind: str, inputs: Mapping[str, Any]) -> Iterator[Draft]:
    """Write an artifact; it appears at ``path`` when the block ends without an error, and not at all otherwise.

    Of several processes at one task only the first writes; what the others save is dropped.

    Args:
        path: the final folder; must not exist.
        kind: what the artifact is.
        inputs: JSON-able settings and input hashes.

    Raises:
        ArtifactError: ``path`` exists.
    """
    if not is_main_process():
        yield _Unkept(path)
        return
    if path.exists():
        raise ArtifactError(f"{path} exists; remove it or write to another folder")
    with whole_folder(path) as partial:
        yield Draft(partial)
        files = {str(file.relative_to(partial)): file for file in sorted(partial.rglob("*")) if file.is_file()}
        sha256 = {name: hash_file(file) for name, file in files.items()}
        manifest = {
            "format": FORMAT,
            "kind": kind,
            "inputs": dict(inputs),
            "files": {name: {"sha256": sha256[name], "bytes": file.stat().st_size} for name, file in files.items()},
        }
        manifest["hash"] = hash_of(manifest)
        manifest["computed_by"] = asdict(Provenance.current())
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
        (partial / MANIFEST).write_text(text + "\n", encoding="utf-8", errors=ESCAPED)
    for name, digest in sha256.items():  # of what lay on the disk
        _VERIFIED[(path / name).absolute()] = _facts(path / name), digest


def read_artifact(path: Path, kind: str | None = None, *, verify: bool = False) -> Artifact:
    """Open a finished artifact.

    The manifest is compared with its own hash; the files are compared when they are read.

    Args:
        path: its folder.
        kind: what it must be; None takes any.
        verify: also compare every file with its sha256 now, whatever was compared before.

    Raises:
        ArtifactError: no artifact there, one of another format or kind, a manifest that was changed, or (with
            ``verify``) a file that differs from its sha256.
    """
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        raise ArtifactError(f"{path}: no {MANIFEST} there; give the folder of a finished artifact")
    try:
        manifest = parse_json(manifest_path.read_text(encoding="utf-8"))
        own_format, own_hash = manifest["format"], manifest.pop("hash")
        record = Provenance.from_json(manifest.pop("computed_by")) if "computed_by" in manifest else None
        sha256 = {_inside(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
        kept = Artifact(path, manifest["kind"], manifest["inputs"], own_hash, record, sha256)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(manifest_path, error) from None
    if own_format != FORMAT:
        raise ArtifactError(
            f"{path} is of format {str(own_format)[:20]}; this version reads format {FORMAT}: take the version that "
            "wrote it, or make it again"
        )
    if hash_of(manifest) != own_hash:
        raise ArtifactError(f"{path}: its {MANIFEST} was changed, its hash is another; {_advice(path)}")
    if kind is not None and kept.kind != kind:
        raise ArtifactError(f"{path} is of kind {kept.kind!r}; {kind!r} is needed here")
    if verify:
        changed = [
            name for name, digest in sha256.items() if not (path / name).is_file() or hash_file(path / name) != digest
        ]
        if changed:
            raise ArtifactError(f"{path}: {', '.join(changed)} differ from the manifest; {_advice(path)}")
    return kept


def _facts(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def _inside(name: str) -> str:
    """A file's name in a manifest, which may come from somebody else; ValueError where it leads elsewhere."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"it names the file {name[:80]!r}, which is not in the folder")
    return name


def _advice(path: Path) -> str:
    return f"`seglens doctor {path}` looks at all of it; remove the folder and run again"


def _damaged(path: Path, error: Exception) -> ArtifactError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ArtifactError(f"{path} is damaged ({reason}); remove the folder and run again")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path`` (a folder to be written) against other processes.

    The system gives the lock back when its holder ends, however it ends: a killed holder's lock is free again. Where
    the block fails, a folder that was never held before is left without the lock's files: it may be somebody's own.

    Raises:
        ArtifactError: another process holds it (the message names it), or the file system knows no locks.
        WritingError: the folder cannot be written to.
    """
    lock_path, holder_path = path / ".lock", path / ".lock-holder"
    lock, existed = FileLock(lock_path, timeout=0), lock_path.exists()
    try:
        with clear_refusals(path):
            make_folder(path)
            lock.acquire()
    except Timeout:
        holder = holder_path.read_text(encoding="utf-8") if holder_path.is_file() else "another process"
        raise ArtifactError(f"{path} is being written by {holder}; wait for it or give another folder") from None
    except NotImplementedError:
        raise ArtifactError(f"{path} is on a file system without locks; write to a local folder") from None
    try:
        write_text_whole(holder_path, _this_process())
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):  # some systems keep a file that is open
                lock_path.unlink()
        raise
    finally:
        with suppress(OSError):
            holder_path.unlink(missing_ok=True)
        lock.release()


def write_text_whole(path: Path, text: str) -> None:
    """Replace a file's content in one step: readers see the old text or the new, never a part.

    Raises:
        WritingError: the disk is full, read-only or broken; the old text is still there.
    """
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors=ESCAPED)


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Differences between two JSON-able values, one entry for each place: ``seed was 0, is 1``."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            difference
            for number, (old, new) in enumerate(zip(before, now, strict=True))
            for difference in differences(old, new, f"{name}[{number}]")
        ]
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            difference
            for key in sorted({*before, *now}, key=str)
            for difference in differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if before == now else [f"{name} was {_short(before)}, is {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _this_process() -> str:
    started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    return f"process {os.getpid()} on {socket.gethostname()}, started {started:%Y-%m-%d %H:%M:%S} UTC"
