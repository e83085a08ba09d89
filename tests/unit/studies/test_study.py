"""A whole study by several processes: it ends, and one process finds nothing left to do."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from seglens.artifacts import read_artifact
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.studies.run import Run
from seglens.studies.settings import StudySettings
from seglens.studies.study import run_study

LEARNT = ("segmenter/", "dictionary/")
"""Stages whose result depends on the number of processes, by rounding and by dropout."""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    """Ten patients with six pictures each: a disc, most of them with a bright square in it."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    disc = (rows - 16) ** 2 + (columns - 16) ** 2 < 14**2
    for patient in range(10):
        for number in range(6):
            mask = np.zeros((32, 32), np.uint8)
            if number:
                row, column = rng.integers(8, 20, 2)
                mask[row : row + 6, column : column + 5] = 255
            image = disc * (90 + 60 * (mask > 0) + rng.normal(0, 15, (32, 32)))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"p{patient}_{number}.png")
            Image.fromarray(mask).save(folder / f"p{patient}_{number}_mask.png")
    source = {
        "path": str(folder),
        "layout": "folder",
        "images": "{patient}_{slice}.png",
        "masks": "{patient}_{slice}_mask.png",
        "channels": {"FLAIR": 0},
        "labels": {0: "background", 1: "tumour"},
        "mask_values": {0: 0, 255: 1},
    }
    settings = {
        "name": "discs",
        "sequences": ["FLAIR"],
        "size": 32,
        "cohorts": {"discs": {"sources": [source], "fractions": {"train": 0.4, "val": 0.3, "test": 0.3}}},
        "segmenters": {"discs": {"cohort": "discs", "steps": 8, "batch_size": 6}},
        "hookpoint": "stage1",
        "dictionaries": {"k": 4, "expansion": 2, "steps": 10, "batch_size": 500, "controls": False},
        "failures": [{"segmenter": "discs", "cohort": "discs", "worst": 4}],
        "atlas_top_k": 2,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_two_processes_leave_what_one_would(tmp_path, study_file, run_ranks):
    out = tmp_path / "out"
    first, second = run_ranks("-m", "seglens.cli", "run", str(study_file), "--out", str(out))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert (second.stdout, second.stderr) == ("", "")
    assert str(out / "report.html") in first.stdout
    hashes, timings = Run(out).hashes, (out / "timings.json").read_text()
    assert set(json.loads(timings)) == set(hashes)
    assert not list((out / "checkpoints").iterdir())

    settings = StudySettings.read(study_file)
    assert run_study(settings, out).hashes == hashes
    assert (out / "timings.json").read_text() == timings  # nothing was computed again

    for stage in hashes:
        if not stage.startswith(LEARNT):
            shutil.rmtree(Run(out).artifact(stage).path)
    assert run_study(settings, out).hashes == hashes  # all of it was, by one process: the same bits


def test_without_a_store_the_dictionary_is_the_same(tmp_path, study_file):
    settings = StudySettings.read(study_file)
    runs = [run_study(settings.model_copy(update={"store": kept}), tmp_path / str(kept)) for kept in (True, False)]
    assert runs[0].stages("store/")
    assert not runs[1].stages("store/")
    shards = runs[1].path.glob("artifacts/**/shard_*.safetensors")
    assert {read_artifact(shard.parent).kind for shard in shards} == {"slices"}
    with_store, without = (SparseAutoencoder.read(run.artifact("dictionary/discs")) for run in runs)
    for name, weights in with_store.state_dict().items():
        assert torch.equal(weights, without.state_dict()[name])
    assert runs[0].artifact("quality/discs").document("quality") == runs[1].artifact("quality/discs").document(
        "quality"
    )
    timings = (runs[1].path / "timings.json").read_text()
    run_study(settings.model_copy(update={"store": False}), runs[1].path)
    assert (runs[1].path / "timings.json").read_text() == timings  # nothing was computed again
