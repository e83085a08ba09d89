"""Pictures of the patients that fail: reference, prediction, and what is wrong in colour; every patient's Dice."""

import base64
from collections.abc import Sequence

import numpy as np
import polars as pl

from seglens.cohorts.slice_set import SliceSet
from seglens.reports.blocks import Block, Fold, Key, Link, Paragraph, Picture, Pictures, Section, table
from seglens.reports.headline import worst_cell
from seglens.reports.palette import CONFUSED, INVENTED, MISSED, class_colours
from seglens.reports.pictures import best_sequence, mask_picture
from seglens.reports.sections.cohorts import class_keys
from seglens.reports.shown_planes import place_of, planes_of
from seglens.reports.wording import number, orientation, plain
from seglens.runs import Run
from seglens.segmenters.class_falls import ClassCell
from seglens.segmenters.score_summary import dice_of_columns
from seglens.segmenters.scoring import Scores
from seglens.segmenters.worst_patients import WorstPatients, patient_dice
from seglens.summaries import Summary

TITLE = "What does the failure look like?"
INTRO = (
    "The worst patients of a cohort that the model does not come from, each at the slice where most is wrong. They are "
    "the worst on purpose: the table shows how typical they are."
)
SIDE = 208
MAX_PAIRS = 6
"""Of a model and a cohort that have pictures."""
MAX_ROWS = 20
"""Patients of a table on the page."""
ERRORS = (("error: missed", MISSED), ("error: invented", INVENTED), ("error: another class", CONFUSED))
KEYS = tuple(Key(words, colour) for words, colour in ERRORS)


def worst_section(run: Run, summary: Summary, cells: Sequence[ClassCell]) -> Section:
    """The pair that fails most is open, others are folded.

    Args:
        run: with scores and slices.
        summary: of the run.
        cells: its classes on its cohorts.
    """
    blocks: list[Block] = []
    for segmenter, cohort in _pairs(summary, cells)[:MAX_PAIRS]:
        shown = _pictures(run, segmenter, cohort, _class_of(cells, segmenter, cohort))
        if shown is not None:
            blocks.append(shown if not blocks else Fold(shown.title, (shown,)))
    if not blocks:
        text = "No pictures: no model was scored on a cohort that it does not come from, or none of it is kept."
        blocks.append(Paragraph(text, "missing"))
    return Section("worst", TITLE, INTRO, (*blocks, *_patients(run, cells)))


def _pairs(summary: Summary, cells: Sequence[ClassCell]) -> list[tuple[str, str]]:
    """Models and other cohorts, the page's first failure first, then by foreground Dice."""
    worst = worst_cell(cells)
    found = [
        (
            (worst is None or (one.name, cohort) != (worst.segmenter, worst.cohort), scores.dice().value or 0.0),
            (one.name, cohort),
        )
        for one in summary.segmenters
        for cohort, scores in one.scores.items()
        if cohort != one.trained_on
    ]
    return [pair for _, pair in sorted(found)]


def _class_of(cells: Sequence[ClassCell], segmenter: str, cohort: str) -> str | None:
    """The class that falls most there."""
    worst = worst_cell([one for one in cells if (one.segmenter, one.cohort) == (segmenter, cohort)])
    return None if worst is None else worst.class_name


def _pictures(run: Run, segmenter: str, cohort: str, name: str | None) -> Pictures | None:
    stage = f"scores/{segmenter}@{cohort}"
    if stage not in run or f"slices/{cohort}" not in run:
        return None
    artifact = run.artifact(stage)
    worst = WorstPatients.read(artifact)
    if worst is None:
        return None
    slices = SliceSet.read(run.artifact(f"slices/{cohort}")).split("test")
    dice = dict(patient_dice(Scores(artifact.table("scores"))).iter_rows())
    rows = list(worst.rows)
    truth = slices.masks(rows)
    wrong = (truth != worst.predicted).sum((2, 3)).argmax(1)
    (images, masks, brains), numbers = planes_of(slices, rows, wrong)
    channel = best_sequence(slices.sequences, name)
    colours = class_colours(slices.labels)
    error_colours = {value: colour for value, (_, colour) in enumerate(ERRORS, 1)}
    pictures = []
    for place, row in enumerate(rows):
        entry = slices.index.row(row, named=True)
        where = place_of(entry, int(numbers[place]), slices)
        predicted = worst.predicted[place, int(numbers[place])].numpy()
        there, called = masks[place] > 0, predicted > 0
        kinds = (there & ~called, ~there & called, there & called & (masks[place] != predicted))
        errors = sum(kind.astype(np.uint8) * value for value, kind in enumerate(kinds, 1))
        score = f"patient's Dice {number(dice.get(entry['patient']))}"
        for words, mask, colour_of, label in (
            ("reference", masks[place], colours, f"{where}: reference"),
            ("prediction", predicted, colours, f"prediction, {score}"),
            ("errors", errors, error_colours, "errors"),
        ):
            uri = mask_picture(images[place, channel], brains[place], mask, colour_of, SIDE)
            pictures.append(Picture(uri, f"{where}: {words}", SIDE, SIDE, label))
    title = f"Worst patients of {plain(segmenter)} on {plain(cohort)}"
    caption = (
        f"{slices.sequences[channel]} slices, {orientation(slices.sequences)} A patient's Dice: pooled over the "
        "patient's slices, mean over the classes in the mask."
    )
    return Pictures(title, tuple(pictures), caption, (*class_keys(slices.labels), *KEYS), per_row=3)


def _patients(run: Run, cells: Sequence[ClassCell]) -> list[Block]:
    """Dice of every patient and class, in a fold and as a file."""
    parts = []
    for segmenter, cohort in dict.fromkeys((one.segmenter, one.cohort) for one in cells):
        counts = run.artifact(f"scores/{segmenter}@{cohort}").table("scores").filter(pl.col("label") > 0)
        of_patient = counts.group_by("patient", "class", maintain_order=True).agg(
            pl.col("tp", "predicted", "truth").sum()
        )
        names = (pl.lit(segmenter).alias("model"), pl.lit(cohort).alias("cohort"))
        parts.append(
            of_patient.select(*names, "patient", "class", dice_of_columns().alias("dice"), "tp", "predicted", "truth")
        )
    if not parts:
        return []
    rows = pl.concat(parts)
    text = base64.b64encode(rows.write_csv().encode()).decode()
    link = Link("Every patient and class as a table (CSV)", f"data:text/csv;base64,{text}", "patients.csv")
    return [Fold("Dice of every patient", (*_tables(rows), link))]


def _tables(rows: pl.DataFrame) -> list[Block]:
    blocks: list[Block] = []
    for (model, cohort), own in rows.group_by("model", "cohort", maintain_order=True):
        wide = own.pivot("class", index="patient", values="dice", maintain_order=True)
        classes = wide.columns[1:]
        order = wide.with_columns(pl.mean_horizontal(classes).alias("_mean")).sort("_mean", "patient").drop("_mean")
        cells = [(row[0], *(number(value) for value in row[1:])) for row in order.head(MAX_ROWS).iter_rows()]
        note = f"The worst {MAX_ROWS} of {order.height}; the file has all." if order.height > MAX_ROWS else ""
        caption = f"{plain(model)} on {plain(cohort)}, worst first"
        blocks.append(table(caption, ("Patient", *map(plain, classes)), cells, note))
    return blocks
