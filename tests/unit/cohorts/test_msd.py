import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions


@pytest.fixture
def write_msd(tmp_path: Path, write_nifti, head):
    """Two cases of two channels, described as the decathlon does, with changes."""

    def write(**changes: Any) -> Path:
        for number in range(2):
            channels = [head(2 * number + channel)[0] for channel in range(2)]
            write_nifti(tmp_path / f"imagesTr/BRATS_{number:03d}.nii.gz", np.stack(channels, -1))
            write_nifti(tmp_path / f"labelsTr/BRATS_{number:03d}.nii.gz", head(enhancing=3)[1])
        names = [f"BRATS_{number:03d}.nii.gz" for number in range(2)]
        described = {
            "modality": {"0": "FLAIR", "1": "t1gd"},
            "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
            "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
            "test": ["./imagesTs/BRATS_100.nii.gz"],
        }
        (tmp_path / "dataset.json").write_text(json.dumps(described | changes))
        return tmp_path

    return write


def test_channels_of_one_file(write_msd) -> None:
    cohort = read_cohort(write_msd())
    assert [case.id for case in cohort.cases] == ["BRATS_000", "BRATS_001"]
    assert cohort.sequences == ("T1c", "FLAIR")
    first = cohort.cases[0]
    assert {name: ref.channel for name, ref in first.images.items()} == {"FLAIR": 0, "T1c": 1}
    assert cohort.labels[2] == "non-enhancing tumor"
    assert first.mask_values == {0: 0, 1: 1, 2: 2, 3: 3}


def test_other_names_and_labels(write_msd) -> None:
    root = write_msd()
    cohort = read_cohort(
        root, SourceOptions(channels={"T2": 1}, labels={0: "b", 1: "t"}, mask_values={0: 0, 1: 1, 2: 1, 3: 1})
    )
    assert cohort.sequences == ("T2",)
    assert cohort.cases[1].mask_values[3] == 1


def test_a_missing_label_file_stays_a_case(write_msd) -> None:
    root = write_msd()
    (root / "labelsTr/BRATS_001.nii.gz").unlink()
    assert [case.mask is None for case in read_cohort(root).cases] == [False, True]


def test_images_listed_without_masks_are_taken_where_none_are_needed(write_msd) -> None:
    cases = read_cohort(write_msd(), with_masks=False).cases
    assert [case.id for case in cases] == ["BRATS_000", "BRATS_001", "BRATS_100"]
    assert cases[2].mask is None
    assert {ref.path.name for ref in cases[2].images.values()} == {"BRATS_100.nii.gz"}


@pytest.mark.parametrize(
    ("test", "match"), [("all", "`test` is 'all'"), ([7], "names no `image`"), (["../b"], "leads")]
)
def test_a_test_list_that_cannot_be_understood(write_msd, test: Any, match: str) -> None:
    root = write_msd(test=test)
    with pytest.raises(ValueError, match=match):
        read_cohort(root, with_masks=False)
    assert len(read_cohort(root).cases) == 2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"training": "all"}, "has no list `training`"),
        ({"training": [{"image": "/etc/passwd", "label": "x"}]}, "leads out of"),
        ({"training": [{"image": "a/../../b.nii", "label": "x"}]}, "leads out of"),
        ({"training": [{"image": "imagesTr/BRATS_000.nii.gz"}]}, "names no `label`"),
        ({"training": [7]}, "names no `image`"),
        ({"modality": {}}, "has no channel_names"),
        ({"labels": {"a": 1, "b": 1}}, "gives two labels one value"),
    ],
)
def test_what_cannot_be_understood(write_msd, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_cohort(write_msd(**changes), SourceOptions(layout="msd"))
