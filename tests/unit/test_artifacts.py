"""An artifact appears whole or not at all, and its hash is its content."""

import json
import os
import subprocess
import sys

import polars as pl
import pytest
import torch

from seglens.artifacts import (
    ArtifactError,
    hash_file,
    hash_of,
    hash_tensors,
    locked,
    new_artifact,
    read_artifact,
    write_text_whole,
)


def _write(path, value=1.0):
    with new_artifact(path, kind="thing", inputs={"seed": 0}) as draft:
        draft.save_tensors("weights", {"w": torch.full((2, 3), value)})
        draft.save_table("rows", pl.DataFrame({"a": [1, 2]}))
        draft.save_document("facts", {"name": "né"})
    return read_artifact(path, "thing")


def test_what_is_written_is_read_back(tmp_path):
    artifact = _write(tmp_path / "thing")
    assert torch.equal(artifact.tensors("weights")["w"], torch.ones(2, 3))
    assert artifact.table("rows")["a"].to_list() == [1, 2]
    assert artifact.document("facts") == {"name": "né"}
    assert artifact.inputs == {"seed": 0}


def test_equal_content_has_an_equal_hash_wherever_it_lies(tmp_path):
    first, second = _write(tmp_path / "a"), _write(tmp_path / "elsewhere" / "b")
    other = _write(tmp_path / "c", value=2.0)
    assert first.hash == second.hash != other.hash


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), new_artifact(tmp_path / "thing", kind="thing", inputs={}) as draft:
        draft.save_document("half", 1)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_kill_while_writing_leaves_nothing_under_the_final_name(tmp_path):
    script = f"""
import os, pathlib, signal
from seglens.artifacts import new_artifact
with new_artifact(pathlib.Path({str(tmp_path / "thing")!r}), kind="thing", inputs={{}}) as draft:
    draft.save_document("half", 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert not (tmp_path / "thing").exists()
    assert _write(tmp_path / "thing").document("facts") == {"name": "né"}


def test_an_existing_artifact_is_never_overwritten(tmp_path):
    _write(tmp_path / "thing")
    with pytest.raises(ArtifactError, match="exists"), new_artifact(tmp_path / "thing", kind="thing", inputs={}):
        pass
    assert read_artifact(tmp_path / "thing").kind == "thing"


def test_reading_says_what_is_wrong(tmp_path):
    artifact = _write(tmp_path / "thing")
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        read_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="'other' is needed"):
        read_artifact(tmp_path / "thing", "other")
    with pytest.raises(
        ArtifactError,
        match=r"nothing\.parquet is none of its files; it holds facts\.json, rows\.parquet, weights\.safetensors",
    ):
        artifact.table("nothing")


def test_a_file_is_compared_when_it_is_read_and_again_when_it_has_changed(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr("seglens.artifacts.hash_file", lambda path: hashed.append(path.name) or hash_file(path))
    artifact = _write(tmp_path / "thing")
    assert sorted(hashed) == ["facts.json", "rows.parquet", "weights.safetensors"]
    artifact.document("facts"), artifact.table("rows")
    assert len(hashed) == 3  # this process wrote it
    facts = tmp_path / "thing" / "facts.json"
    facts.write_text(facts.read_text())
    artifact.document("facts"), artifact.document("facts")
    assert hashed[3:] == ["facts.json"]
    facts.write_text("{}")
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"facts\.json differs from its sha256"):
            artifact.document("facts")
    facts.unlink()
    with pytest.raises(ArtifactError, match=r"facts\.json is gone"):
        artifact.document("facts")
    (tmp_path / "thing" / "more.json").write_text("1")
    assert not artifact.has("more.json")
    with pytest.raises(ArtifactError, match=r"more\.json is none of its files; it holds facts\.json, rows"):
        artifact.document("more")


def test_names_that_are_not_utf_8_are_written_escaped_and_read_back(tmp_path):
    name = os.fsdecode(b"M\xfcller")
    with new_artifact(tmp_path / "thing", kind="thing", inputs={"file": name}) as draft:
        draft.save_document("facts", {name: name})
    artifact = read_artifact(tmp_path / "thing", verify=True)
    assert artifact.inputs == {"file": name} and artifact.document("facts") == {name: name}
    assert b'"M\\udcfcller"' in (tmp_path / "thing" / "facts.json").read_bytes()
    assert hash_of(name) != hash_of("M\\udcfcller")


def test_verify_finds_a_changed_file(tmp_path):
    _write(tmp_path / "thing")
    assert read_artifact(tmp_path / "thing", verify=True).kind == "thing"
    (tmp_path / "thing" / "facts.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"facts\.json differ"):
        read_artifact(tmp_path / "thing", verify=True)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", "\xff", '{"kind": 1, "kind": 2}'])
def test_a_damaged_manifest_is_named(tmp_path, text):
    _write(tmp_path / "thing")
    (tmp_path / "thing" / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged .*; remove the folder and run again"):
        read_artifact(tmp_path / "thing")


def test_nan_is_refused_in_documents(tmp_path):
    with pytest.raises(ValueError, match="JSON"), new_artifact(tmp_path / "a", kind="a", inputs={}) as draft:
        draft.save_document("facts", {"x": float("nan")})


@pytest.mark.processes
def test_a_held_folder_names_its_holder(tmp_path):
    script = f"""
import pathlib
from seglens.artifacts import locked
try:
    with locked(pathlib.Path({str(tmp_path)!r})): print("got it")
except ValueError as error: print(error)
"""
    with locked(tmp_path):
        held = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    free = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "is being written by process" in held
    assert free.strip() == "got it"


def test_hashes_tell_values_types_and_names_apart():
    one = {"w": torch.zeros(4)}
    assert hash_tensors(one) == hash_tensors({"w": torch.zeros(4)})
    different = [{"w": torch.ones(4)}, {"v": torch.zeros(4)}, {"w": torch.zeros(2, 2)}, {"w": torch.zeros(4).int()}]
    assert len({hash_tensors(tensors) for tensors in [one, *different]}) == 5
    assert hash_tensors({"w": torch.zeros(0)}) != hash_tensors({})
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})


def test_text_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "run.json"
    write_text_whole(path, "1")
    write_text_whole(path, json.dumps({"a": 2}))
    assert json.loads(path.read_text()) == {"a": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
