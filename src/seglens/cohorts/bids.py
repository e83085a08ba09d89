"""BIDS: ``sub-*/[ses-*]/anat`` with masks ``*_dseg.nii.gz`` beside the images or below ``derivatives``."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.data_json import labels_of
from seglens.cohorts.layouts import Found, Layout, Source
from seglens.cohorts.sequences import canonical_sequence
from seglens.foreign.plain_numbers import whole_number

_FILE = re.compile(
    r"(?P<case>sub-[^_]+(?:_ses-[^_]+)?)(?P<entities>(?:_[a-z]+-[^_]+)*)_(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?",
    re.DOTALL,  # a name may hold a newline
)
_CONTRAST = re.compile(r"_ce-[^_]+", re.DOTALL)
_LABELS = "dseg.tsv"
MAX_BYTES = 2**24


def detect(source: Source) -> bool:
    """Whether any of the files has a BIDS name in a folder ``anat``."""
    return any(file.parent.name == "anat" and _FILE.fullmatch(file.name) for file in source.files)


def read(source: Source) -> Found:
    """Find the cases, one a subject and session, and the labels.

    The suffix names the sequence (``T1w``, ``T2w``, ``FLAIR``); a T1w with an entity ``ce-`` is T1c. Other entities
    (``acq-``, ``run-``, ...) may be there, but not twice for one sequence of one case. Without the option ``labels``
    those of the lookup table ``dseg.tsv`` (columns ``index``, ``name``) are taken.

    Raises:
        ValueError: two files of one sequence, several masks of one case, or no labels.
    """
    root, files = source.root, source.files
    labels, mask_values = source.options.labels, source.options.mask_values
    found: dict[str, dict[str, Path]] = {}
    masks: dict[str, Path] = {}
    for file in files:
        match = _FILE.fullmatch(file.name)
        if match is None or file.parent.name != "anat":
            continue
        case_id, suffix = match["case"], match["suffix"]
        derived = "derivatives" in file.relative_to(root).parts
        if suffix != "dseg" and derived:  # images that some pipeline made of the scanned ones
            continue
        of_case = masks if suffix == "dseg" else found.setdefault(case_id, {})
        key = case_id if suffix == "dseg" else _sequence(suffix, match["entities"])
        if key in of_case:
            raise ValueError(
                f"{file} and {of_case[key]} are both {suffix} of {case_id}; keep one of them in the folder"
            )
        of_case[key] = file
    lookup = _lookup(root, files)
    if not masks and lookup is None and labels is not None and mask_values is None:  # images to be segmented
        mask_values = {value: value for value in labels}
    if (labels is None or mask_values is None) and lookup is None:
        raise ValueError(
            f"{root} has no {_LABELS} (columns index, name) that says what the masks' values mean; write one, or give "
            "`labels` and `mask_values`"
        )
    place, written = lookup or (root, None)
    labels, mask_values = labels_of(place, written, labels, mask_values)
    cases = []
    for case_id, images in found.items():
        who = source.patient(case_id, case_id.partition("_ses-")[0])
        mask = ImageRef(masks[case_id]) if case_id in masks else None
        refs = {sequence: ImageRef(path) for sequence, path in images.items()}
        cases.append(Case(case_id, who, case_id, source.name, refs, mask, dict(mask_values)))
    return Found(cases, labels)


def _sequence(suffix: str, entities: str) -> str:
    named = canonical_sequence(suffix)
    return "T1c" if named == "T1" and _CONTRAST.search(entities) else named


def _lookup(root: Path, files: Sequence[Path]) -> tuple[Path, dict[str, int]] | None:
    """The table of label names that is nearest to the data set's folder, and what it says."""
    tables = [file for file in files if file.name == _LABELS or file.name.endswith(f"_{_LABELS}")]
    if not tables:
        return None
    table = min(tables, key=lambda file: (len(file.relative_to(root).parts), file))
    try:
        if table.stat().st_size > MAX_BYTES:
            raise ValueError
        rows = csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t")
        if any(list(rows.fieldnames or ()).count(column) != 1 for column in ("index", "name")):
            raise ValueError
        named = [(row["name"], whole_number(row["index"])) for row in rows]
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        raise ValueError(f"{table} is no table with one column index and one name, tab-separated; mend it") from None
    found: dict[str, int] = {}
    for name, value in named:
        if name in found:
            raise ValueError(f"{table} calls the values {found[name]} and {value} {name!r}; name each once")
        found[name] = value
    return table, found


LAYOUT = Layout("bids", detect, read, "sub-*/anat")
