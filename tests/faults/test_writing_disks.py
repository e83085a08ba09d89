"""Disks that are full or read-only, folders that somebody else holds, and folders begun with something else."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from tests.faults.scans import write_cohort
from tests.toys import TINY_SEGFORMER, slices_of, store_of

from seglens.artifacts import ArtifactError, differences, locked, new_artifact, read_artifact, write_text_whole
from seglens.cohorts.layouts import read_cohort
from seglens.dictionaries.checkpoints import read_checkpoint
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.runs import Run, Stage
from seglens.runtime.atomic import WritingError, clear_refusals, whole_file, whole_folder
from seglens.segmenters.checkpoints import newest_checkpoint
from seglens.segmenters.training import TrainingSettings, train_segmenter
from seglens.studies.input_checksums import places_of, refuse_other_files, remember
from seglens.studies.settings import StudySettings


def mounted(folder: Path, options: str) -> Path:
    """A file system of its own in memory; the test is skipped where none may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    return folder


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """One MiB, and nobody looks before how much is free."""
    monkeypatch.setattr("seglens.artifacts.require_disk", lambda *_: None)
    monkeypatch.setattr("seglens.dictionaries.checkpoints.require_disk", lambda *_: None)
    monkeypatch.setattr("seglens.dictionaries.fitting.require_disk", lambda *_: None)
    folder = mounted(tmp_path / "disk", "size=1m")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def read_only_disk(tmp_path):
    folder = mounted(tmp_path / "disk", "size=1m")
    with new_artifact(folder / "old", kind="thing", inputs={}) as draft:
        draft.save_document("facts", 1)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def big_writes(draft):
    return {
        "tensors": lambda: draft.save_tensors("weights", {"w": torch.ones(2**19)}),
        "table": lambda: draft.save_table("rows", pl.DataFrame({"a": torch.randn(2**19).numpy()})),
        "document": lambda: draft.save_document("facts", "x" * 2**21),
    }


@pytest.mark.parametrize("what", ["tensors", "table", "document"])
def test_row_40_full_disk(small_disk, what):
    """On a full disk a stage ends with what is free; nothing is under a final name, what was finished is whole."""
    with new_artifact(small_disk / "first", kind="thing", inputs={}) as draft:
        draft.save_document("facts", [1])
    full = pytest.raises(
        WritingError, match=r"second cannot be written: the disk is full \(\d+ bytes are free in .*disk\)"
    )
    with full, new_artifact(small_disk / "second", kind="thing", inputs={}) as draft:
        big_writes(draft)[what]()
    assert [entry.name for entry in small_disk.iterdir()] == ["first"]
    assert read_artifact(small_disk / "first", verify=True).document("facts") == [1]


def test_row_40_full_disk_keeps_the_old_text_and_the_old_checkpoint(small_disk):
    """A text or checkpoint that cannot be replaced on a full disk stays as it was."""
    write_text_whole(small_disk / "run.json", "old")
    settings = FitSettings(k=2, expansion=4, steps=2, checkpoint_every=1)
    fit_dictionary(store_of(4), settings=settings, checkpoint=small_disk / "fit")
    before = (small_disk / "fit" / "fit.safetensors").read_bytes()
    with pytest.raises(WritingError, match=r"run\.json cannot be written: the disk is full"):
        write_text_whole(small_disk / "run.json", "x" * 2**21)
    (small_disk / "rest").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    with pytest.raises(WritingError, match="the disk is full"):
        fit_dictionary(store_of(4), settings=settings, seed=1, checkpoint=small_disk / "other")
    assert (small_disk / "run.json").read_text() == "old"
    assert (small_disk / "fit" / "fit.safetensors").read_bytes() == before
    assert not list(small_disk.rglob("*.partial"))


