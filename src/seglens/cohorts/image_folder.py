"""A folder of 2-D image files, which patterns of their paths part into patients, slices and sequences."""

from collections.abc import Mapping
from pathlib import Path

from seglens.cohorts.case import WHOLE_TUMOUR_LABELS, Case, ImageRef
from seglens.cohorts.layouts import Found, Layout, Source
from seglens.cohorts.patterns import Pattern
from seglens.cohorts.sequences import COLOURS, canonical_sequence
from seglens.cohorts.source_options import PARTICULAR

MAX_DIGITS = 9
_EXAMPLE = 'images="images/{patient}-{slice}.png", masks="masks/{patient}-{slice}.png"'


def detect(source: Source) -> bool:
    """Whether there is a pattern of the images."""
    return source.options.images is not None


def read(source: Source) -> Found:
    """Find the cases, one an image, or one for all sequences of an image where each has a file of its own.

    Raises:
        ValueError: no pattern of the images, patterns that do not fit each other, two images of one sequence, or one
            mask for two images.
    """
    options = source.options
    if options.images is None:
        raise ValueError(f"the folder layout needs `images`, a pattern of the files; such as {_EXAMPLE}")
    labels = options.labels or WHOLE_TUMOUR_LABELS
    two = {0: 0, 255: max(labels)}
    table = options.mask_values or (two if len(labels) == 2 else {value: value for value in labels})
    pattern = Pattern(options.images)
    masks = None if options.masks is None else _mask_pattern(options.masks, pattern)
    found = _images(source, pattern)
    cases = []
    users: dict[Path, tuple[str, tuple[str | int | None, ...]]] = {}
    for case_id, (keys, refs) in found.items():
        who = source.patient(case_id, keys.get("patient", case_id))
        position = int(keys["slice"]) if "slice" in keys else None
        mask = None
        if masks is not None and (file := masks.path(source.root, keys)).is_file():
            distinguished_by = pattern.fields if "*" in masks.text else masks.fields
            place = (who, position, *(keys.get(field) for field in distinguished_by))
            other, other_place = users.setdefault(file, (case_id, place))
            if place != other_place:
                raise ValueError(
                    f"{file} would be the mask of {other} and of {case_id}; make masks={masks.text!r} exact: name the "
                    f"fields that tell the images apart ({', '.join(pattern.fields)}), with no `*` beside them"
                )
            mask = ImageRef(file, orientation=options.orientation)
        cases.append(Case(case_id, who, who, source.name, refs, mask, dict(table), position))
    return Found(cases, labels)


def _mask_pattern(text: str, images: Pattern) -> Pattern:
    """The pattern of the masks, of whose fields every one is a field of the images."""
    masks = Pattern(text)
    strange = [field for field in masks.fields if field not in images.fields]
    if strange:
        raise ValueError(f"masks={text!r} has the fields {strange}, which images={images.text!r} does not have")
    if "sequence" in masks.fields:
        raise ValueError(
            f"masks={text!r} has the field {{sequence}}, but a case has one mask for all its sequences; write in "
            "its place the name of the sequence whose mask is meant"
        )
    return masks


def _images(source: Source, pattern: Pattern) -> dict[str, tuple[dict[str, str], dict[str, ImageRef]]]:
    """By case id, the fields of its path but for the sequence, and the image of each sequence."""
    channels = _channels(source, pattern)
    found: dict[str, tuple[dict[str, str], dict[str, ImageRef]]] = {}
    by_place: dict[tuple[str | int, ...], str] = {}
    for file, fields in pattern.find(source.root):
        keys = {key: value for key, value in fields.items() if key != "sequence"}
        # the file's own name where the pattern has no fields to tell the files apart
        case_id = "-".join(keys.values()) if keys else file.relative_to(source.root).with_suffix("").as_posix()
        other_keys, refs = found.setdefault(case_id, (keys, {}))
        if keys != other_keys:
            other = next(iter(refs.values())).path
            raise ValueError(
                f"{other} ({other_keys}) and {file} ({keys}) would both be the case {case_id}; rename one, so that "
                "the fields joined by - tell them apart"
            )
        if "slice" in keys:
            if len(keys["slice"]) > MAX_DIGITS:
                raise ValueError(f"{file}: a slice's number has at most {MAX_DIGITS} digits; rename it")
            place = tuple(int(value) if key == "slice" else value for key, value in keys.items())
            other_id = by_place.setdefault(place, case_id)
            if other_id != case_id:
                other = next(iter(found[other_id][1].values())).path
                raise ValueError(f"{other} and {file} are one slice of one volume, {int(keys['slice'])}; rename one")
        for named, channel in (channels or {fields.get("sequence", ""): None}).items():
            sequence = canonical_sequence(named)
            if sequence in refs:
                raise ValueError(
                    f"{file} and {refs[sequence].path} are both {sequence} of the case {case_id}; rename one"
                )
            refs[sequence] = ImageRef(file, channel, source.options.inverted, source.options.orientation)
    return found


def _channels(source: Source, pattern: Pattern) -> Mapping[str, int | None]:
    """Sequence to channel of each file; {} where the path names the sequence."""
    if source.options.channels:
        return source.options.channels
    if "sequence" in pattern.fields:
        return {}
    named = source.sequences or ()
    if named and set(named) <= set(COLOURS):
        return {name: COLOURS.index(name) for name in named}
    if len(named) != 1:
        raise ValueError(
            'name what the files show: one sequence, sequences=("T1",), the colours of photographs, '
            'sequences=("R", "G", "B"), or channels={"FLAIR": 1}, or a field {sequence} in `images`'
        )
    return {named[0]: None}


LAYOUT = Layout("folder", detect, read, f"patterns for 2-D images, {_EXAMPLE}", frozenset(PARTICULAR))
