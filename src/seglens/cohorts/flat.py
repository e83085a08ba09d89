"""nnU-Net's flat folder of images to be segmented: ``case_0000.nii.gz``, a file a channel, nothing beside them."""

import re
from pathlib import Path

from seglens.cohorts.case import WHOLE_TUMOUR_LABELS, Case, ImageRef, patient_of
from seglens.cohorts.layouts import Found, Layout, Source

_FILE = re.compile(r"(.+)_([0-9]{4})\.nii(?:\.gz)?", re.DOTALL)


def detect(source: Source) -> bool:
    """Whether files with channel numbers lie in the folder itself."""
    return bool(_groups(source.root))


def read(source: Source) -> Found:
    """Find the cases; the channels are the sequences that are asked for, in their order, or the option ``channels``.

    Raises:
        ValueError: neither says what the channels are.
    """
    channels = source.options.channels
    if channels is None and source.sequences is not None:
        channels = {name: number for number, name in enumerate(source.sequences)}
    if channels is None:
        raise ValueError(
            f"{source.root} does not say what the channels of its files are; give `channels`, such as {{'T1': 0}}"
        )
    cases = []
    for case_id, files in _groups(source.root).items():
        images = {name: ImageRef(files[number]) for name, number in channels.items() if number in files}
        who = source.patient(case_id, patient_of(case_id))
        cases.append(Case(case_id, who, case_id, source.name, images, None, source.options.mask_values or {}))
    return Found(cases, source.options.labels or WHOLE_TUMOUR_LABELS)


def _groups(root: Path) -> dict[str, dict[int, Path]]:
    """Case id to channel number to file."""
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(root.iterdir()):
        if match := _FILE.fullmatch(file.name):
            found.setdefault(match[1], {})[int(match[2])] = file
    return found


LAYOUT = Layout("flat", detect, read, "files such as case_0000.nii.gz", frozenset({"channels"}))
