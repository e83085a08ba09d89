"""The table ``dataset.json`` of nnU-Net and of the decathlon: names of channels and labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seglens.cohorts.case import TUMOUR_LABELS
from seglens.cohorts.sequences import canonical_sequence
from seglens.foreign.plain_numbers import is_whole, whole_number

TABLE = "dataset.json"
_IGNORED = "ignore"


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
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{path} has no channel_names; give `channels`, such as {{'T1': 0}}")
    try:
        found = {canonical_sequence(str(text)): whole_number(number) for number, text in names.items()}
    except ValueError as error:
        raise ValueError(f"{path}: channel_names {names}: {error}; or give `channels`, such as {{'T1': 0}}") from None
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
    if all(key.isdecimal() for key in written):  # the first version of the format: value to name
        written = _by_name(path, written)
    if _IGNORED in written:
        raise ValueError(
            f"{path} has the label {_IGNORED} ({written[_IGNORED]}), nnU-Net's name for voxels that nobody annotated; "
            "here every voxel counts, so give `labels` and `mask_values`: a value that they leave out quarantines the "
            "cases that hold it"
        )
    several = [key for key, value in written.items() if not is_whole(value)]
    if several:
        raise ValueError(
            f"{path} defines {', '.join(several)} as regions of several values, or as no whole number; give `labels` "
            "and `mask_values` for the values in the files"
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


def _by_name(path: Path, written: Mapping[str, Any]) -> dict[str, int]:
    """Name to value, of a table of value to name."""
    found: dict[str, int] = {}
    for value, text in written.items():
        try:
            number = whole_number(value)
        except ValueError as error:
            raise ValueError(f"{path}: labels: {error}") from None
        if str(text) in found:
            raise ValueError(
                f"{path} calls the values {found[str(text)]} and {number} {str(text)!r}; name each once, or give "
                "`labels` and `mask_values`"
            )
        found[str(text)] = number
    return found
