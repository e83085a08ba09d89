"""Cases, cohorts, and splits that never tear a patient apart."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

import numpy as np
import polars as pl

from seglens.cohorts.label_names import alike, label_faults
from seglens.cohorts.source_options import STRICT, Reading

TUMOUR_LABELS: Mapping[int, str] = {0: "background", 1: "necrotic_core", 2: "edema", 3: "enhancing"}
"""The labels of every tumour cohort here, whatever the file's own codes are."""
WHOLE_TUMOUR_LABELS: Mapping[int, str] = {0: "background", 1: "tumour"}

_TIMEPOINT = re.compile(r"(BraTS-.+-\d{5})-\d{3}", re.IGNORECASE)


def patient_of(case_id: str) -> str:
    """The patient of a case id: that of BraTS from 2023 on without its timepoint, any other as it is."""
    match = _TIMEPOINT.fullmatch(case_id)
    return match[1] if match else case_id


@dataclass(frozen=True)
class ImageRef:
    """Where one image or mask is.

    Attributes:
        path: the file.
        channel: which channel of a file with several, counted from 0: of a 2-D file (RGB, RGBA) as they are stored,
            of a 4-D NIfTI file along its fourth dimension; None where the file has one.
        inverted: stored upside down in intensity: the value is 255 - x where x > 0 (2-D files only).
        orientation: where the file's rows run to and where its columns run to, of A P and of L R (2-D files only).
            ``"PL"``: from anterior to posterior and from right to left, as slices are here; ``"RA"``: a RAS array
            [x y] saved as a picture.
    """

    path: Path
    channel: int | None = None
    inverted: bool = False
    orientation: str = "PL"

    def __post_init__(self) -> None:
        if sorted("AP" if letter in "AP" else letter for letter in self.orientation) not in (["AP", "L"], ["AP", "R"]):
            raise ValueError(
                f"orientation {self.orientation!r}: give two letters, where rows and where columns run to, one of A P "
                'and one of L R, such as "PL" (the front at the top, the patient\'s left at the right)'
            )


@dataclass(frozen=True)
class Case:
    """One volume, or one 2-D slice file, of one patient at one time.

    Attributes:
        id: unique in its cohort.
        patient: who; a patient is never in two splits.
        volume: the unit over which the volume Dice sums: of a NIfTI case its id, of a 2-D file the patient.
        cohort: the cohort's name.
        images: sequence name to file; a sequence that is missing on disk is missing here, and `check_cohort` says so.
        mask: the label file; None where there is none.
        mask_values: value in the file to value in ``Cohort.labels``; any other value in the file is an error.
        mask_threshold: what is as bright or brighter in the mask file is the one label that is not the background;
            None: ``mask_values`` says what is what.
        position: slice number of a 2-D file within its volume; None for a volume.
        reading: what is allowed of its files.
    """

    id: str
    patient: str
    volume: str
    cohort: str
    images: Mapping[str, ImageRef]
    mask: ImageRef | None
    mask_values: Mapping[int, int]
    position: int | None = None
    reading: Reading = STRICT
    mask_threshold: float | None = None


Splits = Mapping[str, tuple[str, ...]]
"""Split name to case ids."""


