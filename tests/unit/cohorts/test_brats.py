from pathlib import Path

import pytest

from seglens.cohorts.case import TUMOUR_LABELS, WHOLE_TUMOUR_LABELS
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions


def test_brats_until_2021(tmp_path: Path, write_brats) -> None:
    cohort = read_cohort(write_brats(tmp_path / "adult", ["BraTS2021_00002", "BraTS2021_00001"]))
    assert cohort.name == "adult"
    assert cohort.sequences == ("T1", "T1c", "T2", "FLAIR")
    assert cohort.labels == TUMOUR_LABELS
    first = cohort.cases[0]
    assert (first.id, first.patient, first.volume) == ("BraTS2021_00001",) * 3
    assert first.mask_values == {0: 0, 1: 1, 2: 2, 4: 3}
    assert first.images["T1c"].path.name == "BraTS2021_00001_t1ce.nii.gz"
    assert first.mask is not None
    assert first.mask.path.name == "BraTS2021_00001_seg.nii.gz"


def test_brats_from_2023_has_timepoints(tmp_path: Path, write_brats) -> None:
    ids = [f"BraTS-GLI-{i:05d}-{visit:03d}" for i in range(4) for visit in range(2)]
    cohort = read_cohort(write_brats(tmp_path, ids, style="new"), name="gli")
    assert [case.id for case in cohort.cases] == ids
    assert [case.patient for case in cohort.cases][:3] == ["BraTS-GLI-00000"] * 2 + ["BraTS-GLI-00001"]
    assert cohort.cases[0].mask_values == {0: 0, 1: 1, 2: 2, 3: 3}
    assert cohort.cases[0].images["FLAIR"].path.name.endswith("-t2f.nii.gz")
    split = cohort.split_of()
    assert all(split[f"BraTS-GLI-{i:05d}-000"] == split[f"BraTS-GLI-{i:05d}-001"] for i in range(4))


def test_both_namings_side_by_side_capitals_and_a_missing_sequence(tmp_path: Path, write_brats) -> None:
    write_brats(tmp_path / "old", ["BraTS2021_1"])
    write_brats(tmp_path / "new", ["BraTS-PED-00001-000"], style="new")
    folder = tmp_path / "new/BraTS-PED-00001-000"
    (folder / "BraTS-PED-00001-000-t2w.nii.gz").rename(folder / "BraTS-PED-00001-000-t2W.nii.gz")
    (folder / "BraTS-PED-00001-000-t1n.nii.gz").unlink()
    (folder / "BraTS-PED-00001-000-seg.nii.gz").unlink()
    ped, old = read_cohort(tmp_path, SourceOptions(layout="brats")).cases
    assert set(ped.images) == {"T1c", "T2", "FLAIR"}
    assert ped.mask is None
    assert ped.mask_values[3] == 3
    assert old.mask_values[4] == 3


def test_brats_doubles_are_refused(tmp_path: Path, write_brats) -> None:
    folder = write_brats(tmp_path, ["a"]) / "a"
    (folder / "a_T2.nii").write_bytes(b"")
    with pytest.raises(ValueError, match="same sequence of one case"):
        read_cohort(tmp_path)
    (folder / "a_T2.nii").rename(folder / "a-t2w.nii")
    with pytest.raises(ValueError, match="as until 2021 and as from 2023"):
        read_cohort(tmp_path)


def test_brats_with_other_labels_needs_a_table(tmp_path: Path, write_brats) -> None:
    write_brats(tmp_path, ["a"])
    with pytest.raises(ValueError, match="by `mask_values`"):
        read_cohort(tmp_path, SourceOptions(labels=WHOLE_TUMOUR_LABELS))
    cohort = read_cohort(
        tmp_path, SourceOptions(labels=WHOLE_TUMOUR_LABELS, mask_values={0: 0, 1: 1, 2: 1, 4: 1}), sequences=["t1ce"]
    )
    assert cohort.cases[0].mask_values == {0: 0, 1: 1, 2: 1, 4: 1}
    assert cohort.sequences == ("T1c",)
