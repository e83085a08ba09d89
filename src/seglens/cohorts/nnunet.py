"""nnU-Net's raw layout: ``dataset.json``, ``imagesTr``, ``labelsTr``, ``splits_final.json``."""

import re
from pathlib import Path

from seglens.cohorts.case import Case, ImageRef, patient_of
from seglens.cohorts.data_json import TABLE, channels_of, labels_of
from seglens.cohorts.image2d import SUFFIXES
from seglens.cohorts.layouts import Found, Layout, Source
from seglens.foreign.json_text import read_json

_ENDINGS = (".nii.gz", ".nii", *SUFFIXES)


def detect(source: Source) -> bool:
    """Whether there is a ``dataset.json``; the decathlon's, which lists files, is looked for first."""
    return (source.root / TABLE).is_file()


def read(source: Source) -> Found:
    """Find the cases, the labels, and what the data set itself says of its splits.

    A test folder without masks is passed over where masks are needed.

    Raises:
        ValueError: a ``dataset.json`` or ``splits_final.json`` that cannot be understood or that contradicts itself.
    """
    root, options = source.root, source.options
    described = read_json(root / TABLE)
    if not isinstance(described, dict):
        raise ValueError(f"{root / TABLE} holds no object; write nnU-Net's {TABLE}")
    channels = channels_of(root / TABLE, described, options.channels)
    labels, mask_values = labels_of(root / TABLE, described.get("labels"), options.labels, options.mask_values)
    ending = described.get("file_ending", ".nii.gz")
    if ending not in _ENDINGS:
        raise ValueError(f"file_ending {ending!r} is not supported; it is one of {', '.join(_ENDINGS)}")
    cases: list[Case] = []
    given: dict[str, str] = {}
    for images_folder, labels_folder in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        if images_folder == "imagesTs" and source.with_masks and not (root / labels_folder).is_dir():
            continue
        for case_id, files in _group(root / images_folder, ending).items():
            images = {key: ImageRef(files[number]) for key, number in channels.items() if number in files}
            mask = root / labels_folder / f"{case_id}{ending}"
            who = source.patient(case_id, patient_of(case_id))
            ref = ImageRef(mask) if mask.is_file() else None
            cases.append(Case(case_id, who, case_id, source.name, images, ref, mask_values))
            if images_folder == "imagesTs":
                given[case_id] = "test"
    return Found(cases, labels, _splits(root / "splits_final.json", cases, given))


def _group(folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    """Case id to channel number to file."""
    pattern = re.compile(rf"(.+)_([0-9]{{4}}){re.escape(ending)}", re.DOTALL)
    groups: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []:
        match = pattern.fullmatch(file.name)
        if match:
            groups.setdefault(match[1], {})[int(match[2])] = file
    return groups


def _splits(path: Path, cases: list[Case], given: dict[str, str]) -> dict[str, str]:
    """Split of each case that fold 0 or a test folder (``given``) names; nothing may name one twice."""
    if not path.is_file():
        return given
    folds = read_json(path)
    try:
        fold = {split: folds[0][split] for split in ("train", "val")}
    except (LookupError, TypeError):
        fold = {}
    if not fold or not all(isinstance(ids, list) and all(isinstance(one, str) for one in ids) for ids in fold.values()):
        raise ValueError(f"{path} has no fold 0 with case ids under train and val; write nnU-Net's splits_final.json")
    unknown = sorted({case_id for ids in fold.values() for case_id in ids} - {case.id for case in cases})
    if unknown:
        raise ValueError(f"{path} names {', '.join(unknown[:10])}, which imagesTr does not hold")
    if empty := [split for split, ids in fold.items() if not ids]:
        raise ValueError(
            f"{path}: {' and '.join(empty)} of fold 0 is empty; name cases there, or remove the file: then patients "
            "are dealt to splits"
        )
    places = {case_id: ["imagesTs"] for case_id in given}
    for split, ids in fold.items():
        for case_id in ids:
            places.setdefault(case_id, []).append(f"{split} of fold 0")
    double = [f"{case_id} ({' and '.join(found)})" for case_id, found in places.items() if len(found) > 1]
    if double:
        raise ValueError(f"{path} contradicts itself or the folders: {', '.join(double[:10])}; name each case once")
    return given | {case_id: split for split, ids in fold.items() for case_id in ids}


LAYOUT = Layout("nnunet", detect, read, f"a {TABLE} beside imagesTr", frozenset({"channels"}))
