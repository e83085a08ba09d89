import gzip

import nibabel
import numpy as np
import pytest
from tests.nnunet_folder import REGIONS, changed, dataset, plans, write_case, write_folder

from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions
from seglens.segmenters.opened import open_model
from seglens.segmenters.volume_prediction import predict_volumes

TILTED = np.array([[0, -1.2, 0.1, 5], [0.02, 0, 2.1, 1], [1.3, 0, 0, -4], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_model(write_folder(tmp_path_factory.mktemp("model")), fold=0)


def cohort_of(root, model, **options):
    return read_cohort(root, SourceOptions(labels=model.labels, **options), sequences=model.sequences, with_masks=False)


def test_masks_lie_on_the_files_own_grid(tmp_path, model):
    paths = write_case(tmp_path / "images", "a", affine=TILTED)
    write_case(tmp_path / "images", "b", seed=1)
    told = []
    done = predict_volumes(
        model,
        cohort_of(tmp_path / "images", model),
        folder=tmp_path / "out",
        mirror=False,
        progress=lambda done, total, **figures: told.append((done, total)),
    )
    written, image = nibabel.load(tmp_path / "out/a.nii.gz"), nibabel.load(paths[0])
    np.testing.assert_array_equal(written.affine, image.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), model.predict(paths, mirror=False))
    rows = done.document("cases")
    assert [(row["case"], row["file"]) for row in rows] == [("a", "a.nii.gz"), ("b", "b.nii.gz")]
    assert sum(rows[0]["voxels"].values()) == 14 * 15 * 11
    assert told[-1] == (2, 2) and (1, 2) in told


def test_the_same_case_gives_the_same_bytes(tmp_path, model):
    write_case(tmp_path / "images", "a")
    cohort = cohort_of(tmp_path / "images", model)
    for name in ("one", "two"):
        predict_volumes(model, cohort, folder=tmp_path / name, mirror=False)
    one, two = ((tmp_path / name / "a.nii.gz").read_bytes() for name in ("one", "two"))
    assert one == two and gzip.decompress(one)


def test_regions_are_written_by_their_own_values(tmp_path):
    described = changed(dataset(REGIONS), "regions_class_order", [1, 300])
    folder = write_folder(tmp_path, labels=REGIONS)
    (folder / "dataset.json").write_text(__import__("json").dumps(described))
    model = open_model(folder, fold=0)
    write_case(tmp_path / "images", "a")
    predict_volumes(model, cohort_of(tmp_path / "images", model), folder=tmp_path / "out", mirror=False)
    values = np.unique(np.asarray(nibabel.load(tmp_path / "out/a.nii.gz").dataobj))
    assert values.tolist() == [0, 1, 300]


def test_other_cohorts_are_refused(tmp_path, model):
    write_case(tmp_path / "images", "a")
    cohort = cohort_of(tmp_path / "images", model)
    with pytest.raises(ValueError, match=r"has the sequences FLAIR, T1 .* the model T1, FLAIR"):
        predict_volumes(model, cohort.with_sequences(("FLAIR", "T1")), folder=tmp_path / "out")
    with pytest.raises(ValueError, match="none of 1 cases can be read"):
        predict_volumes(model, cohort, folder=tmp_path / "out", quarantined={"a"})
    assert plans()["dataset_name"] == "Dataset900_Toy" and not (tmp_path / "out").exists()


def test_a_case_that_cannot_be_segmented_costs_no_other_mask(tmp_path, model):
    for seed, case in enumerate("abc"):
        tiny = np.diag([0.01, 0.01, 0.01, 1.0])  # mm; not one voxel of the model's grid
        write_case(tmp_path / "images", case, seed=seed, affine=tiny if case == "b" else None)
    cohort = cohort_of(tmp_path / "images", model)
    done = predict_volumes(model, cohort, folder=tmp_path / "out", mirror=False)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    rows = done.document("cases")
    assert [row["case"] for row in rows] == ["a", "b", "c"]
    assert set(rows[1]) == {"case", "patient", "quarantined"} and "makes 0 x 0 x 0" in rows[1]["quarantined"]
    with pytest.raises(ValueError, match="case b: the model's spacing"):
        predict_volumes(model, cohort, folder=tmp_path / "strict", mirror=False, strict=True)
    with pytest.raises(ValueError, match="none of 1 cases can be segmented; the first: case b: the model's spacing"):
        predict_volumes(model, cohort, folder=tmp_path / "none", quarantined={"a", "c"})
    assert not (tmp_path / "strict").exists() and not (tmp_path / "none").exists()
