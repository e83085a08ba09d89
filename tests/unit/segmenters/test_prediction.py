"""Beside tests/faults/test_reading_back.py, which holds that masks lie where the images do."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
import torch
from tests.faults.scans import write_cohort, write_nifti

from seglens.artifacts import ArtifactError, read_artifact
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slices import SliceSampling, prepare_slices
from seglens.segmenters.prediction import predict_cohort
from seglens.segmenters.scoring import evaluate, predict_slices
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import TrainingSettings, train_segmenter


@pytest.fixture
def segmenter() -> Segmenter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Conv2d(1, 4, 3, padding=1)
    labels = {0: "background", 1: "necrotic_core", 2: "edema", 3: "enhancing"}
    preprocessing = Preprocessing(("T1",), 32, foreground="brain")
    return Segmenter.wrap(
        network, sequences=("T1",), labels=labels, hookpoints={}, size=32, preprocessing=preprocessing
    )


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
    assert row["voxels"]["background"] == 24 * 28 * 12 or row["foreground_seen"]


def test_files_are_prepared_as_the_training_slices_were(tmp_path: Path) -> None:
    """What `predict` writes is what `evaluate` scores, voxel for voxel, also where the clip is not the usual one."""
    cohort = read_cohort(write_cohort(tmp_path / "c", ["a", "b"]), sequences=["T1"])
    preprocessing = Preprocessing(("T1",), 28, (20.0, 80.0))
    slices = prepare_slices(cohort, preprocessing, SliceSampling(lesion_free_share=0.3, minimum_foreground_share=0.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Conv2d(1, 4, 3, padding=1)
    start = Segmenter.wrap(network, sequences=("T1",), labels=cohort.labels, hookpoints={}, size=28)
    trained = train_segmenter(
        slices, init_from=start, settings=TrainingSettings(steps=12, batch_size=4, learning_rate=0.05)
    )
    assert trained.preprocessing == replace(preprocessing, foreground="brain") == slices.preprocessing
    trained.save(tmp_path / "segmenter")
    again = Segmenter.load(tmp_path / "segmenter", network=torch.nn.Conv2d(1, 4, 3, padding=1))
    predict_cohort(again, cohort, folder=tmp_path / "out")
    expected = predict_slices(trained, slices).numpy()
    assert len(np.unique(expected)) > 1
    for row, case, position in slices.index.select("row", "case", "position").rows():
        written = np.asarray(nibabel.load(tmp_path / f"out/{case}.nii.gz").dataobj)[:, :, position].T
        written = np.where(written == 4, 3, written)
        np.testing.assert_array_equal(written, expected[row, 0, :, 2:26])  # 24 columns stand in 28
    counts = evaluate(trained, slices).table
    for label in (1, 2, 3):
        assert counts.filter(pl.col("label") == label)["predicted"].sum() == (expected == label).sum()


def test_slices_prepared_otherwise_and_segmenters_that_do_not_say_how(tmp_path: Path, segmenter: Segmenter) -> None:
    cohort = read_cohort(write_cohort(tmp_path / "c", ["a"]), sequences=["T1"])
    assert segmenter.preprocessing is not None
    other = prepare_slices(cohort, replace(segmenter.preprocessing, clip_percentiles=(20.0, 80.0)))
    with pytest.raises(ValueError, match=r"clip_percentiles is \(20.0, 80.0\), not \(0.5, 99.5\).*segmenter.prep"):
        evaluate(segmenter, other)
    own = prepare_slices(cohort, segmenter.preprocessing)
    assert len(evaluate(segmenter, own).table)
    mute = replace(segmenter, preprocessing=None)
    assert evaluate(mute, other).table["predicted"].sum() == own.masks().numel()
    with pytest.raises(ValueError, match="does not say how"):
        predict_cohort(mute, cohort, folder=tmp_path / "out")
    with pytest.raises(ValueError, match="foreground auto, which is settled when slices are prepared"):
        replace(segmenter, preprocessing=replace(segmenter.preprocessing, foreground="auto"))
    with pytest.raises(ValueError, match="the size 64, the segmenter"):
        replace(segmenter, preprocessing=replace(segmenter.preprocessing, size=64))
