"""BraTS: a folder a case, named as until 2021 (``<id>_t1ce.nii.gz``) or as from 2023 (``<id>-t1c.nii.gz``)."""

import re
from pathlib import Path

from seglens.cohorts.case import TUMOUR_LABELS, Case, ImageRef, patient_of
from seglens.cohorts.layouts import Found, Layout, Source

_UNTIL_2021 = {"t1": "T1", "t1ce": "T1c", "t2": "T2", "flair": "FLAIR"}
_FROM_2023 = {"t1n": "T1", "t1c": "T1c", "t2w": "T2", "t2f": "FLAIR"}
_FILE = re.compile(
    r"(?P<case>.+?)(?:_(?P<old>t1|t1ce|t2|flair|seg)|-(?P<new>t1n|t1c|t2w|t2f|seg))\.nii(\.gz)?",
    re.IGNORECASE | re.DOTALL,  # a name may hold a newline
)
_MASKS_UNTIL_2021 = {0: 0, 1: 1, 2: 2, 4: 3}
_MASKS_FROM_2023 = {0: 0, 1: 1, 2: 2, 3: 3}


def detect(source: Source) -> bool:
    """Whether any file has a BraTS name."""
    return any(_FILE.fullmatch(file.name) for file in source.files)


def read(source: Source) -> Found:
    """Find the cases, one a folder and id.

    Raises:
        ValueError: two files of one sequence, both namings in one case, or other labels without `mask_values`.
    """
    mask_values = source.options.mask_values
    labels = source.options.labels or TUMOUR_LABELS
    if mask_values is None and dict(labels) != dict(TUMOUR_LABELS):
        raise ValueError(
            f"labels {dict(labels)} are not BraTS's own; say which value becomes which by `mask_values`, such as "
            "{0: 0, 1: 1, 2: 1, 4: 1} (enhancing is 4 up to 2021, 3 from 2023)"
        )
    found: dict[tuple[Path, str], dict[str, dict[str, Path]]] = {}
    for file in source.files:
        match = _FILE.fullmatch(file.name)
        if match is None:
            continue
        style = "old" if match["old"] else "new"
        tag = match[style].lower()
        tags = found.setdefault((file.parent, match["case"]), {"old": {}, "new": {}})[style]
        if tag in tags:
            raise ValueError(f"{file} and {tags[tag].name} are the same sequence of one case; remove one")
        tags[tag] = file
    cases = []
    for (folder, case_id), styles in found.items():
        old, new = (any(tag != "seg" for tag in styles[style]) for style in ("old", "new"))
        if old and new:
            raise ValueError(f"{folder}: {case_id} has files named as until 2021 and as from 2023; keep one kind")
        tags = {**styles["old"], **styles["new"]}
        names = _FROM_2023 if new else _UNTIL_2021
        images = {names[tag]: ImageRef(file) for tag, file in tags.items() if tag != "seg"}
        mask = ImageRef(tags["seg"]) if "seg" in tags else None
        table = mask_values or (_MASKS_FROM_2023 if new else _MASKS_UNTIL_2021)
        who = source.patient(case_id, patient_of(case_id))
        cases.append(Case(case_id, who, case_id, source.name, images, mask, dict(table)))
    return Found(cases, labels)


LAYOUT = Layout("brats", detect, read, "names such as <id>_t1ce.nii.gz or <id>-t1c.nii.gz")
