"""The data: counts, sample slices with their masks, and what was left out and why."""

from collections.abc import Mapping, Sequence

import numpy as np

from seglens.cohorts.slice_set import SliceSet
from seglens.reports.blocks import Block, Fold, Heading, Key, Paragraph, Picture, Pictures, Section, head, table
from seglens.reports.palette import class_colours
from seglens.reports.pictures import best_sequence, mask_picture
from seglens.reports.shown_planes import place_of, planes_of
from seglens.reports.wording import UNDEFINED, count, listed, orientation, percent, plain
from seglens.runs import Run
from seglens.summaries import CohortRecord, Summary

SAMPLES = 4
CANDIDATES = 300
"""Slices looked at for samples; of a larger cohort evenly spaced ones."""
SIDE = 208
BLANKED = 12
"""So many of the worst rows of blanked labels are listed."""


def cohorts_section(run: Run, summary: Summary) -> Section:
    """One table of counts, then each cohort with a row of slices."""
    cohorts = summary.cohorts
    blocks: list[Block] = []
    if cohorts:
        blocks.append(_counts(cohorts))
    else:
        blocks.append(Paragraph("No cohort was prepared.", "missing"))
    blocks += _quarantined(run, cohorts)
    for cohort in cohorts:
        stage = f"slices/{cohort.name}"
        if stage in run:
            slices = SliceSet.read(run.artifact(stage))
            blocks += [_samples(cohort, slices), *_shown(slices)]
        else:
            blocks.append(Paragraph(f"No slices of {plain(cohort.name)} are kept in this run.", "missing"))
    intro = (
        "Patients, not slices, are split: models and dictionaries learn from “train”, latents and strengths are chosen "
        "on “val”, and every figure is measured on “test”."
    )
    return Section("cohorts", "Cohorts", intro, tuple(blocks))


def class_keys(labels: Mapping[int, str]) -> tuple[Key, ...]:
    """The legend of the mask colours."""
    return tuple(Key(plain(labels[value]), colour) for value, colour in class_colours(labels).items())


