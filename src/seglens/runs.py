"""A run on disk: which artifact each stage left, how long it took, and the reuse of what is finished."""

import json
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from seglens.artifacts import (
    MANIFEST,
    Artifact,
    ArtifactError,
    differences,
    hash_of,
    locked,
    read_artifact,
    write_text_whole,
)
from seglens.foreign.json_text import parse_json
from seglens.runtime.distributed import alone, barrier, broadcast_from_main, is_main_process
from seglens.runtime.provenance import OtherRecordWarning, Provenance, by_record, record_sentence
from seglens.runtime.threads import computing_with, stage_threads

STAGE_FORMAT = 3
"""Part of every stage's key: raise it when a stage computes something else from the same inputs."""
CLAIMS = ".claims"
"""Folder of locks, one a stage that a worker is at; removed by the process that holds the run."""


MAX_NAME_BYTES = 110
"""Of a stage's name in its folder's: a part of a path has 255 bytes at most, 143 on disks that encrypt names."""
HOW = ("store", "device")
"""Settings that say how a study is computed, not what."""


@dataclass(frozen=True)
class Stage:
    """One step of a study, known by what it is made from.

    Attributes:
        name: such as ``"segmenter/adult"``.
        kind: the kind of artifact that it leaves.
        inputs: JSON-able settings and input hashes; equal inputs mean an equal result.
    """

    name: str
    kind: str
    inputs: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """The artifact's folder name: readable, and different for different inputs."""
        key = {"stage": self.name, "kind": self.kind, "inputs": dict(self.inputs), "format": STAGE_FORMAT}
        readable = re.sub("[/\0]", "-", self.name).encode("utf-8", "replace")[:MAX_NAME_BYTES].decode("utf-8", "ignore")
        return f"{readable}-{hash_of(key)[:12]}"