@dataclass(frozen=True)
class Cohort:
    """Cases that share sequences and labels.

    Attributes:
        name: the cohort's name.
        cases: all of them, quarantined ones too.
        sequences: canonical names, the order of the channels.
        labels: value to class name; 0 is the background.
        splits: split name to case ids.
        unfollowed: links to folders outside of the data set's, which were not looked into.
        deal: deals cases to splits as this cohort's were; None where the splits were given.
        labelled: False of images without masks: ``labels`` are what a network is to find there, and masks that lie
            beside the images are not read unless somebody asks for them.

    Raises:
        ValueError: double ids, ids or patients that differ only by capitals, Unicode form or blanks, unknown ids in a
            split, a case or patient in two splits, labels that `refuse_labels` refuses, a mask value without a label, a
            sequence twice.
    """

    name: str
    cases: tuple[Case, ...]
    sequences: tuple[str, ...]
    labels: Mapping[int, str]
    splits: Splits
    unfollowed: tuple[Path, ...] = ()
    deal: Callable[[Sequence[Case]], Splits] | None = field(default=None, compare=False, repr=False)
    labelled: bool = True

    def __post_init__(self) -> None:
        problems = [*_double_names(self.cases), *_split_problems(self.cases, self.splits), *label_faults(self.labels)]
        if len(set(self.sequences)) < len(self.sequences):
            problems.append(f"the sequences {', '.join(self.sequences)} name one twice; name each once")
        if self.labels.get(0) is None:
            problems.append(f"labels {dict(self.labels)} have no 0; give the background's name under 0")
        unknown = {value for case in self.cases for value in case.mask_values.values()} - set(self.labels)
        if unknown:
            problems.append(f"masks are mapped to {sorted(unknown)}, which labels {dict(self.labels)} do not name")
        if problems:
            raise ValueError(f"cohort {self.name}: " + "; ".join(problems))

    def _repr_html_(self) -> str:
        patients = {case.id: case.patient for case in self.cases}
        splits = {**self.splits, "all": tuple(patients)}
        rows = [(name, len(ids), len({patients[case] for case in ids})) for name, ids in splits.items()]
        table = pl.DataFrame(rows, schema=["split", "cases", "patients"], orient="row")
        title = f"Cohort {self.name}: {', '.join(self.sequences)}; {', '.join(self.labels.values())}"
        return escape(title) + table._repr_html_()

    def case(self, case_id: str) -> Case:
        """The case of that id; ValueError names the nearest where there is none."""
        for case in self.cases:
            if case.id == case_id:
                return case
        from difflib import get_close_matches

        near = get_close_matches(case_id, [case.id for case in self.cases], n=3)
        raise ValueError(f"cohort {self.name} has no case {case_id!r}; nearest: {', '.join(near) or 'none'}")

    def split_of(self) -> dict[str, str]:
        """Case id to split name; cases outside every split are absent."""
        return {case_id: split for split, ids in self.splits.items() for case_id in ids}

    def with_splits(self, splits: Mapping[str, Iterable[str]]) -> "Cohort":
        """The same cases, split as told."""
        return replace(self, splits={name: tuple(ids) for name, ids in splits.items()}, deal=None)

    def without(self, case_ids: Set[str]) -> "Cohort":
        """The cohort as if these cases had never been there: where patients were dealt to splits, they are anew."""
        cases = tuple(case for case in self.cases if case.id not in case_ids)
        if len(cases) == len(self.cases):
            return self
        if self.deal is not None:
            return replace(self, cases=cases, splits=self.deal(cases))
        splits = {name: tuple(one for one in ids if one not in case_ids) for name, ids in self.splits.items()}
        return replace(self, cases=cases, splits=splits)

    def without_masks(self) -> "Cohort":
        """The same images as a cohort without masks: where there are any, they are forgotten."""
        return replace(self, cases=tuple(replace(case, mask=None) for case in self.cases), labelled=False)

    def with_sequences(self, sequences: Sequence[str]) -> "Cohort":
        """The same cases, of which only these sequences are used, in this order.

        Raises:
            ValueError: a sequence that the cohort does not have.
        """
        missing = [name for name in sequences if name not in self.sequences]
        if missing:
            raise ValueError(f"cohort {self.name} has no {', '.join(missing)}; it has {', '.join(self.sequences)}")
        return replace(self, sequences=tuple(sequences))

    @classmethod
    def merged(cls, cohorts: Sequence["Cohort"], name: str) -> "Cohort":
        """One cohort of several; each case keeps the split that it had.

        Args:
            cohorts: of the same sequences and labels, with no case or patient in common across splits.
            name: the new cohort's name, which its cases take.

        Raises:
            ValueError: other sequences or labels, double ids, a patient in two splits.
        """
        if not cohorts:
            raise ValueError("no cohorts to merge; give at least one")
        first = cohorts[0]
        for other in cohorts[1:]:
            if other.sequences != first.sequences:
                raise ValueError(
                    f"{other.name} has the sequences {other.sequences}, {first.name} has {first.sequences}; "
                    "read both with the same `sequences`"
                )
            if dict(other.labels) != dict(first.labels):
                raise ValueError(
                    f"{other.name} has the labels {dict(other.labels)}, {first.name} has {dict(first.labels)}; "
                    "read both with the same `labels`"
                )
            if other.labelled != first.labelled:
                bare = first if other.labelled else other
                raise ValueError(f"{bare.name} has no masks, the other has; keep them apart, or take both without")
        splits: dict[str, tuple[str, ...]] = {}
        for cohort in cohorts:
            for split, ids in cohort.splits.items():
                splits[split] = splits.get(split, ()) + tuple(ids)
        cases = tuple(replace(case, cohort=name) for cohort in cohorts for case in cohort.cases)
        unfollowed = tuple(link for cohort in cohorts for link in cohort.unfollowed)
        return cls(name, cases, first.sequences, first.labels, splits, unfollowed, labelled=first.labelled)


