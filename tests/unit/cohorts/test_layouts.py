from pathlib import Path

import numpy as np
import pytest

from seglens.cohorts.case import TUMOUR_LABELS, WHOLE_TUMOUR_LABELS, Case, ImageRef
from seglens.cohorts.layouts import Found, Layout, Source, read_cohort
from seglens.cohorts.source_options import SourceOptions
from seglens.studies.settings import SettingsError, StudySettings


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


def test_the_patient_by_an_expression(pictures: Path) -> None:
    images = "images/{name}.png"
    cohort = read_cohort(pictures, SourceOptions(images=images, patient=r"(P-\d+)-"), sequences=["T1"])
    assert {case.patient for case in cohort.cases} == {"P-1", "P-2"}
    assert (
        read_cohort(pictures, SourceOptions(images=images, patient=r"P-\d"), sequences=["T1"]).cases[0].patient == "P-1"
    )
    with pytest.raises(ValueError, match="does not match the case 'P-1-0'"):
        read_cohort(pictures, SourceOptions(images=images, patient="Q"), sequences=["T1"])
    with pytest.raises(ValueError, match="does not match the case 'P-1-0'"):
        read_cohort(pictures, SourceOptions(images=images, patient="P(Q)?"), sequences=["T1"])
    with pytest.raises(ValueError, match="is no regular expression"):
        read_cohort(pictures, SourceOptions(images=images, patient="("), sequences=["T1"])
    assert {
        case.patient for case in read_cohort(pictures, SourceOptions(images="images/*.png"), sequences=["T1"]).cases
    } == {f"images/P-{p}-{s}" for p in (1, 2) for s in (0, 1, 10)}


def test_arguments_that_do_not_fit(pictures: Path, tmp_path: Path, write_brats) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        read_cohort(tmp_path / "none")
    with pytest.raises(ValueError, match="needs `images`"):
        read_cohort(pictures, SourceOptions(layout="folder"))
    with pytest.raises(ValueError, match=r"looks like none of the layouts \(folder: patterns .*; brats: names such as"):
        read_cohort(pictures)
    with pytest.raises(ValueError, match="name what the files show"):
        read_cohort(pictures, SourceOptions(images="images/{patient}-{slice}.png"))
    with pytest.raises(ValueError, match=r"has the fields \['site'\]"):
        read_cohort(
            pictures, SourceOptions(images="images/{patient}-{slice}.png", masks="{site}.png", channels={"T1": 0})
        )
    with pytest.raises(ValueError, match=r"no case found in the folder layout.*jpg"):
        read_cohort(pictures, SourceOptions(images="images/{patient}.jpg", channels={"T1": 0}))
    brats = write_brats(tmp_path / "brats", ["a"])
    with pytest.raises(
        ValueError, match=r"read as brats, which does not heed inverted \(brats heeds none of its kind\)"
    ):
        read_cohort(brats, SourceOptions(inverted=True))
    with pytest.raises(ValueError, match="layout 'dicom' is unknown"):
        read_cohort(brats, SourceOptions(layout="dicom"))
    with pytest.raises(ValueError, match="no case has ADC; there are T1, T1c, T2, FLAIR"):
        read_cohort(brats, sequences=["T1", "ADC"])


def stones(source: Source) -> Found:
    cases = [
        Case(path.stem, path.stem, path.stem, source.name, {"T1": ImageRef(path)}, None, {0: 0, 1: 1})
        for path in source.files
    ]
    return Found(cases, {0: "background", 1: "stone"})


def test_installed_packages_add_layouts(pictures: Path, tmp_path: Path, write_brats, installed) -> None:
    mine = Layout("mine", lambda source: (source.root / "masks").is_dir(), stones, "a folder masks")
    installed("seglens.layouts", mine=mine)
    cohort = read_cohort(pictures)
    assert (len(cohort.cases), cohort.labels[1]) == (12, "stone")
    assert read_cohort(pictures, SourceOptions(layout="mine")).cases == cohort.cases
    with pytest.raises(
        ValueError, match=r"layout 'mime' is unknown; did you mean 'mine'\? it is one of auto, folder, "
    ):
        read_cohort(pictures, SourceOptions(layout="mime"))
    with pytest.raises(ValueError, match=r"looks like none of the layouts \(.*; mine: a folder masks\)"):
        read_cohort(pictures / "masks")


def test_installed_layouts_are_asked_only_where_none_of_ours_fits(
    pictures: Path, tmp_path: Path, write_brats, installed
) -> None:
    brats = write_brats(tmp_path / "brats", ["a"])
    installed("seglens.layouts", broken=ImportError("no module named dicom"))
    assert len(read_cohort(brats).cases) == 1
    for options in (SourceOptions(), SourceOptions(layout="broken")):
        with pytest.raises(
            ValueError, match=r"broken = .*cannot be loaded \(no module named dicom\); mend or uninstall"
        ):
            read_cohort(pictures, options)
    installed("seglens.layouts", brats=ImportError("never asked"))
    with pytest.raises(ValueError, match="is called 'brats', as another row is"):
        read_cohort(brats)


def test_a_study_names_only_layouts_of_the_table(tmp_path: Path) -> None:
    study = {"sequences": ["T1"], "segmenters": {"a": {"cohort": "a"}}}
    with pytest.raises(
        SettingsError, match=r"cohorts\.a\.sources\.0: .*layout 'nnunett' is unknown; did you mean 'nnunet'"
    ):
        StudySettings.parse({**study, "cohorts": {"a": {"sources": [{"path": "x", "layout": "nnunett"}]}}}, "s")
    with pytest.raises(
        SettingsError, match=r"sources\.0\.lables: unknown; did you mean 'labels' or 'images'\? legal are .*mask_thr"
    ):
        StudySettings.parse({**study, "cohorts": {"a": {"sources": [{"path": "x", "lables": {}}]}}}, "s")
