"""Folders as data sets come, read into a `Cohort`: BraTS, nnU-Net, BIDS, the decathlon, 2-D images with masks."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from seglens.cohorts.bids import is_bids, read_bids
from seglens.cohorts.case import (
    STRICT,
    TUMOUR_LABELS,
    WHOLE_TUMOUR_LABELS,
    Case,
    Cohort,
    ImageRef,
    Reading,
    patient_of,
    split_by_patient,
)
from seglens.cohorts.msd import is_msd, read_msd
from seglens.cohorts.nnunet import read_nnunet
from seglens.cohorts.patterns import Pattern
from seglens.cohorts.sequences import canonical_sequence, in_order
from seglens.cohorts.walking import files_under

FRACTIONS: Mapping[str, float] = {"train": 0.6, "val": 0.15, "test": 0.25}

_UNTIL_2021 = {"t1": "T1", "t1ce": "T1c", "t2": "T2", "flair": "FLAIR"}
_FROM_2023 = {"t1n": "T1", "t1c": "T1c", "t2w": "T2", "t2f": "FLAIR"}
_BRATS_FILE = re.compile(
    r"(?P<case>.+?)(?:_(?P<old>t1|t1ce|t2|flair|seg)|-(?P<new>t1n|t1c|t2w|t2f|seg))\.nii(\.gz)?",
    re.IGNORECASE | re.DOTALL,  # a name may hold a newline
)
_MASKS_UNTIL_2021 = {0: 0, 1: 1, 2: 2, 4: 3}
_MASKS_FROM_2023 = {0: 0, 1: 1, 2: 2, 3: 3}


def read_cohort(
    path: str | Path,
    *,
    name: str | None = None,
    layout: str = "auto",
    labels: Mapping[int, str] | None = None,
    sequences: Sequence[str] | None = None,
    images: str | None = None,
    masks: str | None = None,
    patient: str | None = None,
    channels: Mapping[str, int] | None = None,
    inverted: bool = False,
    orientation: str = "PL",
    mask_values: Mapping[int, int] | None = None,
    fractions: Mapping[str, float] = FRACTIONS,
    seed: int = 0,
    reading: Reading = STRICT,
    with_masks: bool = True,
) -> Cohort:
    """Find the cases of a data set. No pixel is read: run `check_cohort` on the result.

    Layouts:

    * ``brats``: a folder a case. Up to 2021 ``<id>_t1ce.nii.gz`` with enhancing tumour 4; from 2023
      ``<id>-t1c.nii.gz`` with enhancing tumour 3. Either may be spelt with capitals (``t2W``).
    * ``nnunet``: ``dataset.json``, ``imagesTr``, ``labelsTr``. Fold 0 of ``splits_final.json`` gives train and val,
      ``imagesTs`` with ``labelsTs`` test. Without a test folder the patients of fold 0's val are dealt to val and
      test; without ``splits_final.json`` all are dealt.
    * ``bids``: ``sub-*/[ses-*]/anat`` with masks ``*_dseg.nii.gz`` beside the images or below ``derivatives``; the
      masks' values are named by a table ``dseg.tsv`` or by ``labels`` and ``mask_values``.
    * ``msd``: the decathlon's ``dataset.json``, which lists the files; the channels of 4-D images are named there.
    * ``folder``: 2-D PNG or TIFF files, found by ``images``, a path pattern relative to ``path`` whose fields are in
      braces: ``"{patient}/{patient}_{slice}.tif"``. ``{patient}`` is the patient, ``{slice}`` (digits) the place in
      the volume, ``{sequence}`` the sequence where each has a file of its own; ``*`` matches anything within a name.

    Args:
        path: the data set's folder.
        name: of the cohort; by default the folder's.
        layout: ``"auto"``, ``"brats"``, ``"nnunet"``, ``"bids"``, ``"msd"`` or ``"folder"``.
        labels: value to class name, 0 the background. Default: the four tumour labels (brats), those of
            ``dataset.json`` or ``dseg.tsv`` (nnunet, msd, bids; the names of the tumour labels get their usual values),
            background and tumour (folder).
        sequences: which to use and in which order; default: every one that some case has.
        images: pattern of the image files (folder layout).
        masks: pattern of the mask files, of the same fields, which leads from each slice to one mask of its own. An
            image whose mask file is absent is a finding.
        patient: regular expression searched in the case id; its first group, or all of it, is the patient. Default:
            the id without its timepoint (BraTS) or session (BIDS), the case id (nnU-Net), the field ``{patient}``
            (folder).
        channels: sequence name to channel number, for files with several channels (RGB, RGBA; as Pillow reads them),
            and in place of the names in ``dataset.json``.
        inverted: 2-D intensities are stored as 255 - x where x > 0.
        orientation: of 2-D files, masks too: where rows and where columns run to, of A P and of L R. ``"PL"``: the
            patient's front at the top and left at the right; ``"RA"``: arrays [x y] of RAS volumes saved as they are.
        mask_values: value in the mask files to value in ``labels``; a value that is not in it is a finding and never
            merged. Default: the layout's own codes; 0 and 255 for a 2-D mask with two labels.
        fractions: split name to share of the patients, where the data set has no split of its own.
        seed: of that split.
        reading: what is allowed of the files: links, resampling, voxels that are not finite, size.
        with_masks: False also takes images that have no masks, to be segmented: nnU-Net's ``imagesTs`` where there is
            no ``labelsTs``, and what the decathlon's ``dataset.json`` lists under ``test``.

    Returns:
        The cohort, its cases in order of their ids.

    Raises:
        ValueError: no such folder, no cases in it, arguments that do not fit the layout or each other.
    """
    root = Path(path)
    if not root.is_dir():
        archive = f" (unpack an archive by `seglens unpack {root} --out FOLDER`)" if root.is_file() else ""
        raise ValueError(f"{root} is not a folder; give the data set's folder{archive}")
    files: list[Path] = []
    unfollowed: list[Path] = []
    if layout in ("brats", "bids") or (layout == "auto" and not images and not (root / "dataset.json").is_file()):
        files, unfollowed = files_under(root, follow_links=reading.follow_links)
    if layout == "auto":
        layout = _detect(root, images, files)
    name = name or root.resolve().name
    find_patient = _patient_finder(patient)
    asked: dict[str, Any] = {
        "labels": labels,
        "mask_values": mask_values,
        "channels": channels,
        "with_masks": with_masks,
    }
    if layout == "folder":
        if images is None:
            raise ValueError('the folder layout needs `images`, a pattern such as "{patient}/{slice}.png"')
        labels = labels or WHOLE_TUMOUR_LABELS
        table = mask_values or ({0: 0, 255: max(labels)} if len(labels) == 2 else {value: value for value in labels})
        cases = _read_folder(
            root,
            name,
            images=images,
            masks=masks,
            find_patient=find_patient,
            sequences=sequences,
            channels=channels or {},
            inverted=inverted,
            orientation=orientation,
            mask_values=table,
        )
        splits = None
    elif images or masks or inverted or orientation != "PL" or (channels and layout in ("brats", "bids")):
        raise ValueError(
            f"`images`, `masks`, `channels`, `inverted` and `orientation` describe 2-D folders; "
            f"{root} is read as {layout}"
        )
    elif layout == "brats":
        labels = labels or TUMOUR_LABELS
        if mask_values is None and dict(labels) != dict(TUMOUR_LABELS):
            raise ValueError(
                f"labels {dict(labels)} are not BraTS's own; say which value becomes which by `mask_values`, such as "
                "{0: 0, 1: 1, 2: 1, 4: 1} (enhancing is 4 up to 2021, 3 from 2023)"
            )
        cases, splits = _read_brats(files, name, find_patient, mask_values), None
    elif layout == "nnunet":
        cases, labels, splits = read_nnunet(root, name, find_patient, **asked)
    elif layout == "bids":
        cases, labels = read_bids(root, name, files, find_patient, labels=labels, mask_values=mask_values)
        splits = None
    elif layout == "msd":
        cases, labels = read_msd(root, name, find_patient, **asked)
        splits = None
    else:
        raise ValueError(f"layout {layout!r} is unknown; it is one of auto, brats, nnunet, bids, msd, folder")
    if not cases:
        raise ValueError(f"{root}: no case found in the {layout} layout; check the folder{_hint(images)}")
    reading = replace(reading, root=None if reading.follow_links else root.resolve())
    cases = tuple(replace(case, reading=reading) for case in cases)
    cases = tuple(sorted(cases, key=lambda case: (case.volume, case.position or 0, case.id)))
    present = in_order({sequence for case in cases for sequence in case.images})
    chosen = tuple(canonical_sequence(sequence) for sequence in sequences) if sequences is not None else present
    absent = [sequence for sequence in chosen if sequence not in present]
    if absent:
        raise ValueError(f"{root}: no case has {', '.join(absent)}; there are {', '.join(present) or 'no images'}")
    deal = partial(_deal, given=splits or {}, fractions=fractions, seed=seed)
    return Cohort(name, cases, chosen, dict(labels), deal(cases), tuple(unfollowed), deal)


def _hint(images: str | None) -> str:
    return f" and the pattern images={images!r}" if images else " or name the layout"


def _detect(root: Path, images: str | None, files: Sequence[Path]) -> str:
    if images is not None:
        return "folder"
    if (root / "dataset.json").is_file():
        return "msd" if is_msd(root) else "nnunet"
    if is_bids(files):
        return "bids"
    if any(_BRATS_FILE.fullmatch(file.name) for file in files):
        return "brats"
    raise ValueError(
        f"{root}: neither BraTS names (..._t1ce.nii.gz, ...-t1c.nii.gz) nor BIDS (sub-*/anat) nor a dataset.json; "
        'for 2-D images give patterns: images="images/{patient}-{slice}.png", masks="masks/{patient}-{slice}.png"'
    )


def _patient_finder(expression: str | None) -> Callable[[str, str], str]:
    """From case id and default patient to the patient."""
    if expression is None:
        return lambda _, default: default
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ValueError(f"patient={expression!r} is no regular expression ({error}); correct it") from None

    def find(case_id: str, _: str) -> str:
        match = pattern.search(case_id)
        found = match and match.group(1 if match.groups() else 0)
        if not found:  # no match, or one in which the group has no part
            raise ValueError(f"patient={expression!r} does not match the case {case_id!r}; correct the expression")
        return found

    return find


def _read_brats(
    files: Sequence[Path],
    name: str,
    find_patient: Callable[[str, str], str],
    mask_values: Mapping[int, int] | None,
) -> tuple[Case, ...]:
    found: dict[tuple[Path, str], dict[str, dict[str, Path]]] = {}
    for file in files:
        match = _BRATS_FILE.fullmatch(file.name)
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
        who = find_patient(case_id, patient_of(case_id))
        cases.append(Case(case_id, who, case_id, name, images, mask, dict(table)))
    return tuple(cases)


def _read_folder(
    root: Path,
    name: str,
    *,
    images: str,
    masks: str | None,
    find_patient: Callable[[str, str], str],
    sequences: Sequence[str] | None,
    channels: Mapping[str, int],
    inverted: bool,
    orientation: str,
    mask_values: Mapping[int, int],
) -> tuple[Case, ...]:
    pattern = Pattern(images)
    mask_pattern = Pattern(masks) if masks is not None else None
    if mask_pattern is not None:
        strange = [field for field in mask_pattern.fields if field not in pattern.fields]
        if strange:
            raise ValueError(f"masks={masks!r} has the fields {strange}, which images={images!r} does not have")
        if "sequence" in mask_pattern.fields:
            raise ValueError(
                f"masks={masks!r} has the field {{sequence}}, but a case has one mask for all its sequences; write in "
                "its place the name of the sequence whose mask is meant"
            )
    if "sequence" not in pattern.fields and not channels and (sequences is None or len(sequences) != 1):
        raise ValueError(
            'name what the files show: one sequence, sequences=("T1",), or channels={"FLAIR": 1}, or a field '
            "{sequence} in `images`"
        )
    found: dict[str, tuple[dict[str, str], dict[str, ImageRef]]] = {}
    for file, fields in pattern.find(root):
        keys = {key: value for key, value in fields.items() if key != "sequence"}
        # the file's own name where the pattern has no fields to tell the files apart
        case_id = "-".join(keys.values()) if keys else file.relative_to(root).with_suffix("").as_posix()
        refs = found.setdefault(case_id, (keys, {}))[1]
        new: Iterable[tuple[str, ImageRef]]
        if channels:
            new = [
                (canonical_sequence(key), ImageRef(file, channel, inverted, orientation))
                for key, channel in channels.items()
            ]
        else:
            sequence = fields["sequence"] if "sequence" in fields else (sequences or ("",))[0]
            new = [(canonical_sequence(sequence), ImageRef(file, None, inverted, orientation))]
        for sequence, ref in new:
            if sequence in refs:
                raise ValueError(
                    f"{file} and {refs[sequence].path} are both {sequence} of the case {case_id}; rename one"
                )
            refs[sequence] = ref
    cases = []
    users: dict[Path, tuple[str, tuple[str | int | None, ...]]] = {}
    for case_id, (keys, refs) in found.items():
        who = find_patient(case_id, keys.get("patient", case_id))
        position = int(keys["slice"]) if "slice" in keys else None
        mask = None
        if mask_pattern is not None and (file := mask_pattern.path(root, keys)).is_file():
            told_apart_by = pattern.fields if "*" in mask_pattern.text else mask_pattern.fields
            place = (who, position, *(keys.get(field) for field in told_apart_by))
            other, other_place = users.setdefault(file, (case_id, place))
            if place != other_place:
                raise ValueError(
                    f"{file} would be the mask of {other} and of {case_id}; make masks={masks!r} exact: name the "
                    f"fields that tell the images apart ({', '.join(pattern.fields)}), with no `*` beside them"
                )
            mask = ImageRef(file, orientation=orientation)
        cases.append(Case(case_id, who, who, name, refs, mask, dict(mask_values), position))
    return tuple(cases)


def _deal(
    cases: Sequence[Case], given: Mapping[str, str], fractions: Mapping[str, float], seed: int
) -> dict[str, tuple[str, ...]]:
    """Splits: what the data set says (case id to split); what it leaves open is dealt by patient."""
    if not given:
        return split_by_patient(cases, fractions, seed)
    splits = {
        split: tuple(case.id for case in cases if given.get(case.id) == split) for split in ("train", "val", "test")
    }
    missing = [split for split, ids in splits.items() if not ids]
    if "train" in missing:  # a test folder, but no splits_final.json
        rest, open_splits = [case for case in cases if case.id not in given], ("train", "val")
    elif "test" in missing:
        rest, open_splits = [case for case in cases if given.get(case.id) == "val"], ("val", "test")
    else:
        return splits
    shares = {split: fractions.get(split, 0.0) for split in open_splits}
    total = sum(shares.values())
    if total == 0:
        return splits
    return splits | split_by_patient(rest, {split: share / total for split, share in shares.items()}, seed)
