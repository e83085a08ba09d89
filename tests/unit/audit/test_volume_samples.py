from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from tests.faults.scans import write_nifti
from tests.nnunet_folder import PATCH, write_case, write_folder
from tests.unit.audit.conftest import SEQUENCES, network

from seglens.audit.volume_samples import MAX_SLICES, MAX_WINDOWS, SampleReader
from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.normalisation_groups import groups_of
from seglens.cohorts.slices import SliceSampling, prepare_slices
from seglens.segmenters.opened import open_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_model(write_folder(tmp_path_factory.mktemp("model")), fold=0)


def case_of(model, folder, shape, mask=None):
    paths = write_case(folder, "a", shape=shape)
    refs = {name: ImageRef(path) for name, path in zip(model.sequences, paths, strict=True)}
    return Case("a", "a", "a", "c", refs, None if mask is None else ImageRef(mask), {0: 0, 1: 1, 2: 2})


def test_slices_are_those_that_training_shows(labelled):
    cohort = read_cohort(labelled, sequences=SEQUENCES)
    segmenter = network()
    samples = SampleReader(segmenter).read(groups_of(cohort.cases)[0], with_masks=True)
    prepared = prepare_slices(cohort.with_splits({}), segmenter.preprocessing, SliceSampling(lesion_free_share=0.5))
    rows = {position: row for row, case, position in prepared.index.select("row", "case", "position").iter_rows()
            if case == "p0"}  # fmt: skip
    assert len(samples) == 12  # all of them: each has a foreground
    for position, row in rows.items():
        assert torch.equal(samples.stack[position], prepared.images([row])[0])
        assert torch.equal(samples.masks[position], prepared.masks([row])[0])
        assert torch.equal(samples.inside[position], prepared.brains([row])[0])


def test_a_long_volume_is_thinned_evenly(tmp_path):
    image = np.random.default_rng(0).integers(100, 200, (24, 24, 60)).astype(np.int16)
    image[:4], image[:, :4] = 0, 0
    refs = {name: ImageRef(write_nifti(tmp_path / f"{name}.nii.gz", image)) for name in SEQUENCES}
    samples = SampleReader(network()).read([Case("a", "a", "a", "c", refs, None, {})])
    assert len(samples) == MAX_SLICES and samples.masks is None


def test_an_empty_volume_is_refused_by_name(tmp_path):
    refs = {name: ImageRef(write_nifti(tmp_path / f"{name}.nii.gz", np.zeros((8, 8, 4), np.int16)))
            for name in SEQUENCES}  # fmt: skip
    with pytest.raises(ValueError, match="empty"):
        SampleReader(network()).read([Case("dark", "dark", "dark", "c", refs, None, {})])


def test_a_change_is_made_before_anything_is_normalised(labelled):
    unit = groups_of(read_cohort(labelled, sequences=SEQUENCES).cases)[0]
    reader = SampleReader(network())
    plain = reader.read(unit)
    scaled = reader.read(unit, change=lambda values, spacing: values * 3 + 7)
    assert torch.allclose(scaled.stack, plain.stack, atol=1e-4)  # a z-score does not see it
    seen = []
    other = reader.read(unit, change=lambda values, spacing: seen.append((values.shape, spacing)) or values**2)
    assert seen == [((2, 12, 28, 24), (1.0, 1.0, 1.0))]
    assert not torch.allclose(other.stack, plain.stack, atol=0.1)
    assert torch.equal(other.inside, plain.inside)


def test_windows_tile_a_volume_once_with_their_labels(model, tmp_path):
    shape = (20, 15, 11)
    mask = np.zeros(shape, np.uint8)
    mask[5:12, 4:9, 3:8], mask[7:9, 5:8, 4:6] = 1, 2
    affine = np.diag([1.25, 1, 2, 1])
    case = case_of(model, tmp_path / "images", shape, write_nifti(tmp_path / "m.nii.gz", mask, affine))
    image = np.asarray(nibabel.load(case.images["T1"].path).dataobj).copy()
    image[mask == 2] = 1000
    write_nifti(case.images["T1"].path, image.astype(np.float32), affine)
    samples = SampleReader(model).read([case], with_masks=True)
    assert samples.stack.shape[2:] == PATCH and len(samples) <= MAX_WINDOWS
    assert samples.spacing_mm == pytest.approx((2.0, 1.0, 1.25))
    bright = samples.stack[:, 0] > 4  # standard deviations: nothing else is
    assert torch.equal(bright, samples.masks == 2) and bright.any()
    assert not samples.masks[~samples.inside].any()


def test_pictures_are_refused_by_a_model_of_volumes(model):
    cases = [Case(f"s{n}", "p", "p", "c", {}, None, {}, position=n) for n in range(3)]
    with pytest.raises(ValueError, match="3 files of one slice each, and the model takes volumes"):
        SampleReader(model).read(cases)


def test_a_model_that_does_not_say_how_it_is_shown_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="preprocessing"):
        SampleReader(replace(network(), preprocessing=None))
    several = open_model(write_folder(tmp_path, folds=("0", "1")))
    with pytest.raises(ValueError, match="open one"):
        SampleReader(several)
