"""Beside tests/faults/test_reading_back.py, which holds that masks lie where the images do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.faults.scans import write_cohort, write_nifti

from seglens.artifacts import ArtifactError, read_artifact
from seglens.cohorts.layouts import read_cohort
from seglens.segmenters.prediction import predict_cohort
from seglens.segmenters.segmenter import Segmenter


@pytest.fixture
def segmenter() -> Segmenter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Conv2d(1, 4, 3, padding=1)
    labels = {0: "background", 1: "necrotic_core", 2: "edema", 3: "enhancing"}
    return Segmenter.wrap(network, sequences=("T1",), labels=labels, hookpoints={}, size=32)


def test_the_same_cohort_gives_the_same_hash_whatever_the_batch(tmp_path: Path, segmenter: Segmenter) -> None:
    cohort = read_cohort(write_cohort(tmp_path / "c", ["a", "b"]), sequences=["T1"])
    first = predict_cohort(segmenter, cohort, folder=tmp_path / "1", batch_size=3)
    second = predict_cohort(segmenter, cohort, folder=tmp_path / "2", batch_size=12)
    assert first.hash == second.hash
    assert read_artifact(tmp_path / "1", "predictions", verify=True).inputs["cases"] == ["a", "b"]
    source = first.document("cases")[0]["sources"]["T1"]
    assert source["file"] == "a_t1.nii.gz"
    assert len(source["sha256"]) == 64
    with pytest.raises(ArtifactError, match="exists"):
        predict_cohort(segmenter, cohort, folder=tmp_path / "1")


def test_data_that_does_not_fit(tmp_path: Path, segmenter: Segmenter) -> None:
    root = write_cohort(tmp_path / "c", ["a"])
    with pytest.raises(ValueError, match="sequences are T1c"):
        predict_cohort(segmenter, read_cohort(root, sequences=["T1c"]), folder=tmp_path / "out")
    cohort = read_cohort(root, sequences=["T1"])
    with pytest.raises(ValueError, match="none of 1 cases can be read"):
        predict_cohort(segmenter, cohort, folder=tmp_path / "out", quarantined={"a"})
    assert not (tmp_path / "out").exists()


def test_without_a_brain_everything_is_background(tmp_path: Path, segmenter: Segmenter) -> None:
    speck = np.zeros((24, 28, 12), np.int16)
    speck[3, 3, 3] = -1  # not constant, and nothing that could be a head
    speck[4] = np.random.default_rng(0).integers(-3, 0, (28, 12))
    root = write_cohort(tmp_path / "c", ["a"])
    write_nifti(root / "a/a_t1.nii.gz", speck)
    done = predict_cohort(segmenter, read_cohort(root, sequences=["T1"]), folder=tmp_path / "out")
    row = done.document("cases")[0]
    assert row["voxels"]["background"] == 24 * 28 * 12 or row["brain_seen"]
