import nibabel
import numpy as np
import pytest
import torch
from tests.nnunet_folder import LABELS, PATCH, write_cohort, write_folder

from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.slice_set import ENDS
from seglens.cohorts.slices import SliceSampling
from seglens.cohorts.source_options import SourceOptions
from seglens.segmenters.opened import open_model
from seglens.segmenters.window_samples import prepare_windows
from seglens.segmenters.windows import padding_of, windows_of

SEQUENCES = ("T1", "FLAIR")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_model(write_folder(tmp_path_factory.mktemp("model")))


def cohort_of(folder, name="near", n=2, **options):
    write_cohort(folder, name, n, **options)
    return read_cohort(folder, SourceOptions(layout="nnunet"), name=name, sequences=SEQUENCES)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return cohort_of(tmp_path_factory.mktemp("cohort") / "near")


def test_samples_are_the_windows_that_the_model_is_run_on(model, cohort):
    samples = prepare_windows(model, cohort)
    assert samples.size == PATCH and samples.labels == {value: name for name, value in LABELS.items()}
    volume = model.read(cohort.cases[0], with_mask=True)
    prepared = model.prepare(volume)
    padded = model.tiling.padded(torch.from_numpy(np.ascontiguousarray(prepared.values)), PATCH)
    windows = list(windows_of("", tuple(padded.shape[1:]), PATCH, (), model.tiling))
    front, _ = padding_of(prepared.extent, PATCH)
    first = samples.index.filter(case=cohort.cases[0].id)
    for row in first.iter_rows(named=True):
        place = windows[row["position"]]
        assert torch.equal(samples.images([row["row"]])[0], padded[(slice(None), *place.box)])
        starts = [row["start_slice"], row["start_row"], row["start_column"]]
        assert starts == [start - before for start, before in zip(place.start, front, strict=True)]
    assert samples.index["spacing_slice_mm"].unique().to_list() == [2.0]


def test_labels_are_those_of_the_file_where_the_grids_are_the_same(model, cohort):
    samples = prepare_windows(model, cohort, SliceSampling(slices_per_volume=100))
    volume = model.read(cohort.cases[0], with_mask=True)
    prepared = model.prepare(volume)
    assert prepared.extent == prepared.crop  # nothing is resampled
    (z, y, x), (depth, n_rows, n_columns) = prepared.start, prepared.crop
    front, behind = padding_of(prepared.extent, PATCH)
    cropped = volume.mask[z : z + depth, y : y + n_rows, x : x + n_columns]
    padded = np.pad(cropped, list(zip(front, behind, strict=True)))
    windows = list(windows_of("", padded.shape, PATCH, (), model.tiling))
    own = samples.index.filter(case=cohort.cases[0].id)
    assert {int(value) for value in samples.masks().unique()} == {0, 1, 2}
    for row in own.iter_rows(named=True):
        expected = padded[windows[row["position"]].box]
        assert np.array_equal(samples.masks([row["row"]])[0].numpy(), expected)


def test_the_first_window_shows_most_of_the_labels_and_further_ones_what_it_does_not(model, cohort):
    few = prepare_windows(model, cohort, SliceSampling(slices_per_volume=1, lesion_free_share=0.0))
    assert len(few) == 2  # one a volume
    all_windows = prepare_windows(model, cohort, SliceSampling(slices_per_volume=100, lesion_free_share=0.0))
    most = [int((mask > 0).sum()) for mask in all_windows.masks()]
    assert int((few.masks([0]) > 0).sum()) == max(most)
    labelled = few.index["weight"].to_list()
    assert min(labelled) > 1.0 and all_windows.index["weight"].min() >= 1.0


def test_a_window_says_where_the_patient_begins_and_ends(tmp_path, model):
    """The files are RAS+, so rows run from posterior to anterior and columns to the right: ends change places."""
    samples = prepare_windows(model, cohort_of(tmp_path / "a", n=1))
    row = samples.index.row(0, named=True)
    assert row["from_slice"] < row["to_slice"] and row["from_row"] > row["to_row"]
    assert row["from_column"] > row["to_column"]
    turned = np.diag([-1.25, -1.0, 2.0, 1.0])
    other = prepare_windows(model, cohort_of(tmp_path / "b", n=1, affine=turned)).index.row(0, named=True)
    assert other["from_row"] < other["to_row"] and other["from_column"] < other["to_column"]


def test_an_axis_that_is_not_the_patients_has_no_ends(tmp_path, model):
    swapped = np.array([[0, 1.25, 0, 0], [1.0, 0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1.0]])
    row = prepare_windows(model, cohort_of(tmp_path / "a", n=1, affine=swapped)).index.row(0, named=True)
    assert [row[name] is None for name in ENDS] == [False, False, True, True, True, True]


def test_on_disk_and_in_memory_are_the_same(tmp_path, model, cohort):
    assert prepare_windows(model, cohort, folder=tmp_path / "set").hash == prepare_windows(model, cohort).hash


def test_other_sequences_and_labels_are_refused_with_both(tmp_path, model):
    folder = write_cohort(tmp_path / "near", "near", 1)
    one = read_cohort(folder, SourceOptions(layout="nnunet"), name="near", sequences=("T1",))
    with pytest.raises(ValueError, match=r"sequences T1, the model .* T1, FLAIR"):
        prepare_windows(model, one)
    labels = {0: "background", 1: "oedema", 2: "core"}
    values = {0: 0, 1: 1, 2: 2}
    options = SourceOptions(layout="nnunet", labels=labels, mask_values=values)
    other = read_cohort(folder, options, name="near", sequences=SEQUENCES)
    with pytest.raises(ValueError, match="oedema"):
        prepare_windows(model, other)


def test_a_cohort_without_labels_gives_no_window_and_the_cure(tmp_path, model):
    cohort = cohort_of(tmp_path / "near", n=1)
    path = cohort.cases[0].mask.path
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    with pytest.raises(ValueError, match="raise lesion_free_share"):
        prepare_windows(model, cohort)
    assert len(prepare_windows(model, cohort, SliceSampling(lesion_free_share=1.0))) == 4


def test_windows_of_a_cohort_without_masks_are_spread_over_what_shows_enough(model, cohort):
    bare = cohort.without_masks()
    samples, every = (prepare_windows(model, bare, SliceSampling(slices_per_volume=n)) for n in (2, 1000))
    assert not samples.labelled and samples.hash != prepare_windows(model, cohort).hash
    for case in bare.cases:
        known = every.index.filter(case=case.id)
        own = samples.index.filter(case=case.id)
        assert own["position"].to_list() == [known["position"][n * known.height // 2] for n in range(2)]
        assert own["weight"].to_list() == [known.height / 2] * 2 and known["weight"].unique().to_list() == [1.0]
        assert torch.equal(samples.images([own["row"][1]]), every.images([known.height // 2 + known["row"][0]]))
    with pytest.raises(ValueError, match="without masks"):
        samples.masks()
