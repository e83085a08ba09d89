import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglens.cohorts.case import TUMOUR_LABELS
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions

LABELS = {"background": 0, "edema": 1, "necrotic_core": 2, "enhancing": 3}


@pytest.fixture
def nnunet(tmp_path: Path):
    """Writes empty files where nnU-Net has them; nothing here reads a voxel."""

    def write(n: int = 8, test: int = 0, splits: Any = None, **described: Any) -> Path:
        about = {"channel_names": {"0": "T1", "1": "T1-Gd"}, "labels": LABELS, "file_ending": ".nii.gz"} | described
        (tmp_path / "dataset.json").write_text(json.dumps({k: v for k, v in about.items() if v is not None}))
        for folder, count, start in (("Tr", n, 0), ("Ts", test, 100)):
            for kind in ("images", "labels") if count else ():
                (tmp_path / f"{kind}{folder}").mkdir()
            for i in range(start, start + count):
                for channel in range(2):
                    (tmp_path / f"images{folder}/c{i:03d}_{channel:04d}.nii.gz").touch()
                (tmp_path / f"labels{folder}/c{i:03d}.nii.gz").touch()
        if splits is not None:
            (tmp_path / "splits_final.json").write_text(json.dumps(splits))
        return tmp_path

    return write


def names(cohort) -> dict[str, set[str]]:
    return {split: set(ids) for split, ids in cohort.splits.items()}


def test_channels_and_labels_by_name(nnunet) -> None:
    cohort = read_cohort(nnunet())
    assert cohort.sequences == ("T1", "T1c")
    assert cohort.labels == TUMOUR_LABELS
    assert cohort.cases[0].mask_values == {0: 0, 1: 2, 2: 1, 3: 3}
    assert cohort.cases[3].images["T1c"].path.name == "c003_0001.nii.gz"
    assert {split: len(ids) for split, ids in cohort.splits.items()} == {"train": 5, "val": 1, "test": 2}


def test_fold_0_and_a_test_folder(nnunet) -> None:
    fold = {"train": [f"c{i:03d}" for i in range(6)], "val": ["c006", "c007"]}
    cohort = read_cohort(nnunet(test=3, splits=[fold, {"train": [], "val": []}]))
    assert names(cohort) == {
        "train": set(fold["train"]),
        "val": {"c006", "c007"},
        "test": {"c100", "c101", "c102"},
    }


def test_a_test_folder_without_masks_is_read_where_none_are_needed(nnunet) -> None:
    root = nnunet(n=2, test=2)
    for mask in (root / "labelsTs").iterdir():
        mask.unlink()
    (root / "labelsTs").rmdir()
    assert [case.id for case in read_cohort(root).cases] == ["c000", "c001"]
    cohort = read_cohort(root, with_masks=False)
    assert [case.id for case in cohort.cases if case.mask is None] == ["c100", "c101"]
    assert cohort.splits["test"] == ("c100", "c101")


def test_fold_0_without_a_test_folder_deals_val_and_never_train(nnunet) -> None:
    fold = {"train": ["c000", "c001"], "val": [f"c{i:03d}" for i in range(2, 8)]}
    splits = names(read_cohort(nnunet(splits=[fold])))
    assert splits["train"] == {"c000", "c001"}
    assert splits["val"] | splits["test"] == set(fold["val"])
    assert not splits["val"] & splits["test"]
    assert min(len(splits["val"]), len(splits["test"])) >= 1


def test_a_test_folder_without_splits_deals_the_rest(nnunet) -> None:
    splits = names(read_cohort(nnunet(test=2)))
    assert splits["test"] == {"c100", "c101"}
    assert splits["train"] | splits["val"] == {f"c{i:03d}" for i in range(8)}
    assert len(splits["val"]) == 2


def test_given_splits_stay_where_no_share_is_asked_for_the_rest(nnunet) -> None:
    fold = {"train": ["c000"], "val": ["c001"]}
    splits = names(read_cohort(nnunet(splits=[fold]), fractions={"train": 1.0}))
    assert splits == {"train": {"c000"}, "val": {"c001"}, "test": set()}


