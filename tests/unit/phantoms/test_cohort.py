import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from seglens.phantoms.cohort import write_phantom_cohort


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    announce = []
    folder = write_phantom_cohort(
        tmp_path_factory.mktemp("phantom") / "adult",
        "adult",
        subjects=2,
        seed=0,
        size=32,
        slices=3,
        progress=lambda done, total: announce.append((done, total)),
    )
    return folder, announce


def test_the_folder_is_an_nnunet_cohort(cohort):
    folder, announce = cohort
    assert announce == [(1, 2), (2, 2)]
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "T1", "1": "T1c", "2": "T2", "3": "FLAIR"}
    assert dataset["labels"] == {"background": 0, "necrotic_core": 1, "edema": 2, "enhancing": 3}
    assert dataset["numTraining"] == 2 and dataset["file_ending"] == ".nii.gz"
    names = {"adult-0000", "adult-0001"}
    assert {file.name for file in (folder / "labelsTr").iterdir()} == {f"{name}.nii.gz" for name in names}
    assert {file.name for file in (folder / "imagesTr").iterdir()} == {
        f"{name}_{channel:04d}.nii.gz" for name in names for channel in range(4)
    }


def test_the_files_share_one_grid_and_tell_their_thickness(cohort):
    folder, _ = cohort
    truth = json.loads((folder / "subjects.json").read_text())
    assert truth["population"] == "adult" and truth["seed"] == 0 and truth["sources"]["noise"] == "adult"
    for subject in truth["subjects"]:
        label = nibabel.load(folder / "labelsTr" / f"{subject['id']}.nii.gz")
        assert label.shape == (32, 32, 3) and set(np.unique(label.dataobj)) <= {0, 1, 2, 3}
        assert label.header.get_zooms() == pytest.approx((6.5, 6.5, subject["slices"]["spacing_mm"]))
        assert nibabel.aff2axcodes(label.affine) == ("R", "A", "S")
        for channel in range(4):
            image = nibabel.load(folder / "imagesTr" / f"{subject['id']}_{channel:04d}.nii.gz")
            assert np.array_equal(image.affine, label.affine) and image.shape == label.shape
            text = image.header["descrip"].item().decode()
            assert text == f"phantom, slice thickness {subject['slices']['thickness_mm']:.2f} mm"


@pytest.mark.processes
def test_same_seed_same_bytes_with_any_number_of_workers(cohort, tmp_path):
    folder, _ = cohort
    apart = write_phantom_cohort(tmp_path / "two", "adult", subjects=2, seed=0, size=32, slices=3, workers=2)
    assert digests(apart) == digests(folder)
    other = write_phantom_cohort(tmp_path / "other", "adult", subjects=2, seed=1, size=32, slices=3)
    assert not set(digests(other).values()) & set(digests(folder).values()) - {digests(folder)["dataset.json"]}


def test_a_factor_is_written_down_and_leaves_the_masks(cohort, tmp_path):
    folder, _ = cohort
    noisy = write_phantom_cohort(
        tmp_path / "noisy", "adult", subjects=2, seed=0, factors={"noise": "ssa"}, size=32, slices=3
    )
    before, after = digests(folder), digests(noisy)
    assert {name for name in before if before[name] == after[name]} == {
        "dataset.json",
        "labelsTr/adult-0000.nii.gz",
        "labelsTr/adult-0001.nii.gz",
    }
    assert json.loads((noisy / "subjects.json").read_text())["sources"]["noise"] == "ssa"


def test_a_healthy_cohort_names_its_eight_structures(tmp_path):
    (tmp_path / "healthy").mkdir()
    folder = write_phantom_cohort(tmp_path / "healthy", "healthy", subjects=1, seed=0, size=32, slices=2)
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    assert len(labels) == 9 and labels["background"] == 0 and labels["thalamus"] == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": "martian"}, "unknown"),
        ({"subjects": 0}, "subjects is 0; it must be 1 or more"),
        ({"size": 8}, "size is 8"),
        ({"slices": 0}, "slices is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        write_phantom_cohort(tmp_path / "new", **{"population": "adult", "subjects": 1, "seed": 0, **settings})
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        write_phantom_cohort(tmp_path, "adult", subjects=1, seed=0)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_an_interrupted_cohort_leaves_nothing_under_its_name(tmp_path):
    class StopError(Exception):
        pass

    def stop(done: int, total: int, **figures: float) -> None:
        raise StopError

    with pytest.raises(StopError):
        write_phantom_cohort(tmp_path / "cut", "adult", subjects=2, seed=0, size=32, slices=2, progress=stop)
    assert not (tmp_path / "cut").exists()
    again = write_phantom_cohort(tmp_path / "cut", "adult", subjects=1, seed=0, size=32, slices=2)
    assert [file.name for file in tmp_path.iterdir()] == [again.name]
