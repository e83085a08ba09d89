"""nnU-Net's flat folder of images to be segmented: ``case_0000.nii.gz``, a file a channel, nothing beside them."""

import re
from pathlib import Path

from seglens.cohorts.case import WHOLE_TUMOUR_LABELS, Case, ImageRef, patient_of
from seglens.cohorts.layouts import Found, Layout, Source

_FILE = re.compile(r"(.+)_([0-9]{4})\.nii(?:\.gz)?", re.DOTALL)


def detect(source: Source) -> bool:
    """Whether files with channel numbers lie in the folder itself."""
    return any(_FILE.fullmatch(file.name) for file in source.root.iterdir())


def read(source: Source) -> Found:
    """Find the cases; the channels are the sequences that are asked for, in their order, or the option ``channels``.

    Raises:
        ValueError: neither says what the channels are, files have numbers beyond the sequences that are asked for, or a
            channel of a case has two files.
    """
    groups = _groups(source.root)
    channels = source.options.channels
    if channels is None and source.sequences is not None:
        channels = {name: number for number, name in enumerate(source.sequences)}
        beyond = [file.name for files in groups.values() for number, file in files.items() if number >= len(channels)]
        if beyond:
            raise ValueError(
                f"{source.root}: {', '.join(beyond[:10])} {'is a channel' if len(beyond) == 1 else 'are channels'} "
                f"beyond the {len(channels)} that are asked for ({', '.join(channels)}); take them away, or say with "
                f"`channels` which number each sequence has"
            )
    if channels is None:
        raise ValueError(
            f"{source.root} does not say what the channels of its files are; give `channels`, such as {{'T1': 0}}"
        )
    cases = []
    for case_id, files in groups.items():
        images = {name: ImageRef(files[number]) for name, number in channels.items() if number in files}
        who = source.patient(case_id, patient_of(case_id))
        cases.append(Case(case_id, who, case_id, source.name, images, None, source.options.mask_values or {}))
    return Found(cases, source.options.labels or WHOLE_TUMOUR_LABELS)


def _groups(root: Path) -> dict[str, dict[int, Path]]:
    """Case id to channel number to file."""
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(root.iterdir()):
        if match := _FILE.fullmatch(file.name):
            first = found.setdefault(match[1], {}).setdefault(int(match[2]), file)
            if first != file:
                raise ValueError(f"{root}: {first.name} and {file.name} are the same channel; keep one of them")
    return found


LAYOUT = Layout("flat", detect, read, "files such as case_0000.nii.gz", frozenset({"channels"}))
