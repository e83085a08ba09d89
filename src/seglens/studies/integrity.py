"""The condition of a run on disk: which finished stages are whole, and which the next run would do again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seglens.artifacts import MANIFEST, ArtifactError, locked, read_artifact
from seglens.runs import STAGE_FORMAT, folder_in, read_book
from seglens.runtime.progress import Progress, silent

DAMAGED = "damaged"
"""Folder of a run to which damaged artifacts are moved."""


@dataclass(frozen=True)
class StageIntegrity:
    """Integrity of a finished stage.

    Attributes:
        stage: its name.
        folder: of its artifact.
        fault: what is wrong with the artifact; "" where every byte is as it was written.
        there: whether the folder exists; a missing artifact is made again by the next run, a damaged one is taken for
            finished until it is set aside.
    """

    stage: str
    folder: Path
    fault: str
    there: bool


@dataclass(frozen=True)
class RunIntegrity:
    """Integrity of a run's folder.

    Attributes:
        path: the folder.
        stages: the finished ones, in their order.
        begun: folders of stages that were stopped with a checkpoint, from which the next run goes on.
        spare: artifacts that no stage of the present study uses, and their bytes.
        outdated: the run is of a version whose stages computed something else: all of them are done again.
    """

    path: Path
    stages: tuple[StageIntegrity, ...]
    begun: tuple[str, ...]
    spare: Mapping[str, int]
    outdated: bool

    @property
    def faulty(self) -> list[StageIntegrity]:
        """Stages that are not whole."""
        return [stage for stage in self.stages if stage.fault]

    def text(self) -> str:
        """For a terminal: what is wrong, what the next run does about it, what else is there."""
        damaged = [stage for stage in self.faulty if stage.there]
        whole = len(self.stages) - len(self.faulty)
        lines = [f"{self.path}: {len(self.stages)} finished stages, {whole} of them whole"]
        if self.outdated:
            lines.append("REDONE        all stages: this version computes something else from the same inputs")
        lines += [f"REDONE        {stage.stage}: {stage.fault}" for stage in self.faulty if not stage.there]
        lines += [f"DAMAGED       {stage.stage}: {stage.fault}" for stage in damaged]
        if damaged:
            lines.append(
                f"`seglens doctor {self.path} --repair` moves what is damaged to {self.path / DAMAGED}; the next run "
                "makes it again"
            )
        if self.faulty:
            lines.append("Stages that were made from these are kept if what is made again is the same.")
        lines += [f"begun         {name}: the next run goes on from its checkpoint" for name in self.begun]
        if self.spare:
            lines.append(
                f"spare         {len(self.spare)} artifacts ({sum(self.spare.values()) / 2**20:.0f} MiB) of other "
                "settings; no stage uses them"
            )
        return "\n".join(lines)


def integrity_of(path: Path, *, progress: Progress = silent) -> RunIntegrity:
    """Compare every artifact of a run with its hashes; nothing is changed.

    Args:
        path: the run's folder.
        progress: told after each stage.

    Raises:
        ValueError: no run there, or a run.json that cannot be read.
    """
    if not (path / "run.json").is_file():
        raise ValueError(f"{path} holds no run.json; give the folder of a run (--out of the verb that made it)")
    try:
        books = read_book(path / "run.json")
        stages = books["stages"]
        folders = {stage: folder_in(path, entry["folder"]) for stage, entry in stages.items()}
    except (ValueError, KeyError):
        raise ValueError(
            f"{path / 'run.json'} is damaged; remove it and run the study again: finished artifacts are found by their "
            "names, none is made again"
        ) from None
    found = []
    for number, (stage, folder) in enumerate(folders.items()):
        found.append(StageIntegrity(stage, folder, _fault(folder, stages[stage]["hash"]), folder.exists()))
        progress(number + 1, len(folders))
    used = {folder.name for folder in folders.values()}
    others = [other for other in sorted((path / "artifacts").glob("*")) if other.name not in used]
    spare = {
        other.name: sum(file.stat().st_size for file in other.rglob("*") if file.is_file())
        for other in others
        if not other.name.startswith(".")
    }
    begun = tuple(sorted(folder.name for folder in (path / "checkpoints").glob("*")))
    outdated = books.get("format", STAGE_FORMAT) != STAGE_FORMAT
    return RunIntegrity(path, tuple(found), begun, spare, outdated)


def repair(integrity: RunIntegrity) -> list[Path]:
    """Move damaged artifacts out of the way, so that the next run makes them again.

    Returns:
        Where they are now.

    Raises:
        ArtifactError: another process writes to the run.
        ValueError: ``artifacts`` or ``damaged`` is a link that leads out of the run; nothing is moved.
    """
    moved = []
    for name in ("artifacts", DAMAGED):
        folder = integrity.path / name
        if folder.resolve() != integrity.path.resolve() / name:
            raise ValueError(
                f"{folder} is a link and leads to {folder.resolve()}; nothing is moved out of a run: put a folder there"
            )
    with locked(integrity.path):
        for stage in integrity.faulty:
            if stage.there:
                place = integrity.path / DAMAGED / stage.folder.name
                while place.exists():
                    place = place.with_name(f"{place.name}+")
                place.parent.mkdir(exist_ok=True)
                stage.folder.rename(place)
                moved.append(place)
    return moved


def _fault(folder: Path, recorded: str) -> str:
    """Fault of an artifact; "" for none."""
    if not folder.exists():
        return "its artifact is gone"
    try:
        artifact = read_artifact(folder, verify=True)
    except ArtifactError as error:
        return str(error).removeprefix(f"{folder}: ")
    return "" if artifact.hash == recorded else f"its {MANIFEST} was changed, run.json names another hash"
