"""The Medical Segmentation Decathlon's layout: ``dataset.json`` lists 4-D images and names their channels."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from seglens.cohorts.case import Case, ImageRef, patient_of
from seglens.cohorts.nnunet import channels_of, labels_of, read_json

_TABLE = "dataset.json"


def is_msd(root: Path) -> bool:
    """Whether ``dataset.json`` lists files that are there under just these names (nnU-Net's carry channel numbers)."""
    described = read_json(root / _TABLE)
    listed = described.get("training") if isinstance(described, dict) else None
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        return False
    return any((root / str(entry.get("image"))).is_file() for entry in listed if isinstance(entry, dict))


def read_msd(
    root: Path,
    name: str,
    find_patient: Callable[[str, str], str],
    *,
    labels: Mapping[int, str] | None,
    mask_values: Mapping[int, int] | None,
    channels: Mapping[str, int] | None,
    with_masks: bool = True,
) -> tuple[tuple[Case, ...], Mapping[int, str]]:
    """The cases and the labels.

    Args:
        root: folder with ``dataset.json``.
        name: the cohort's.
        find_patient: from case id and default patient to the patient.
        labels: value to name, or None to take the data set's.
        mask_values: value in the files to value in ``labels``, or None to go by the names.
        channels: sequence name to place in the fourth dimension, or None to take the data set's names.
        with_masks: images that are listed under ``test`` have no masks and are passed over; False takes them too.

    Raises:
        ValueError: a ``dataset.json`` that cannot be understood, or that names a file outside of the folder.
    """
    path = root / _TABLE
    described = read_json(path)
    if not isinstance(described, dict) or not isinstance(described.get("training"), list):
        raise ValueError(f"{path} has no list `training` of images and labels; write the decathlon's dataset.json")
    channels = channels_of(path, described, channels)
    labels, mask_values = labels_of(path, described.get("labels"), labels, mask_values)
    listed = [(_inside(path, entry, "image"), _inside(path, entry, "label")) for entry in described["training"]]
    unlabelled = [] if with_masks else described.get("test", [])
    if not isinstance(unlabelled, list):
        raise ValueError(f"{path}: `test` is {unlabelled!r:.100}; give a list of images")
    images = [*listed, *((_inside(path, {"image": entry}, "image"), None) for entry in unlabelled)]
    cases = []
    for image, mask in images:
        case_id = image.name.removesuffix(".gz").removesuffix(".nii")
        refs = {sequence: ImageRef(root / image, number) for sequence, number in channels.items()}
        who = find_patient(case_id, patient_of(case_id))
        own = ImageRef(root / mask) if mask and (root / mask).is_file() else None
        cases.append(Case(case_id, who, case_id, name, refs, own, dict(mask_values)))
    return tuple(cases), labels


def _inside(path: Path, entry: Any, key: str) -> PurePosixPath:
    """The path that an entry of the list names, which must not leave the folder."""
    named = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(named, str):
        raise ValueError(
            f"{path}: the entry {entry!r:.100} names no `{key}`; list {{image: ..., label: ...}} under `training` and "
            "names of files under `test`"
        )
    inside = PurePosixPath(named)
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"{path}: {named!r} leads out of the data set's folder; name files in it")
    return inside
