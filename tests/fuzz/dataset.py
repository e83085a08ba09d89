"""The fuzzer's target for tables of data sets: dataset.json and splits_final.json."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from seglens.cohorts.case import Cohort


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder of empty files, whose names are those of sound data sets; it lasts as long as the process."""
    folder = tempfile.TemporaryDirectory(prefix="seglens-fuzz-")
    root = Path(folder.name)
    (root / "labelsTs").mkdir()
    for name in ("c0_0000", "c0_0001", "c1_0000", "c1_0001", "t0_0000", "t0_0001", "a"):
        path = root / ("imagesTs" if name[0] == "t" else "imagesTr") / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return folder


def read(content: bytes) -> None:
    """`read_cohort` of a folder whose dataset.json, and after a zero byte splits_final.json, hold these bytes."""
    from seglens.cohorts import layouts

    table, _, splits = content.partition(b"\0")
    root = Path(_folder().name)
    (root / "dataset.json").write_bytes(table)
    (root / "splits_final.json").unlink(missing_ok=True)
    if splits:
        (root / "splits_final.json").write_bytes(splits)
    for with_masks in (True, False):
        try:
            # the names of layouts are looked up among all installed packages, which takes 20 ms
            with patch.object(layouts, "require_layout", str):
                cohort = layouts.read_cohort(root, with_masks=with_masks)
        except ValueError as error:
            assert 0 < len(str(error)) < 10_000
            continue
        _must_be_consistent(cohort, root)


def _must_be_consistent(cohort: "Cohort", root: Path) -> None:
    """What a cohort promises, whatever the tables said."""
    ids = [case.id for case in cohort.cases]
    placed = [one for split in cohort.splits.values() for one in split]
    assert len(set(ids)) == len(ids)
    assert len(set(placed)) == len(placed)
    assert set(placed) <= set(ids)
    names = list(cohort.labels.values())
    assert len(set(names)) == len(names)
    assert "foreground" not in names
    assert all(type(value) is int and 0 <= value <= 255 for value in cohort.labels)
    for case in cohort.cases:
        assert set(case.mask_values.values()) <= set(cohort.labels)
        assert all(ref.path.resolve().is_relative_to(root.resolve()) for ref in case.images.values())


def seeds() -> list[bytes]:
    """Sound tables of nnU-Net and of the decathlon, alone or followed by splits."""
    nnunet = {
        "channel_names": {"0": "T1", "1": "t1ce"},
        "labels": {"background": 0, "edema": 1, "core": 2},
        "file_ending": ".nii.gz",
        "numTraining": 2,
    }
    listed = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    decathlon = {
        "modality": {"0": "FLAIR"},
        "labels": {"0": "background", "1": "edema"},
        "training": [listed],
        "test": ["imagesTs/t0_0000.nii.gz"],
    }
    folds = [{"train": ["c0"], "val": ["c1"]}]
    table, splits = json.dumps(nnunet).encode(), json.dumps(folds).encode()
    older = json.dumps(nnunet | {"labels": {"0": "bg", "1": "x"}}).encode()
    return [table, table + b"\0" + splits, older + b"\0" + splits, json.dumps(decathlon).encode()]
