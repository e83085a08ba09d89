"""What is used is verified: artifacts are compared with their hashes when they are opened, records are read whole."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from tests.faults.scans import write_cohort
from tests.toys import answer, slices_of, store_of, tiny_segmenter

from seglens import cli
from seglens.activations.store import ActivationStore
from seglens.artifacts import Artifact, ArtifactError, hash_file, hash_of, new_artifact, read_artifact
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.explorer.names import Names
from seglens.runs import Run, Stage
from seglens.segmenters.segmenter import Segmenter
from seglens.studies.input_checksums import cohorts_of, quarantine_reported


def flip(file: Path, place: int = -3) -> None:
    """Turn one bit."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def dictionary(seed: int = 0) -> SparseAutoencoder:
    """A dictionary that was never fitted."""
    return SparseAutoencoder(
        d_in=8, n_latents=16, k=2, seed=seed, hookpoint="stage1", segmenter_hash="a", store_hash="b"
    )


WRITERS: dict[str, tuple[str, Callable, Callable[[Artifact], object]]] = {
    "segmenter": ("model.safetensors", lambda draft: tiny_segmenter().write(draft), Segmenter.read),
    "dictionary": ("dictionary.safetensors", lambda draft: dictionary().write(draft), SparseAutoencoder.read),
    "slices": (
        "shard_00000.safetensors",
        lambda draft: slices_of(3).write(draft),
        lambda artifact: SliceSet.read(artifact).images([0]),
    ),
    "activations": (
        "shard_00000.safetensors",
        lambda draft: store_of(2).write(draft),
        lambda artifact: ActivationStore.read(artifact).tokens(torch.tensor([0])),
    ),
}
"""Kind to a file of it, how it is written, and how it is read to where that file is used."""


def written(folder: Path, kind: str) -> Path:
    """An artifact of that kind."""
    with new_artifact(folder / kind, kind=kind, inputs={}) as draft:
        WRITERS[kind][1](draft)
    return folder / kind


@pytest.mark.parametrize("kind", WRITERS)
def test_row_81_a_bit_that_turned(tmp_path: Path, kind: str) -> None:
    """A turned bit of a segmenter, dictionary, store or slices is refused where the file is opened, by its name."""
    file, _, read = WRITERS[kind]
    folder = written(tmp_path, kind)
    read(read_artifact(folder, kind))
    flip(folder / file)
    opened = read_artifact(folder, kind)
    with pytest.raises(ArtifactError, match=rf"{kind}: {file} differs from its sha256 .*`seglens doctor .*remove"):
        read(opened)
    flip(folder / file)
    read(read_artifact(folder, kind))


def test_row_81_a_shard_of_a_large_store_is_compared_when_it_is_opened(tmp_path: Path) -> None:
    """Of a store in shards each is compared when it is first opened, not all of them before the first token."""
    shards = [torch.rand(2, 2, 2, 4) for _ in range(3)]
    store = ActivationStore.from_grids(shards, hookpoint="stage1", segmenter_hash="a", slices_hash="b")
    with new_artifact(tmp_path / "store", kind="activations", inputs={}) as draft:
        store.write(draft)
    flip(tmp_path / "store/shard_00002.safetensors")
    opened = ActivationStore.read(read_artifact(tmp_path / "store"))
    assert torch.equal(opened.tokens(torch.tensor([0])), store.tokens(torch.tensor([0])))
    with pytest.raises(ArtifactError, match="shard_00002"):
        opened.tokens(torch.tensor([store.n_tokens - 1]))


def test_row_81_tensors_of_another_dictionary(tmp_path: Path) -> None:
    """The tensors of another artifact, whole as they are, are refused in this one's place."""
    for seed, name in enumerate(("one", "two")):
        with new_artifact(tmp_path / name, kind="dictionary", inputs={}) as draft:
            dictionary(seed).write(draft)
    other = (tmp_path / "two/dictionary.safetensors").read_bytes()
    (tmp_path / "one/dictionary.safetensors").write_bytes(other)
    with pytest.raises(ArtifactError, match="differs from its sha256"):
        SparseAutoencoder.read(read_artifact(tmp_path / "one"))


