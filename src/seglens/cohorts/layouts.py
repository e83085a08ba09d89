"""Folders as data sets come, read into a `Cohort`, by the rows of the table of layouts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path

from seglens.cohorts.case import Case, Cohort, split_by_patient
from seglens.cohorts.expressions import limited_search
from seglens.cohorts.file_listing import files_under
from seglens.cohorts.layout_table import AUTO, ENTRY_POINTS, LAYOUTS
from seglens.cohorts.sequences import canonical_sequence, in_order
from seglens.cohorts.source_options import DEFAULTS, SourceOptions
from seglens.documents import escaped
from seglens.entry_points import refuse_taken, with_installed
from seglens.runtime.suggestions import did_you_mean

FRACTIONS: Mapping[str, float] = {"train": 0.6, "val": 0.15, "test": 0.25}


@dataclass(frozen=True)
class Source:
    """A data set's folder, and all that is said of it.

    Attributes:
        root: the folder.
        name: the cohort's name, which its cases carry.
        options: how it is to be read.
        sequences: which are asked for, in their order; None for every one that is there.
        with_masks: False where images without masks are wanted too.
    """

    root: Path
    name: str
    options: SourceOptions = DEFAULTS
    sequences: tuple[str, ...] | None = None
    with_masks: bool = True

    @cached_property
    def listing(self) -> tuple[list[Path], list[Path]]:
        """Every file below the folder in order, and the links to folders outside that were not followed."""
        return files_under(self.root, follow_links=self.options.follow_links)

    @property
    def files(self) -> list[Path]:
        """Every file below the folder, in order; looked up once, when it is first asked for."""
        return self.listing[0]

    def patient(self, case_id: str, default: str) -> str:
        """The patient of a case: what the option ``patient`` finds in its id, or else the default.

        Raises:
            ValueError: the option is no regular expression, takes too long, or finds nothing.
        """
        expression = self.options.patient
        if expression is None:
            return default
        match = limited_search(expression, case_id)
        found = match and match.group(1 if match.groups() else 0)
        if not found:  # no match, or one in which the group has no part
            raise ValueError(f"patient={expression!r} does not match the case {case_id!r}; correct the expression")
        return found


@dataclass(frozen=True)
class Found:
    """The cases of a data set, as a layout finds them.

    Attributes:
        cases: in any order; what is allowed of their files is set afterwards.
        labels: value to class name, 0 the background.
        splits: case id to ``train``, ``val`` or ``test``, where the data set itself says so.
    """

    cases: Sequence[Case]
    labels: Mapping[int, str]
    splits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """A way in which data sets lie in folders: a row of the table.

    Attributes:
        name: as the option ``layout`` names it.
        detect: whether a folder is arranged so; no image is opened.
        read: finds the cases and labels; no pixel is read. Raises ValueError where something cannot be understood.
        looks_like: what shows that a folder is arranged so, for the message where nothing fits.
        options: which of `seglens.cohorts.source_options.PARTICULAR` it heeds.
    """

    name: str
    detect: Callable[[Source], bool]
    read: Callable[[Source], Found]
    looks_like: str
    options: frozenset[str] = frozenset()


def layouts() -> dict[str, Layout]:
    """Every layout by name: the rows of the table, then those that installed packages add.

    Raises:
        ValueError: an entry point that cannot be loaded, is no `Layout`, or has the name of another row.
    """
    return with_installed(ENTRY_POINTS, map(_own, LAYOUTS), Layout)


def require_layout(name: str) -> None:
    """Refuse a name that is neither ``auto`` nor a layout's; installed packages are asked where it is not ours.

    Raises:
        ValueError: with the nearest and all legal names.
    """
    refuse_taken(ENTRY_POINTS, LAYOUTS)
    if name == AUTO or name in LAYOUTS:
        return
    names = (AUTO, *layouts())
    if name not in names:
        raise ValueError(f"layout {name!r} is unknown; {did_you_mean(name, names)}it is one of {', '.join(names)}")


def _own(name: str) -> Layout:
    return import_module(LAYOUTS[name]).LAYOUT


def read_cohort(
    path: str | Path,
    options: SourceOptions = DEFAULTS,
    *,
    name: str | None = None,
    sequences: Sequence[str] | None = None,
    fractions: Mapping[str, float] = FRACTIONS,
    seed: int = 0,
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
    * ``flat``: nnU-Net's folder of images to be segmented, ``case_0000.nii.gz``, a file a channel; the numbers are the
      places in ``sequences``, or those of the option ``channels``.
    * ``folder``: 2-D PNG, JPEG, TIFF or NumPy files, found by the pattern ``images``; colour pictures are the three
      sequences R, G and B.
    * those of installed packages (entry points ``seglens.layouts``), see docs/extending.md.

    Args:
        path: the data set's folder.
        options: how it is arranged, what its masks mean, what is allowed of its files.
        name: of the cohort; by default the folder's.
        sequences: which to use and in which order; default: every one that some case has.
        fractions: split name to share of the patients, where the data set has no split of its own.
        seed: of that split.
        with_masks: False reads a cohort that is not ``labelled``, and also takes images that have no masks, to be
            segmented: nnU-Net's ``imagesTs`` where there is no ``labelsTs``, and what the decathlon's ``dataset.json``
            lists under ``test``.

    Returns:
        The cohort, its cases in order of their ids. Names that UTF-8 cannot hold are escaped (`documents.escaped`).

    Raises:
        ValueError: no such folder, no cases in it, options that do not fit the layout or each other.
    """
    root = Path(path)
    if not root.is_dir():
        archive = f" (unpack an archive by `seglens unpack {root} --out FOLDER`)" if root.is_file() else ""
        raise ValueError(f"{root} is not a folder; give the data set's folder{archive}")
    require_layout(options.layout)
    name = escaped(name or root.resolve().name)
    source = Source(root, name, options, None if sequences is None else tuple(sequences), with_masks)
    layout = _layout_of(source)
    _refuse_what_is_not_heeded(source, layout)
    found = layout.read(source)
    if not found.cases:
        hint = f" and the pattern images={options.images!r}" if options.images else " or name the layout"
        raise ValueError(f"{root}: no case found in the {layout.name} layout; check the folder{hint}")
    if options.mask_threshold is not None and len(found.labels) != 2:
        raise ValueError(
            f"mask_threshold={options.mask_threshold:g} parts masks into two labels, and there are "
            f"{dict(found.labels)}; give `labels` with the background and one other, or map values by `mask_values`"
        )
    strange = sorted({split for split in found.splits.values() if split not in FRACTIONS})
    strange += sorted(set(found.splits) - {case.id for case in found.cases})
    if strange:
        raise ValueError(
            f"{root}: the {layout.name} layout names the splits or cases {', '.join(strange[:10])}, which there are "
            f"not; splits are {', '.join(FRACTIONS)}"
        )
    reading = options.reading(root)
    labels = {value: escaped(label) for value, label in found.labels.items()}
    given = {escaped(case_id): split for case_id, split in found.splits.items()}
    cases = tuple(
        replace(
            case,
            id=escaped(case.id),
            patient=escaped(case.patient),
            volume=escaped(case.volume),
            images={escaped(sequence): ref for sequence, ref in case.images.items()},
            reading=reading,
            mask_threshold=options.mask_threshold,
        )
        for case in found.cases
    )
    cases = tuple(sorted(cases, key=lambda case: (case.volume, case.position or 0, case.id)))
    present = in_order({sequence for case in cases for sequence in case.images})
    chosen = tuple(canonical_sequence(sequence) for sequence in sequences) if sequences is not None else present
    absent = [sequence for sequence in chosen if sequence not in present]
    if absent:
        raise ValueError(f"{root}: no case has {', '.join(absent)}; there are {', '.join(present) or 'no images'}")
    unfollowed = tuple(source.listing[1]) if "listing" in vars(source) else ()
    deal = partial(_deal, given=given, fractions=fractions, seed=seed)
    return Cohort(name, cases, chosen, labels, deal(cases), unfollowed, deal, with_masks)


def _layout_of(source: Source) -> Layout:
    """The layout that the options name, or the first that fits; installed packages are asked where none of ours is."""
    wanted = source.options.layout
    if wanted in LAYOUTS:
        return _own(wanted)
    if wanted != AUTO:
        return layouts()[wanted]
    own = next((layout for layout in map(_own, LAYOUTS) if layout.detect(source)), None)
    if own is not None:
        return own
    everything = layouts()
    for name, layout in everything.items():
        if name not in LAYOUTS and layout.detect(source):
            return layout
    known = "; ".join(f"{name}: {layout.looks_like}" for name, layout in everything.items())
    raise ValueError(f"{source.root} looks like none of the layouts ({known}); name the layout, or give another folder")


def _refuse_what_is_not_heeded(source: Source, layout: Layout) -> None:
    """Refuse options that the layout would pass over."""
    unheeded = [name for name in source.options.given() if name not in layout.options]
    if unheeded:
        heeded = f"heeds {', '.join(sorted(layout.options))}" if layout.options else "heeds none of its kind"
        raise ValueError(
            f"{source.root} is read as {layout.name}, which does not heed {', '.join(unheeded)} ({layout.name} "
            f"{heeded}); leave that out, or name another layout"
        )


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