def test_row_40_read_only_disk(read_only_disk):
    """A read-only folder is refused cleanly, whatever is to be written; what is on it can be read."""
    for name in ("new", "deep/new"):
        refused = pytest.raises(WritingError, match="new cannot be written: it is read-only")
        with refused, new_artifact(read_only_disk / name, kind="thing", inputs={}) as draft:
            draft.save_document("facts", 1)
    with pytest.raises(WritingError, match="it is read-only"), locked(read_only_disk):
        pass
    with pytest.raises(WritingError, match="it is read-only"):
        write_text_whole(read_only_disk / "run.json", "1")
    assert read_artifact(read_only_disk / "old", verify=True).document("facts") == 1


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EROFS, "it is read-only"),
        (errno.EACCES, "it may not be written to"),
        (errno.EIO, "the disk reports an error"),
    ],
)
def test_row_40_whatever_the_system_refuses(tmp_path, monkeypatch, number, said):
    """Where the system refuses a write or a flush, the message says why and nothing is left; no mount is needed."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("seglens.runtime.atomic.os.fsync", refuse)
    refused = pytest.raises(
        WritingError, match=rf"new cannot be written: {said} \(\d+ bytes are free in .*\); make room"
    )
    with refused, whole_folder(tmp_path / "new") as partial:
        (partial / "a").write_text("1")
    (tmp_path / "text").write_text("old")
    with pytest.raises(WritingError, match=said), whole_file(tmp_path / "text") as partial:
        partial.write_text("new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text() == "old"


def test_row_40_only_what_the_disk_refuses(tmp_path):
    """A fault of ours, or a file elsewhere that cannot be read, is not taken for a full disk."""
    with pytest.raises(FileNotFoundError), clear_refusals(tmp_path / "new"):
        (tmp_path / "nothing").read_text()
    with pytest.raises(PermissionError), clear_refusals(tmp_path / "new"):
        raise PermissionError(errno.EACCES, "no", "/elsewhere/scan.nii")
    with pytest.raises(WritingError, match="a part of its path is a file"):
        (tmp_path / "file").write_text("")
        write_text_whole(tmp_path / "file" / "run.json", "1")


def test_a_link_under_the_temporary_name_is_not_written_through(tmp_path):
    """A run from somebody else may hold one, that leads to a file of ours."""
    (tmp_path / "ours").write_text("precious")
    (tmp_path / ".names.json.partial").symlink_to(tmp_path / "ours")
    write_text_whole(tmp_path / "names.json", "{}")
    assert (tmp_path / "ours").read_text() == "precious"
    assert (tmp_path / "names.json").read_text() == "{}" and not (tmp_path / "names.json").is_symlink()


@pytest.mark.processes
def test_row_40_command_ends_cleanly(tmp_path):
    """On the command line a folder that cannot be written to is exit code 2 and one message."""
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "seglens.cli", "demo", "--quick", "--out", str(tmp_path / "file" / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "run cannot be written: a part of its path is a file" in done.stderr
    assert "Traceback" not in done.stderr


HOLD = """
import pathlib, sys, time
from seglens.artifacts import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.processes
def test_row_41_second_process_is_refused_and_a_killed_one_s_lock_is_free(tmp_path):
    """A second process is refused and told the holder's number, machine and start; a killed holder's lock is free."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        held = rf"is being written by process {holder.pid} on \S+, started \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC; wait"
        with pytest.raises(ArtifactError, match=held), locked(tmp_path):
            pass
        with pytest.raises(ArtifactError, match=held), Run(tmp_path).writing({}):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / ".lock-holder").is_file()
        with locked(tmp_path):
            assert f"process {os.getpid()} on " in (tmp_path / ".lock-holder").read_text()
        assert not (tmp_path / ".lock-holder").exists()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_row_41_a_refused_run_leaves_no_lock(tmp_path):
    """A run that is refused leaves none of its locks in a folder that it did not make; an earlier run's stays."""
    kept = tmp_path / "notes.txt"
    kept.write_text("somebody's own")
    with pytest.raises(ValueError, match="no such cohort"), Run(tmp_path).writing({}) as run:
        assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", ".lock", ".lock-holder"}
        with Run(run.path, keeps_books=False)._claimed(Stage("check/a", "check", {})):
            assert list((tmp_path / ".claims").iterdir())
        raise ValueError("no such cohort")
    assert list(tmp_path.iterdir()) == [kept]
    with Run(tmp_path).writing({}):
        pass
    with pytest.raises(ValueError, match="no such cohort"), locked(tmp_path):
        raise ValueError("no such cohort")
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", ".lock"}


def test_row_41_no_locks_here(tmp_path, monkeypatch):
    """On a file system that knows no locks nothing is written: two processes could not be told apart."""

    def refuse(*_):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with (
        pytest.raises(ArtifactError, match="on a file system without locks; write to a local folder"),
        locked(tmp_path),
    ):
        pass