def test_row_81_predict_refuses_a_damaged_segmenter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`seglens predict` with a segmenter one bit of which turned is exit 2, names the file, and writes nothing."""
    root = write_cohort(tmp_path / "c", ["a"], n_sequences=1)
    flip(written(tmp_path, "segmenter") / "model.safetensors")
    command = ("predict", root, "--model", tmp_path / "segmenter", "--out", tmp_path / "masks")
    assert answer(monkeypatch, *command) == cli.REFUSED
    assert "model.safetensors differs from its sha256" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


def edit(change: Callable[[dict], object], *, hashed: bool = False) -> Callable[[Path], None]:
    """Change a manifest, and its hash to what fits where somebody takes the trouble."""

    def edited(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        if hashed:
            own = {name: value for name, value in manifest.items() if name not in ("hash", "computed_by")}
            manifest["hash"] = hash_of(own)
        path.write_text(json.dumps(manifest))

    return edited


EDITS = {
    "hash": (edit(lambda manifest: manifest.update(hash="0" * 64)), "manifest.json was changed"),
    "sha256": (
        edit(lambda manifest: manifest["files"]["facts.json"].update(sha256="0" * 64)),
        "manifest.json was changed",
    ),
    "format": (edit(lambda manifest: manifest.update(format=99), hashed=True), "is of format 99; this version reads"),
    "outside": (
        edit(lambda manifest: manifest["files"].update({"../x": {"sha256": ""}}), hashed=True),
        "which is not in the folder",
    ),
    "files": (edit(lambda manifest: manifest.update(files=[1]), hashed=True), "manifest.json is damaged"),
    "deep": (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "manifest.json is damaged"),
    "kind": (edit(lambda manifest: manifest.update(kind="other"), hashed=True), "is of kind 'other'; 'facts' is"),
}


@pytest.mark.parametrize("name", EDITS)
def test_row_81_an_edited_manifest(tmp_path: Path, name: str) -> None:
    """A manifest that was changed, is of another format or kind, or names files elsewhere, is refused by name."""
    with new_artifact(tmp_path / "facts", kind="facts", inputs={}) as draft:
        draft.save_document("facts", 1)
    change, said = EDITS[name]
    change(tmp_path / "facts")
    with pytest.raises(ArtifactError, match=said):
        read_artifact(tmp_path / "facts", "facts")


def finished_run(folder: Path) -> Run:
    """A run of one stage."""
    run, stage = Run(folder), Stage("facts/a", "facts", {})

    def make(path: Path, checkpoint: Path) -> None:
        with new_artifact(path, kind="facts", inputs={}) as draft:
            draft.save_document("facts", {"a": 1})
            draft.save_table("rows", pl.DataFrame({"a": [1, 2]}))

    with run.writing({"name": "a"}):
        run.finish(stage, make)
    return run


def test_row_81_an_artifact_that_run_json_does_not_name(tmp_path: Path) -> None:
    """An artifact with another hash than run.json names is neither read nor gone on from, until it is set aside."""
    run = finished_run(tmp_path / "run")
    edit(lambda manifest: manifest.update(inputs={"b": 2}), hashed=True)(run.artifact("facts/a").path)
    with pytest.raises(ArtifactError, match=r"is not the artifact that .*run\.json names.*--repair"):
        run.artifact("facts/a")
    with pytest.raises(ArtifactError, match="is not the artifact"), Run(run.path).writing({"name": "a"}):
        pass


def test_row_81_the_doctor_takes_any_artifact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`seglens doctor` takes the folder of any artifact, says what it is and whether it is whole, or what is wrong."""
    for kind, (file, _, _) in WRITERS.items():
        folder = written(tmp_path, kind)
        assert answer(monkeypatch, "doctor", folder) == cli.DONE
        said = capsys.readouterr().out
        assert f"{folder}: {kind} of " in said and "files, whole" in said and "thread" in said
        flip(folder / file)
        assert answer(monkeypatch, "doctor", folder) == cli.FAULT
        assert f"DAMAGED       {folder}: {file} differ" in capsys.readouterr().out
        assert answer(monkeypatch, "doctor", folder, "--repair") == cli.REFUSED
        assert "give its folder" in capsys.readouterr().err


