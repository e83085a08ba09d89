"""The Medical Segmentation Decathlon's layout: ``dataset.json`` lists 4-D images and names their channels."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from seglens.cohorts.case import Case, ImageRef, patient_of
from seglens.cohorts.data_json import TABLE, channels_of, labels_of
from seglens.cohorts.layouts import Found, Layout, Source
from seglens.foreign.json_text import read_json


def detect(source: Source) -> bool:
    """Whether ``dataset.json`` lists files that are there under just these names (nnU-Net's carry channel numbers)."""
    if not (source.root / TABLE).is_file():
        return False
    described = read_json(source.root / TABLE)
    listed = described.get("training") if isinstance(described, dict) else None
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        return False
    return any((source.root / str(entry.get("image"))).is_file() for entry in listed if isinstance(entry, dict))


def read(source: Source) -> Found:
    """Find the cases and the labels; images that are listed under ``test`` only where masks are not needed.

    Raises:
        ValueError: a ``dataset.json`` that cannot be understood, or that names a file outside of the folder.
    """
    root, options = source.root, source.options
    path = root / TABLE
    described = read_json(path)
    if not isinstance(described, dict) or not isinstance(described.get("training"), list):
        raise ValueError(f"{path} has no list `training` of images and labels; write the decathlon's dataset.json")
    channels = channels_of(path, described, options.channels)
    labels, mask_values = labels_of(path, described.get("labels"), options.labels, options.mask_values)
    listed = [(_inside(path, entry, "image"), _inside(path, entry, "label")) for entry in described["training"]]
    test = described.get("test", [])
    if source.with_masks:  # only looked at for images that are trained on too
        unlabelled = (
            [PurePosixPath(entry) for entry in test if isinstance(entry, str)] if isinstance(test, list) else []
        )
    elif isinstance(test, list):
        unlabelled = [_inside(path, {"image": entry}, "image") for entry in test]
    else:
        raise ValueError(f"{path}: `test` is {test!r:.100}; give a list of images")
    _refuse_double(path, [image for image, _ in listed], unlabelled)
    _refuse_double(path, [mask for _, mask in listed], [])
    images = listed if source.with_masks else [*listed, *((image, None) for image in unlabelled)]
    cases = []
    for image, mask in images:
        case_id = image.name.removesuffix(".gz").removesuffix(".nii")
        refs = {sequence: ImageRef(root / image, number) for sequence, number in channels.items()}
        who = source.patient(case_id, patient_of(case_id))
        own = ImageRef(root / mask) if mask and (root / mask).is_file() else None
        cases.append(Case(case_id, who, case_id, source.name, refs, own, dict(mask_values)))
    return Found(cases, labels)


def _refuse_double(path: Path, training: Sequence[PurePosixPath], test: Sequence[PurePosixPath]) -> None:
    """Refuse a file that the table lists twice; it may be spelt in several ways."""
    places: dict[PurePosixPath, list[str]] = {}
    for name, files in (("training", training), ("test", test)):
        for number, file in enumerate(files, start=1):
            places.setdefault(file, []).append(f"{name} {number}")
    double = [f"{file} (entries {' and '.join(found)})" for file, found in places.items() if len(found) > 1]
    if double:
        raise ValueError(f"{path} lists files twice: {', '.join(double[:10])}; list each once")


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


LAYOUT = Layout("msd", detect, read, f"a {TABLE} that lists the files under `training`", frozenset({"channels"}))