def sample_rows(slices: SliceSet, wanted: int = SAMPLES) -> list[int]:
    """Rows that show a cohort: many classes, a typical lesion, each from another patient; test slices first.

    Of a cohort without masks a typical extent of the foreground.

    Args:
        slices: the cohort.
        wanted: how many rows at most.
    """
    splits, patients = slices.index["split"].to_list(), slices.index["patient"].to_list()
    rows = [row for row, split in enumerate(splits) if split == "test"] or list(range(len(slices)))
    step = max(1, len(rows) // CANDIDATES)
    rows = rows[::step]
    masks = (slices.masks(rows) if slices.labelled else slices.brains(rows)).numpy()
    areas = (masks > 0).reshape(len(rows), -1).sum(1)
    n_classes = np.array([len(np.unique(mask[mask > 0])) for mask in masks])
    typical = np.percentile(areas[areas > 0], 70) if (areas > 0).any() else 0.0
    order = sorted(range(len(rows)), key=lambda place: (-n_classes[place], abs(areas[place] - typical), place))
    chosen: list[int] = []
    for one_each in (True, False):
        for place in order:
            seen = {patients[row] for row in chosen}
            if len(chosen) < wanted and rows[place] not in chosen and not (one_each and patients[rows[place]] in seen):
                chosen.append(rows[place])
    return chosen


def _samples(cohort: CohortRecord, slices: SliceSet) -> Pictures:
    rows = sample_rows(slices)
    channel = best_sequence(slices.sequences, None if _has_lesions(slices.labels) else "anatomy")
    colours = class_colours(slices.labels)
    (images, masks, brains), numbers = planes_of(slices, rows)
    pictures = []
    for place, row in enumerate(rows):
        entry = slices.index.row(row, named=True)
        present = [plain(slices.labels[value]) for value in np.unique(masks[place]).tolist() if value]
        label = place_of(entry, int(numbers[place]), slices)
        pictures.append(
            Picture(
                mask_picture(images[place, channel], brains[place], masks[place], colours, SIDE),
                f"{slices.sequences[channel]} slice of {label}"
                + (f", with {listed(present) or 'no labelled region'} marked" if slices.labelled else ""),
                SIDE,
                SIDE,
                label,
            )
        )
    name = plain(cohort.name)
    title = name[:1].upper() + name[1:]
    kind = ""
    if cohort.phantom is not None:
        factors = cohort.phantom.factors
        kind = f"Phantoms of the population “{plain(cohort.phantom.population)}”"
        kind += (
            f" with {listed(f'{plain(k)} taken from {plain(v)}' for k, v in factors.items())}. " if factors else ". "
        )
    masked = "with the reference masks" if slices.labelled else "without masks"
    caption = f"{kind}{slices.sequences[channel]} slices {masked}, {orientation(slices.sequences)}"
    return Pictures(title, tuple(pictures), caption, class_keys(slices.labels) if slices.labelled else ())


_RULES = {
    "brain": "the stripped brain (of volumes that are not stripped: the body), everything else is 0",
    "nonzero": "the pixels that are not 0",
    "none": "every pixel",
}


def _shown(slices: SliceSet) -> list[Block]:
    """Preprocessing of the images that a network is shown, and the label pixels that it is not shown."""
    own = slices.preprocessing
    if own is None:
        return []
    low, high = own.clip_percentiles
    rule = f"{_RULES.get(own.foreground, 'by a rule of its own')} (foreground: {own.foreground})"
    text = (
        f"A network is shown {rule}, clipped to the percentiles {low:g} to {high:g} and brought to mean 0 and spread "
        "1, volume by volume. "
    )
    if not slices.labelled:
        return [Paragraph(f"{text}The cohort has no masks: nothing is scored on it.", "note")]
    if not slices.blanked:
        return [Paragraph(f"{text}No label pixel of this cohort is blanked by that.", "note")]
    worst = sorted(slices.blanked, key=lambda one: (-one.share, one.case, one.label))[:BLANKED]
    rows = [
        (head(one.case), head(plain(one.label)), count(one.blanked), count(one.pixels), percent(one.share, 2))
        for one in worst
    ]
    n_cases = len({one.case for one in slices.blanked})
    caption = f"Label pixels that are blanked, in {count(n_cases)} cases; the largest shares"
    note = "Nothing can be found where nothing is shown: with “foreground: none” every pixel is kept."
    blanked = table(caption, ("Case", "Class", "Blanked", "Of", "Share"), rows, note)
    return [Paragraph(f"{text}That blanks pixels under labels.", "note"), blanked]


def _has_lesions(labels: Mapping[int, str]) -> bool:
    lesions = ("edema", "enhancing", "necrotic_core", "tumour", "tumor", "lesion")
    return any(name in lesions for name in labels.values())


def _counts(cohorts: Sequence[CohortRecord]) -> Block:
    rows = []
    for one in cohorts:
        parts = [
            f"{count(one.splits[split].patients)} / {count(one.splits[split].slices)}"
            if split in one.splits
            else f"{UNDEFINED} / {UNDEFINED}"
            for split in ("train", "val", "test")
        ]
        numbers = [count(number) for number in (one.n_cases, one.n_patients, one.n_slices)]
        without = one.splits["test"].slices_without_label if "test" in one.splits else None
        names = [plain(name) for value, name in sorted(one.labels.items()) if value]
        rows.append(
            (
                head(plain(one.name), "phantoms" if one.phantom else ""),
                *numbers,
                *parts,
                count(without),
                count(one.n_quarantined),
                head(", ".join(one.sequences) or UNDEFINED),
                head(", ".join(names) or UNDEFINED),
            )
        )
    columns = (
        *("Cohort", "Cases", "Patients", "Slices", "Train", "Val", "Test"),
        *("Test slices without label", "Left out", "Sequences", "Classes"),
    )
    note = (
        "Train, val and test: patients / slices. Every figure is over the slices that were kept, which are chosen by "
        "where the labels are; the fewer slices without a label, the fewer false alarms can be seen. Left out: "
        "quarantined cases."
    )
    return table("Cohorts", columns, rows, note)


def _quarantined(run: Run, cohorts: Sequence[CohortRecord]) -> list[Block]:
    rows, missing = [], []
    for one in cohorts:
        stage = f"check/{one.name}"
        if stage not in run:
            missing.append(plain(one.name))
            continue
        document = run.artifact(stage).document("check")
        left_out = set(document.get("quarantined") or [])
        for finding in document.get("findings") or []:
            outcome = "left out" if finding.get("case") in left_out else "kept"
            cells = [str(finding.get(key) or UNDEFINED) for key in ("case", "file", "what", "fix")]
            file = cells[1].replace("\\", "/").rsplit("/", 1)[-1]
            rows.append(
                (head(plain(one.name)), head(cells[0]), head(outcome), head(file), head(cells[2]), head(cells[3]))
            )
    if not rows:
        text = "Every file was checked before use, and nothing was found wrong."
        if missing:
            text = f"No check of the files is kept for {listed(missing)}."
        return [Paragraph(text, "note")]
    columns = ("Cohort", "Case", "Outcome", "File", "What is wrong", "Fix")
    found = table("Findings of the file check", columns, rows)
    if len(rows) > 12:
        return [Fold(f"{len(rows)} findings of the file check, with their fixes", (found,))]
    return [Heading("Files with faults"), found]
