from pathlib import Path

import numpy as np
import pytest

from seglens.cohorts.case import WHOLE_TUMOUR_LABELS
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions


@pytest.fixture
def pictures(tmp_path: Path, write_picture) -> Path:
    """Two patients with slices 0, 1, 10; RGB images and masks of 0 and 255."""
    root = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for patient in ("P-1", "P-2"):
        for number in (0, 1, 10):
            write_picture(root / f"images/{patient}-{number}.png", rng.integers(0, 256, (9, 8, 3)).astype(np.uint8))
            write_picture(root / f"masks/{patient}-{number}_m.png", np.eye(9, 8, dtype=np.uint8) * 255)
    return root


PATTERNS = {"images": "images/{patient}-{slice}.png", "masks": "masks/{patient}-{slice}_m.png"}


def test_pictures_with_masks(pictures: Path) -> None:
    cohort = read_cohort(pictures, SourceOptions(**PATTERNS, channels={"flair": 1}, inverted=True, orientation="RA"))
    assert [case.id for case in cohort.cases] == [f"P-{p}-{s}" for p in (1, 2) for s in (0, 1, 10)]
    assert [case.position for case in cohort.cases] == [0, 1, 10, 0, 1, 10]
    assert {case.volume for case in cohort.cases} == {"P-1", "P-2"}
    assert cohort.sequences == ("FLAIR",)
    assert cohort.labels == WHOLE_TUMOUR_LABELS
    case = cohort.cases[1]
    ref = case.images["FLAIR"]
    assert (ref.path.name, ref.channel, ref.inverted, ref.orientation) == ("P-1-1.png", 1, True, "RA")
    assert case.mask is not None
    assert (case.mask.path.name, case.mask.inverted, case.mask.orientation) == ("P-1-1_m.png", False, "RA")
    assert case.mask_values == {0: 0, 255: 1}
    assert {len(ids) for ids in cohort.splits.values()} == {3, 0}


def test_a_picture_without_a_mask_stays_a_case(pictures: Path) -> None:
    (pictures / "masks/P-2-1_m.png").unlink()
    cohort = read_cohort(pictures, SourceOptions(**PATTERNS, channels={"FLAIR": 0}))
    assert [case.id for case in cohort.cases if case.mask is None] == ["P-2-1"]


def test_no_picture_gets_the_mask_of_another(tmp_path: Path, write_picture) -> None:
    for name in ("p1_T1", "p10_T1", "p1_mask", "p10_mask"):
        write_picture(tmp_path / f"{name}.tif", np.eye(8, dtype=np.uint8))
    images = "{patient}_T1.tif"
    with pytest.raises(ValueError, match=r"p10_mask\.tif and .*p1_mask\.tif both match"):
        read_cohort(tmp_path, SourceOptions(images=images, masks="{patient}*_mask.tif"), sequences=["T1"])
    exact = read_cohort(tmp_path, SourceOptions(images=images, masks="{patient}_mask.tif"), sequences=["T1"])
    assert [case.mask.path.name for case in exact.cases if case.mask] == ["p1_mask.tif", "p10_mask.tif"]
    (tmp_path / "p1_mask.tif").unlink()
    with pytest.raises(ValueError, match=r"p10_mask\.tif would be the mask of p10 and of p1; .* exact.* \(patient\)"):
        read_cohort(tmp_path, SourceOptions(images=images, masks="{patient}*_mask.tif"), sequences=["T1"])
    one = read_cohort(tmp_path, SourceOptions(images=images, masks="{patient}_mask.tif"), sequences=["T1"])
    assert [case.id for case in one.cases if case.mask is None] == ["p1"]


@pytest.mark.parametrize("masks", ["masks/{patient}.png", "masks/{slice}.png", "masks/all.png"])
def test_a_mask_is_of_one_slice(pictures: Path, write_picture, masks: str) -> None:
    for name in ("P-1", "P-2", "0", "1", "10", "all"):
        write_picture(pictures / f"masks/{name}.png", np.eye(9, 8, dtype=np.uint8) * 255)
    with pytest.raises(ValueError, match=r"would be the mask of .* \(patient, slice\)"):
        read_cohort(pictures, SourceOptions(images=PATTERNS["images"], masks=masks, channels={"T1": 0}))


def test_pictures_of_one_slice_may_share_its_mask(tmp_path: Path, write_picture) -> None:
    for name in ("p1-3-raw", "p1-3-denoised", "mask/p1-3"):
        write_picture(tmp_path / f"{name}.png", np.eye(8, dtype=np.uint8))
    images = "{patient}-{slice}-{kind}.png"
    cohort = read_cohort(tmp_path, SourceOptions(images=images, masks="mask/{patient}-{slice}.png"), sequences=["T1"])
    assert [case.id for case in cohort.cases if case.mask] == ["p1-3-denoised", "p1-3-raw"]


def test_no_visit_gets_the_mask_of_another(tmp_path: Path, write_picture) -> None:
    for name in ("images/p1_v1", "images/p1_v2", "masks/p1_v1"):
        write_picture(tmp_path / f"{name}.png", np.eye(8, dtype=np.uint8))
    (tmp_path / "masks/p1_v1.png.old").mkdir()  # a folder is no mask
    images = "images/{patient}_{visit}.png"
    with pytest.raises(ValueError, match=r"p1_v1.png would be the mask of p1-v1 and of p1-v2"):
        read_cohort(tmp_path, SourceOptions(images=images, masks="masks/{patient}_*"), sequences=["T1"])
    cohort = read_cohort(tmp_path, SourceOptions(images=images, masks="masks/{patient}_{visit}*"), sequences=["T1"])
    assert [case.mask is None for case in cohort.cases] == [False, True]


def test_a_mask_has_no_sequence(tmp_path: Path, write_picture) -> None:
    write_picture(tmp_path / "p1-t1.png", np.eye(8, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"has the field \{sequence\}, but a case has one mask"):
        read_cohort(tmp_path, SourceOptions(images="{patient}-{sequence}.png", masks="{patient}-{sequence}-mask.png"))


def test_a_file_for_each_sequence_and_own_labels(tmp_path: Path, write_picture) -> None:
    for name in ("p1_t1ce_3", "p1_flair_3", "p2_t1ce_3"):
        write_picture(tmp_path / f"{name}.png", np.eye(8, dtype=np.uint8))
    cohort = read_cohort(
        tmp_path, SourceOptions(images="{patient}_{sequence}_{slice}.png", labels={0: "b", 1: "x", 2: "y"})
    )
    assert cohort.sequences == ("T1c", "FLAIR")
    assert [set(case.images) for case in cohort.cases] == [{"T1c", "FLAIR"}, {"T1c"}]
    assert cohort.cases[0].mask_values == {0: 0, 1: 1, 2: 2}
    with pytest.raises(ValueError, match="are both T1c of the case p1-3"):
        write_picture(tmp_path / "p1_t1c_3.png", np.eye(8, dtype=np.uint8))
        read_cohort(tmp_path, SourceOptions(images="{patient}_{sequence}_{slice}.png"))
