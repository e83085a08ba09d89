from pathlib import Path

import numpy as np
import pytest

from seglens.cohorts.case import Case, ImageRef
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
