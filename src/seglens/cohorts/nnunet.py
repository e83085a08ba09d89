"""nnU-Net's raw layout: ``dataset.json``, ``imagesTr``, ``labelsTr``, ``splits_final.json``."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seglens.cohorts.case import TUMOUR_LABELS, Case, ImageRef, patient_of
from seglens.cohorts.planes import SUFFIXES
from seglens.cohorts.sequences import canonical_sequence

_ENDINGS = (".nii.gz", ".nii", *SUFFIXES)
_IGNORED = "ignore"


def read_nnunet(
    root: Path,
    name: str,
    find_patient: Callable[[str, str], str],
    *,
    labels: Mapping[int, str] | None,
    mask_values: Mapping[int, int] | None,
    channels: Mapping[str, int] | None,
    with_masks: bool = True,
) -> tuple[tuple[Case, ...], Mapping[int, str], dict[str, str]]:
    """The cases, the labels, and what the data set itself says of its splits (case id to split name).

    Args:
        root: folder with ``dataset.json``.
        name: the cohort's.
        find_patient: from case id and default patient to the patient.
        labels: value to name, or None to take the data set's.
        mask_values: value in the files to value in ``labels``, or None to go by the names.
        channels: sequence name to nnU-Net's channel number, or None to take the data set's names.
        with_masks: a test folder without masks is passed over; False takes its images too.

    Raises:
        ValueError: a ``dataset.json`` that cannot be understood.
    """
    described = read_json(root / "dataset.json")
    if not isinstance(described, dict):
        raise ValueError(f"{root / 'dataset.json'} holds no object; write nnU-Net's dataset.json")
    channels = channels_of(root / "dataset.json", described, channels)
    labels, mask_values = labels_of(root / "dataset.json", described.get("labels"), labels, mask_values)
    ending = described.get("file_ending", ".nii.gz")
    if ending not in _ENDINGS:
        raise ValueError(f"file_ending {ending!r} is not supported; it is one of {', '.join(_ENDINGS)}")
    cases: list[Case] = []
    given: dict[str, str] = {}
    for images_folder, labels_folder in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        if images_folder == "imagesTs" and with_masks and not (root / labels_folder).is_dir():
            continue
        for case_id, files in _group(root / images_folder, ending).items():
            images = {key: ImageRef(files[number]) for key, number in channels.items() if number in files}
            mask = root / labels_folder / f"{case_id}{ending}"
            who = find_patient(case_id, patient_of(case_id))
            ref = ImageRef(mask) if mask.is_file() else None
            cases.append(Case(case_id, who, case_id, name, images, ref, mask_values))
            if images_folder == "imagesTs":
                given[case_id] = "test"
    return tuple(cases), labels, _splits(root / "splits_final.json", cases, given)


def _group(folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    """Case id to channel number to file."""
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}", re.DOTALL)
    groups: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []:
        match = pattern.fullmatch(file.name)
        if match:
            groups.setdefault(match[1], {})[int(match[2])] = file
    return groups


def channels_of(path: Path, described: Mapping[str, Any], channels: Mapping[str, int] | None) -> Mapping[str, int]:
    """Sequence name to channel number: ``channels``, or what a ``dataset.json`` says.

    Raises:
        ValueError: nothing is said, or a sequence is named twice.
    """
    if channels is not None:
        given = {canonical_sequence(text): number for text, number in channels.items()}
        if len(given) < len(channels):
            raise ValueError(f"channels {dict(channels)} name a sequence twice; name each once, such as {{'T1': 0}}")
        return given
    names = described.get("channel_names", described.get("modality"))
    if not isinstance(names, dict) or not names or not all(str(number).isdigit() for number in names):
        raise ValueError(f"{path} has no channel_names; give `channels`, such as {{'T1': 0}}")
    found = {canonical_sequence(str(text)): int(number) for number, text in names.items()}
    if len(found) < len(names):
        raise ValueError(f"the channel names {names} name a sequence twice; give `channels`, such as {{'T1': 0}}")
    return found


def labels_of(
    path: Path, written: Any, labels: Mapping[int, str] | None, mask_values: Mapping[int, int] | None
) -> tuple[Mapping[int, str], dict[int, int]]:
    """The labels, and what each value in the mask files becomes.

    Args:
        path: where ``written`` stands, for messages.
        written: the data set's own, name to value or value to name.
        labels: value to name, or None to take the data set's; the tumour labels get their usual values.
        mask_values: value in the files to value in ``labels``, or None to go by the names.

    Raises:
        ValueError: labels that cannot be understood, voxels to be ignored among them, or names that ``labels`` does
            not have.
    """
    if labels is not None and mask_values is not None:
        return labels, dict(mask_values)
    if not isinstance(written, dict) or not written:
        raise ValueError(f"{path} has no labels; give `labels` and `mask_values`")
    if all(str(key).isdigit() for key in written):  # the first version of the format: value to name
        written = {str(text): int(value) for value, text in written.items()}
    if _IGNORED in written:
        raise ValueError(
            f"{path} has the label {_IGNORED} ({written[_IGNORED]}), nnU-Net's name for voxels that nobody annotated; "
            "here every voxel counts, so give `labels` and `mask_values`: a value that they leave out quarantines the "
            "cases that hold it"
        )
    several = [key for key, value in written.items() if not isinstance(value, int)]
    if several:
        raise ValueError(
            f"{path} defines {', '.join(several)} as regions of several values; give `labels` and `mask_values` "
            "for the values in the files"
        )
    own = {value: text for text, value in written.items()}
    if len(own) < len(written):
        raise ValueError(f"{path} gives two labels one value: {written}; give `labels` and `mask_values`")
    if labels is None:
        tumour = {"background", *own.values()} == set(TUMOUR_LABELS.values())
        labels = TUMOUR_LABELS if tumour else {**own, 0: own.get(0, "background")}
    if mask_values is not None:
        return labels, dict(mask_values)
    value_of = {text: value for value, text in labels.items()}
    strange = sorted(set(own.values()) - set(value_of))
    if strange:
        raise ValueError(
            f"{path} has the labels {', '.join(strange)}, which {dict(labels)} does not name; give `mask_values`"
        )
    return labels, {0: 0, **{value: value_of[text] for value, text in own.items()}}


def _splits(path: Path, cases: list[Case], given: dict[str, str]) -> dict[str, str]:
    if path.is_file():
        folds = read_json(path)
        try:
            fold = {split: [str(case_id) for case_id in folds[0][split]] for split in ("train", "val")}
        except (LookupError, TypeError):
            raise ValueError(f"{path} has no fold 0 with train and val; write nnU-Net's splits_final.json") from None
        unknown = sorted({case_id for ids in fold.values() for case_id in ids} - {case.id for case in cases})
        if unknown:
            raise ValueError(f"{path} names {', '.join(unknown[:10])}, which imagesTr does not hold")
        given |= {case_id: split for split, ids in fold.items() for case_id in ids}
    return given


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); mend it") from None