def test_the_first_version_of_the_format(nnunet) -> None:
    root = nnunet(channel_names=None, modality={"0": "FLAIR", "1": "T1w"}, labels={"0": "background", "1": "cancer"})
    cohort = read_cohort(root)
    assert cohort.labels == {0: "background", 1: "cancer"}
    assert cohort.sequences == ("T1", "FLAIR")


def test_own_labels_and_channels(nnunet) -> None:
    root = nnunet(labels={"background": 0, "whole": [1, 2, 3]}, channel_names={"0": "MR", "1": "mr"})
    with pytest.raises(ValueError, match="defines whole as regions"):
        read_cohort(root, SourceOptions(channels={"T1": 0}))
    given = {"labels": {0: "background", 1: "tumour"}, "mask_values": {0: 0, 1: 1, 2: 1, 3: 1}}
    cohort = read_cohort(root, SourceOptions(**given, channels={"T1": 0}))
    assert cohort.sequences == ("T1",)
    assert cohort.cases[0].mask_values == given["mask_values"]


def test_channels_are_named_as_in_every_layout(nnunet) -> None:
    root = nnunet()
    cohort = read_cohort(root, SourceOptions(channels={"t1gd": 1, "t1w": 0}), sequences=["t1ce", "T1"])
    assert cohort.sequences == ("T1c", "T1")
    assert {name: ref.path.name for name, ref in cohort.cases[0].images.items()} == {
        "T1c": "c000_0001.nii.gz",
        "T1": "c000_0000.nii.gz",
    }
    with pytest.raises(ValueError, match=r"channels \{'T1c': 0, 't1ce': 1\} name a sequence twice"):
        read_cohort(root, SourceOptions(channels={"T1c": 0, "t1ce": 1}))


@pytest.mark.parametrize("labels", [LABELS | {"ignore": 4}, {"background": 0, "whole": [1, 2], "ignore": 3}])
def test_voxels_to_be_ignored_are_no_class(nnunet, labels: dict[str, Any]) -> None:
    root = nnunet(labels=labels)
    for given in ({}, {"labels": TUMOUR_LABELS}, {"mask_values": {0: 0, 1: 2, 2: 1, 3: 3}}):
        with pytest.raises(ValueError, match=r"has the label ignore \([34]\).*give `labels` and `mask_values`"):
            read_cohort(root, SourceOptions(**given))
    cohort = read_cohort(root, SourceOptions(labels=TUMOUR_LABELS, mask_values={0: 0, 1: 2}))
    assert cohort.labels == TUMOUR_LABELS
    assert cohort.cases[0].mask_values == {0: 0, 1: 2}


def test_labels_are_matched_by_name(nnunet) -> None:
    root = nnunet()
    table = {0: 0, 1: 2}
    assert read_cohort(root, SourceOptions(mask_values=table)).cases[0].mask_values == table
    with pytest.raises(ValueError, match="has the labels edema, enhancing, necrotic_core, which"):
        read_cohort(root, SourceOptions(labels={0: "background", 1: "tumour"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": None}, "has no channel_names"),
        ({"channel_names": {"0": "T1c", "1": "t1ce"}}, "a sequence twice"),
        ({"labels": None}, "has no labels"),
        ({"file_ending": ".nrrd"}, r"\.nrrd' is not supported"),
        ({"splits": [{"train": []}]}, "no fold 0"),
        ({"splits": []}, "no fold 0"),
        ({"splits": [{"train": ["ghost"], "val": []}]}, "names ghost"),
    ],
)
def test_broken_descriptions(nnunet, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_cohort(nnunet(**change))


def test_broken_json_and_no_images(nnunet, tmp_path: Path) -> None:
    nnunet(n=0)
    with pytest.raises(ValueError, match="no case found in the nnunet layout"):
        read_cohort(tmp_path)
    (tmp_path / "dataset.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no object"):
        read_cohort(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_cohort(tmp_path)


def test_pictures_in_the_nnunet_layout(nnunet, write_picture) -> None:
    root = nnunet(n=0, file_ending=".png")
    write_picture(root / "imagesTr/a_0000.png", np.eye(8, dtype=np.uint8))
    assert read_cohort(root).cases[0].images["T1"].path.suffix == ".png"
    assert read_cohort(root).cases[0].mask is None