def split_by_patient(cases: Sequence[Case], fractions: Mapping[str, float], seed: int) -> dict[str, tuple[str, ...]]:
    """Deal patients, and with them all their cases, to splits.

    Shares are of patients, rounded by largest remainder; where there are enough patients no split stays empty. The
    result depends on the patients' names and the seed, not on the order of the cases.

    Args:
        cases: to be dealt.
        fractions: split name to share, >= 0, adding up to 1.
        seed: of the shuffle.

    Returns:
        Split name to case ids, in the order of ``cases``.

    Raises:
        ValueError: shares below 0 or not adding up to 1.
    """
    shares = dict(fractions)
    if not shares or min(shares.values()) < 0 or not abs(sum(shares.values()) - 1) < 1e-6:
        raise ValueError(f"fractions {shares} must be >= 0 and add up to 1, such as train .6, val .15, test .25")
    patients = sorted({case.patient for case in cases})
    exact = {name: share * len(patients) for name, share in shares.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: len(patients) - sum(counts.values())]:
        counts[name] += 1
    wanted = [name for name, share in shares.items() if share > 0]
    if len(patients) >= len(wanted):
        for name in wanted:
            if counts[name] == 0:
                counts[max(counts, key=lambda other: counts[other])] -= 1
                counts[name] = 1
    order = np.random.default_rng(seed).permutation(len(patients))
    split_of: dict[str, str] = {}
    start = 0
    for name, count in counts.items():
        split_of.update({patients[i]: name for i in order[start : start + count]})
        start += count
    return {name: tuple(case.id for case in cases if split_of[case.patient] == name) for name in shares}


def _double_names(cases: Sequence[Case]) -> list[str]:
    """Ids that occur twice, and ids or patients that a person could not tell apart."""
    problems = []
    ids = Counter(case.id for case in cases)
    if double := [name for name, n in ids.items() if n > 1]:
        problems.append(f"the case ids {_listed(double)} occur twice")
    for what, names in (("case ids", ids), ("patients", dict.fromkeys(case.patient for case in cases))):
        pairs = [" and ".join(_seen(name) for name in group) for group in alike(names)]
        if pairs:
            problems.append(
                f"the {what} {_listed(pairs)} differ only by capitals, Unicode form or blanks; rename the files of "
                "one, or name the patients by `patient`"
            )
            break  # ids that are alike are the patients too, as a rule
    return problems


def _seen(name: str) -> str:
    """The name, and how it is spelt where it does not show."""
    return name if name.isascii() and name == name.strip() else f"{name!r} ({name!a})"


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _split_problems(cases: Sequence[Case], splits: Mapping[str, tuple[str, ...]]) -> list[str]:
    problems = []
    patients = {case.id: case.patient for case in cases}
    unknown = sorted({case_id for ids in splits.values() for case_id in ids} - set(patients))
    if unknown:
        problems.append(f"the splits name {', '.join(unknown[:10])}, which are no cases here")
    places: dict[str, set[str]] = {}
    for split, ids in splits.items():
        for case_id in ids:
            if case_id in patients:
                places.setdefault(patients[case_id], set()).add(split)
    several = Counter(case_id for ids in splits.values() for case_id in ids)
    double = [case_id for case_id, n in several.items() if n > 1]
    if double:
        where = {one: [split for split, ids in splits.items() for each in ids if each == one] for one in double[:11]}
        named = [f"{one} ({' and '.join(found)})" for one, found in where.items()]
        problems.append(f"cases that stand twice in the splits: {_listed(named)}; name each once")
    torn = {patient: sorted(found) for patient, found in sorted(places.items()) if len(found) > 1}
    if torn:
        listed = ", ".join(f"{patient} ({' and '.join(found)})" for patient, found in list(torn.items())[:10])
        problems.append(f"patients in two splits: {listed}; split by patient")
    return problems