class Run:
    """The folder of one study.

    Layout::

        artifacts/<stage>-<key>/   one finished result a folder; the key is the hash of what it was made from
        checkpoints/               of unfinished stages
        run.json                   stage name -> artifact folder and hash
        timings.json               stage name -> seconds when it was computed
        summary.json, report.html

    Args:
        path: the folder; created when a stage is run.
        keeps_books: False in one of several processes that finish stages for the one that holds the folder: it leaves
            their artifacts, and its `timings` are its own. What another of them is at, it waits for.
    """

    def __init__(self, path: Path, *, keeps_books: bool = True):
        self.path = path
        self._study: dict[str, Any] = {}
        self._stages: dict[str, dict[str, str]] = self._read("run.json").get("stages", {})
        self._keeps_books = keeps_books
        self._own_timings: dict[str, float] = {}
        self._taken: dict[str, Provenance] = {}  # of the stages that were found finished

    # reading

    def __contains__(self, stage: str) -> bool:
        return stage in self._stages

    def stages(self, prefix: str = "") -> list[str]:
        """Names of the finished stages that begin with ``prefix``, in the order they were finished."""
        return [name for name in self._stages if name.startswith(prefix)]

    def artifact(self, stage: str) -> Artifact:
        """The result of a stage, such as ``"segmenter/adult"``.

        Raises:
            ValueError: this run has no such stage.
            ArtifactError: the artifact is gone, damaged, or another than run.json names.
        """
        if stage not in self._stages:
            raise ValueError(f"{self.path}: no stage {stage!r}; finished are {', '.join(self._stages) or 'none'}")
        entry = self._stages[stage]
        artifact = read_artifact(folder_in(self.path, entry["folder"]))
        if artifact.hash != entry["hash"]:
            raise self._another(artifact)
        return artifact

    def _another(self, artifact: Artifact) -> ArtifactError:
        return ArtifactError(
            f"{artifact.path} is not the artifact that {self.path / 'run.json'} names: its hash is another. `seglens "
            f"doctor {self.path} --repair` sets it aside, and the next run makes it again"
        )

    @property
    def study(self) -> dict[str, Any]:
        """The study's settings as run.json records them, {} before a stage is finished."""
        return self._read("run.json").get("study", {})

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of wall time a stage took when it was computed."""
        return self._read("timings.json") if self._keeps_books else self._own_timings

    @property
    def hashes(self) -> dict[str, str]:
        """Stage name to content hash: what two runs of one seed must agree on."""
        return {name: entry["hash"] for name, entry in self._stages.items()}

    @property
    def records(self) -> dict[str, list[str]]:
        """Stages by what computed their artifacts (`by_record`); more than one entry where a run went on elsewhere."""
        folders = {stage: folder_in(self.path, entry["folder"]) for stage, entry in self._stages.items()}
        return by_record(
            {stage: read_artifact(path).computed_by for stage, path in folders.items() if (path / MANIFEST).is_file()}
        )

    # writing

    @contextmanager
    def writing(self, study: Mapping[str, Any]) -> Iterator["Run"]:
        """Hold the folder while stages run, which is with the threads that its stages were computed with so far.

        Of several processes at one study the first holds it for all.

        Raises:
            ArtifactError: another process holds it, or an artifact is another than run.json names.
            ValueError: it holds another study; the message says what differs.
        """
        with locked(self.path) if is_main_process() else nullcontext():
            before = broadcast_from_main(lambda: self._read("run.json"))
            self._refuse_another(before.get("study"), study)
            self._stages = before.get("stages", {}) if before.get("study") == study else {}
            self._study, self._taken = dict(study), {}
            try:
                with computing_with(broadcast_from_main(self._threads)):
                    yield self
                if is_main_process() and len(records := self.records) > 1:
                    warnings.warn(f"{self.path}: {record_sentence(records)}", OtherRecordWarning, stacklevel=2)
            finally:
                if is_main_process():
                    shutil.rmtree(self.path / CLAIMS, ignore_errors=True)

    def _threads(self) -> int:
        """Threads of a stage: as many as most of what is finished here was computed with."""
        used, own = Counter[int](), stage_threads()
        hashes = {entry["folder"]: entry["hash"] for entry in self._stages.values()}
        for manifest in sorted(self.path.glob(f"artifacts/*/{MANIFEST}")):
            try:
                artifact = read_artifact(manifest.parent)
            except ArtifactError:  # it is named where it is needed
                continue
            if artifact.hash != hashes.get(manifest.parent.name, artifact.hash):
                raise self._another(artifact)
            if artifact.computed_by:
                used[artifact.computed_by.threads] += 1
        threads = used.most_common(1)[0][0] if used else own
        if threads != own:
            warnings.warn(
                f"{self.path} was begun with {threads} threads a stage and goes on so, where this process would take "
                f"{own}: the same numbers come out as if it had not been stopped",
                OtherRecordWarning,
                stacklevel=2,
            )
        return threads

    def _refuse_other_record(self, stage: Stage) -> None:
        current = Provenance.current().text
        other = {name: record.text for name, record in self._taken.items() if record.text != current}
        if other:
            raise ValueError(
                f"{stage.name} would be computed by {current}, but {', '.join(other)} in {self.path} by "
                f"{next(iter(other.values()))}: the figures would be those of neither. Give another folder, go on "
                "where this one was begun, or write `mixed: true` into the study file to go on nevertheless"
            )

    def _refuse_another(self, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
        if before is None:
            return
        then, today = ({name: value for name, value in study.items() if name not in HOW} for study in (before, now))
        changed = differences(then, today)
        if changed:
            raise ValueError(
                f"{self.path} holds another study: {'; '.join(changed)}. Give another folder, or remove "
                f"{self.path / 'run.json'} to go on here: what does not depend on the change is reused"
            )

    def finish(
        self, stage: Stage, make: Callable[[Path, Path], None], *, together: bool = False, mixed: bool = False
    ) -> Artifact:
        """Return a stage's artifact, computing it only if no equal one is finished.

        Of several processes at one study the first decides what is finished, and keeps the books.

        Args:
            stage: what is to be done.
            make: called with the artifact's final folder, which it writes by ``new_artifact``, and with a folder for
                checkpoints, which is removed when the stage is finished.
            together: ``make`` deals its work to all processes, so each of them calls it; otherwise the first calls it
                alone and the others wait.
            mixed: compute it even where stages before it were computed by other versions, on another kind of processor
                or with another number of threads.

        Raises:
            ValueError: stages before it were, and ``mixed`` does not allow it.
            ArtifactError: what is finished is damaged.
        """
        path = self.path / "artifacts" / stage.folder
        checkpoint = self.path / "checkpoints" / stage.folder
        started = time.perf_counter()
        with nullcontext() if self._keeps_books else self._claimed(stage):
            missing = not broadcast_from_main(path.exists)
            if missing:
                if not mixed:
                    self._refuse_other_record(stage)
                if together or is_main_process():
                    with nullcontext() if together else alone():
                        make(path, checkpoint)
                barrier()
        artifact = read_artifact(path, stage.kind)
        if not missing and artifact.computed_by:
            self._taken[stage.name] = artifact.computed_by
        self._stages[stage.name] = {"folder": stage.folder, "hash": artifact.hash}
        if is_main_process():
            shutil.rmtree(checkpoint, ignore_errors=True)
            if missing:
                self.record_timings({stage.name: round(time.perf_counter() - started, 3)})
        if is_main_process() and self._keeps_books:
            text = json.dumps(
                {"format": STAGE_FORMAT, "study": self._study, "stages": self._stages}, indent=1, ensure_ascii=False
            )
            write_text_whole(self.path / "run.json", text + "\n")
        return artifact

    @contextmanager
    def _claimed(self, stage: Stage) -> Iterator[None]:
        folder = self.path / CLAIMS
        folder.mkdir(exist_ok=True)
        with FileLock(folder / stage.folder):
            yield

    def record_timings(self, seconds: Mapping[str, float]) -> None:
        """Keep how long stages took."""
        if not self._keeps_books:
            self._own_timings |= seconds
        else:
            write_text_whole(self.path / "timings.json", json.dumps(self.timings | dict(seconds), indent=1) + "\n")

    def _read(self, name: str) -> dict[str, Any]:
        return read_book(self.path / name)


def read_book(path: Path) -> dict[str, Any]:
    """Read run.json or timings.json; {} where it is not there.

    Raises:
        ValueError: it is damaged; the message says how to go on without it.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where names and values are due")
        if path.name == "timings.json" and not all(isinstance(value, int | float) for value in content.values()):
            raise ValueError("seconds are due behind every name")
        stages = content.get("stages", {})
        if not isinstance(content.get("study", {}), dict) or not isinstance(stages, dict):
            raise ValueError("`study` and `stages` hold names and values")
        for stage, entry in stages.items():
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("folder", "hash")):
                raise ValueError(f"the stage {stage[:80]!r} has no folder and hash")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({str(error)[:200]}); remove it, and finished stages are found again"
        ) from None
    return content


def folder_in(run: Path, name: str) -> Path:
    """The folder of an artifact by its name in run.json: a run may come from somebody else.

    Raises:
        ValueError: the name leads to another place.
    """
    if name in ("", "..") or Path(name).name != name:
        raise ValueError(f"{run / 'run.json'} names the artifact {name[:80]!r}, which leads out of the run")
    return run / "artifacts" / name