def test_row_42_differences_are_named():
    """What differs is named place by place, long values cut short."""
    before = {"a": 1, "b": {"c": [1], "d": "x" * 200}, "same": 3}
    now = {"b": {"c": [2], "d": None, "e": True}, "same": 3}
    assert differences(before, now)[:2] == ["a was 1, is null", "b.c[0] was 1, is 2"]
    assert differences(before, now)[2].endswith("..., is null")
    assert differences(before, now)[3] == "b.e was null, is true"
    assert differences(before, dict(before)) == []


def test_row_42_training_with_other_settings(tmp_path):
    """A training is not continued from checkpoints of other settings or data; the differences are shown."""
    settings = TrainingSettings(steps=2, batch_size=2, architecture_settings=TINY_SEGFORMER)
    train_segmenter(slices_of(4), settings=settings, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"checkpoints of another run: seed was 0, is 1; start was .*Give another"):
        train_segmenter(slices_of(4), settings=settings, seed=1, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"checkpoints of another run: slices was .*Give another folder or remove it"):
        train_segmenter(slices_of(5), settings=settings, checkpoint=tmp_path)
    assert newest_checkpoint(tmp_path / "none", {}) is None


def test_row_42_fit_with_other_settings(tmp_path):
    """A fit is not continued from a checkpoint of other settings or data; the differences are shown."""
    settings = FitSettings(k=2, expansion=4, steps=2)
    fit_dictionary(store_of(4), settings=settings, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint of another fit: settings\.k was 2, is 3; give another folder"):
        fit_dictionary(store_of(4), k=3, settings=settings, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="checkpoint of another fit: store was"):
        fit_dictionary(store_of(5), settings=settings, checkpoint=tmp_path)
    file = tmp_path / "fit.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a sound safetensors file"):
        read_checkpoint(file, "{}")


STUDY = {
    "sequences": ["T1c"],
    "cohorts": {"adult": {"phantom": {"population": "adult", "subjects": 4}}},
    "segmenters": {"adult": {"cohort": "adult"}},
}


def test_row_42_study_with_other_settings(tmp_path):
    """A folder that holds another study is refused with the differences; how it is computed may change."""
    settings = StudySettings.parse(STUDY, "study.yaml").model_dump(mode="json")
    stage = Stage("numbers/one", "number", {"value": 1})

    def make(path, checkpoint):
        with new_artifact(path, kind="number", inputs=stage.inputs) as draft:
            draft.save_document("number", 1)

    with Run(tmp_path / "out").writing(settings) as run:
        run.finish(stage, make)
    content = STUDY | {"seed": 1, "dictionaries": {"k": 8}, "store": False}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    other = StudySettings.read(tmp_path / "study.yaml").model_dump(mode="json")
    refused = pytest.raises(
        ValueError, match=r'another study: dictionaries\.k was "auto", is 8; seed was 0, is 1\. Give anot'
    )
    with refused, Run(tmp_path / "out").writing(other):
        pass
    assert json.loads((tmp_path / "out" / "run.json").read_text())["study"] == settings
    with Run(tmp_path / "out").writing(settings | {"store": False, "device": "cpu"}):
        pass


def test_row_42_study_with_other_files(tmp_path):
    """A cohort that has lost or gained cases since the folder was begun is refused, and they are named."""
    from seglens.cohorts.checks import check_cohort

    def cohort():
        return read_cohort(tmp_path / "data", name="adult")

    write_cohort(tmp_path / "data", ["a", "b"])
    refuse_other_files(tmp_path / "run", cohort())
    digests = {ref.path: "0" for ref in places_of(cohort()).values()}
    remember(tmp_path / "run", cohort(), digests, check_cohort(cohort()))
    refuse_other_files(tmp_path / "run", cohort())
    write_cohort(tmp_path / "data", ["a", "b", "c"])
    with pytest.raises(
        ValueError, match=r"other files of adult: 3 new: c/T1, c/T1c, c/mask\. Give .*inputs.adult\.json"
    ):
        refuse_other_files(tmp_path / "run", cohort())
    for file in (tmp_path / "data" / "b").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="3 gone: b/T1, b/T1c, b/mask; 3 new: c/T1"):
        refuse_other_files(tmp_path / "run", cohort())