BOOKS = [
    '{"stages": []}',
    "[]",
    '{"stages": {}, "study": "a"}',
    '{"stages": {"a": {"folder": 3, "hash": "0"}}}',
    '{"stages": {"a": "b"}}',
    "[" * 100_000,
    '{"a":' * 100_000,
    "\x00",
]


@pytest.mark.parametrize("name", ["run.json", "timings.json", "names.json", "inputs/facts.json"])
@pytest.mark.parametrize("content", range(len(BOOKS)))
def test_row_82_torn_and_edited_records(tmp_path: Path, name: str, content: int) -> None:
    """A record of a run's folder that was torn or edited is refused as damaged, with the file named."""
    run = finished_run(tmp_path / "run")
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_text(BOOKS[content])
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        _ = Run(run.path).timings
        _ = Names(run.path).of("0" * 64)
        with quarantine_reported(run.path, cohorts_of(run.path)):
            pass


def test_row_82_a_report_on_such_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`seglens report`, `doctor` and `explore` answer a torn run.json with exit 2 and its name."""
    run = finished_run(tmp_path / "run")
    for content in BOOKS:
        (run.path / "run.json").write_text(content)
        for verb in ("report", "doctor", "explore"):
            assert answer(monkeypatch, verb, run.path) == cli.REFUSED
            assert "run.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [("facts.json", b"{"), ("facts.json", b"[" * 100_000), ("rows.parquet", b"PAR1"), ("rows.parquet", b"")],
)
def test_row_82_files_that_are_cut(tmp_path: Path, name: str, content: bytes) -> None:
    """A document or table that cannot be read is refused with its name, also where its sha256 was made to fit."""
    artifact = finished_run(tmp_path / "run").artifact("facts/a")
    (artifact.path / name).write_bytes(content)
    sha256 = hash_file(artifact.path / name)
    edit(lambda manifest: manifest["files"][name].update(sha256=sha256), hashed=True)(artifact.path)
    again = read_artifact(artifact.path)
    with pytest.raises(ArtifactError, match=rf"{name} is damaged \(.*\); remove the folder and run again"):
        _ = again.document("facts") if name.endswith("json") else again.table("rows")


def test_row_82_a_study_file_that_leads_to_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A study file that is a link to itself, or whose name is too long, is exit 2 with the name and the reason."""
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    for path, said in ((tmp_path / "loop.yaml", "loop.yaml"), (tmp_path / ("x" * 300), "cannot be read")):
        assert answer(monkeypatch, "run", path, "--out", tmp_path / "out") == cli.REFUSED
        assert said in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("name", ["damaged", "artifacts"])
def test_row_83_repair_stays_in_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    """Where `damaged` or `artifacts` is a link, `--repair` is refused and moves nothing."""
    run = finished_run(tmp_path / "run")
    folder = run.artifact("facts/a").path
    flip(folder / "facts.json")
    (tmp_path / "elsewhere").mkdir()
    if name == "artifacts":
        (run.path / name).rename(tmp_path / "elsewhere/artifacts")
        (run.path / name).symlink_to(tmp_path / "elsewhere/artifacts")
    else:
        (run.path / name).symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    assert answer(monkeypatch, "doctor", run.path, "--repair") == cli.REFUSED
    assert f"{name} is a link and leads to" in capsys.readouterr().err
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before and folder.is_dir()
