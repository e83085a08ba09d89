"""Whether there is room: asked before anything is started, answered with figures."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.faults.scans import write_cohort
from tests.toys import TINY_SEGFORMER, slices_of, store_of, tiny_segmenter

from seglens.activations.extraction import extract
from seglens.artifacts import new_artifact
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slices import prepare_slices
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.sharing import align
from seglens.phantoms.cohort import write_phantom_cohort
from seglens.runtime import resources
from seglens.runtime.resources import (
    DISK_SPARE_BYTES,
    InsufficientResourcesError,
    free_memory,
    readable_bytes,
    require_disk,
    require_memory,
)
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.prediction import predict_cohort
from seglens.segmenters.training import TrainingSettings, train_segmenter


@pytest.fixture
def no_disk(monkeypatch):
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda folder: SimpleNamespace(free=DISK_SPARE_BYTES))


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setattr(resources, "free_memory", lambda: 100)


def test_row_33_extraction(no_disk, no_memory, tmp_path):
    """Activations that the disk or the memory cannot hold are refused with both figures, before any is kept."""
    slices, segmenter = slices_of(4), tiny_segmenter()
    with pytest.raises(
        InsufficientResourcesError,
        match=r"activations of 4 slices at 'stage1' .*: about 32\.0 MiB of disk are needed, 32\.0 MiB",
    ):
        extract(segmenter, slices, "stage1", folder=tmp_path / "store")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        InsufficientResourcesError,
        match=r"activations of 4 slices .*: about 8192 bytes of memory are needed, 100 bytes are fr",
    ):
        extract(segmenter, slices, "stage1")
    with pytest.raises(InsufficientResourcesError, match=r"about 2048 bytes of memory are needed"):
        extract(segmenter, slices, "stage1", dtype="int8")


def test_row_33_fitting(no_disk, monkeypatch, tmp_path):
    """A dictionary whose weights, gradients and moments do not fit in memory is refused before it is made."""
    store, settings = store_of(4), FitSettings(k=2, expansion=4, steps=2)
    with pytest.raises(
        InsufficientResourcesError, match=r"the checkpoints of a dictionary of d_in 8 and expansion 4 .* MiB of disk"
    ):
        fit_dictionary(store, settings=settings, checkpoint=tmp_path / "fit")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(resources, "free_memory", lambda: 10_000)
    with pytest.raises(
        InsufficientResourcesError, match=r"d_in 8 and expansion 4 \(a smaller expansion .*\): about 10240 bytes of me"
    ):
        fit_dictionary(store, settings=settings)
    with pytest.raises(InsufficientResourcesError, match=r"about 2\.3 TiB of memory are needed"):
        fit_dictionary(store, settings=FitSettings(k=2, expansion=10**9, steps=2))


def test_row_33_training_phantoms_and_slices(no_disk, monkeypatch, tmp_path):
    """Checkpoints, phantoms and slices that the disk cannot hold are refused before the first byte of them."""
    settings = TrainingSettings(steps=1, batch_size=2, architecture_settings=TINY_SEGFORMER)
    with pytest.raises(
        InsufficientResourcesError, match=r"the checkpoints of the training: about 3\d\.\d MiB of disk are needed"
    ):
        train_segmenter(slices_of(4), settings=settings, checkpoint=tmp_path / "training")
    with pytest.raises(
        InsufficientResourcesError, match=r"a cohort of 2 phantoms.*: about 32\.\d MiB of disk are needed"
    ):
        write_phantom_cohort(tmp_path / "phantoms", "adult", subjects=2, seed=0, size=64, slices=4)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    cohort = read_cohort(write_phantom_cohort(tmp_path / "phantoms", "adult", subjects=2, seed=0, size=32, slices=2))
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda folder: SimpleNamespace(free=DISK_SPARE_BYTES))
    with pytest.raises(
        InsufficientResourcesError, match=r"slices of 2 volumes \(fewer with slices_per_volume\): about 32\.\d MiB"
    ):
        prepare_slices(cohort, Preprocessing(("T1c",), size=32), folder=tmp_path / "slices")
    assert [entry.name for entry in tmp_path.iterdir()] == ["phantoms"]


def test_row_33_masks_of_files(no_disk, tmp_path):
    """Masks that the disk cannot hold are refused before the first is made."""
    cohort = read_cohort(write_cohort(tmp_path / "files", ["a", "b"]), sequences=["T1"])
    segmenter = build_segmenter(
        "segformer-b0", sequences=("T1",), labels=cohort.labels, size=32, settings=TINY_SEGFORMER
    )
    segmenter = replace(segmenter, preprocessing=Preprocessing(("T1",), 32, foreground="brain"))
    with pytest.raises(
        InsufficientResourcesError, match=r"masks of 2 cases: about 32\.\d MiB of disk are needed, 32\.0 MiB are free"
    ):
        predict_cohort(segmenter, cohort, folder=tmp_path / "masks")
    assert [entry.name for entry in tmp_path.iterdir()] == ["files"]


def test_row_33_matching(no_memory):
    """A similarity of all latents with all that does not fit in memory is refused."""
    one = SparseAutoencoder(4, 8, k=2)
    with pytest.raises(
        InsufficientResourcesError,
        match=r"matching 8 with 8 latents by greedy.*: about 768 bytes of memory are needed, 100 byt",
    ):
        align(one, one, method="greedy")


def test_row_33_artifacts(no_disk, tmp_path):
    """A tensor that does not fit is refused before it is written."""
    refused = pytest.raises(
        InsufficientResourcesError, match=r"weights\.safetensors: about 32\.0 MiB of disk are needed"
    )
    with refused, new_artifact(tmp_path / "a", kind="a", inputs={}) as draft:
        draft.save_tensors("weights", {"w": torch.ones(10)})
    assert list(tmp_path.iterdir()) == []


def test_figures(monkeypatch, tmp_path):
    assert [readable_bytes(n) for n in (3, 2**20, 3 * 2**29, 2**40)] == ["3 bytes", "1.0 MiB", "1.5 GiB", "1.0 TiB"]
    require_disk(tmp_path / "not" / "there", 1, "x")
    require_memory(1, "x")
    free = free_memory()
    assert free > 0
    group = tmp_path / "jobs" / "mine"
    group.mkdir(parents=True)
    for folder, limit, used, cached in ((group, "max", 5, 1), (group.parent, "1000", 700, 50)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 3\ninactive_file {cached}\n")
    (tmp_path / "cgroup").write_text("1:name=systemd:/x\n0::/jobs/mine\n")
    monkeypatch.setattr(resources, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(resources, "OWN_GROUP", tmp_path / "cgroup")
    assert free_memory() == 350
    monkeypatch.setattr(resources, "OWN_GROUP", tmp_path / "nowhere")
    assert free_memory() > 350
