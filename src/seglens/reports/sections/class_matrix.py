"""Dice of every class of every model on every cohort, with intervals over patients; what collapses is marked."""

from collections.abc import Sequence

from seglens.reports.blocks import Block, Cell, Paragraph, Section, head, table
from seglens.reports.palette import heat
from seglens.reports.wording import bracketed, number, plain, plural
from seglens.segmenters.class_falls import COLLAPSE, LEVEL, MIN_DICE, ClassCell, n_asked
from seglens.segmenters.intervals import MIN_PATIENTS
from seglens.summaries import Summary

TITLE = "Which class fails where?"
INTRO = (
    "Pooled Dice of each class (row) on the test patients of each cohort (column): 1 is a perfect mask, 0 is none of "
    "it. Outlined: the model's own cohort. Compare along a row."
)
MARKS = {
    "collapsed": "collapsed",
    "falls": "falls",
    "too few patients": "too few patients",
}
"""What a cell is marked with by its verdict; other verdicts are not marked."""


def matrix_section(summary: Summary, cells: Sequence[ClassCell]) -> Section:
    """One row a model and class, one column a cohort.

    Args:
        summary: of a run.
        cells: its classes on its cohorts.
    """
    if not cells:
        return Section("where", TITLE, "", (Paragraph("No segmenter was scored.", "missing"),))
    known = {(one.segmenter, one.class_name, one.cohort): one for one in cells}
    travelled = {one.segmenter for one in cells if one.cohort != one.home}
    shown = [one for one in cells if one.segmenter in travelled] or list(cells)
    cohorts = [one.name for one in summary.cohorts if any(cell.cohort == one.name for cell in shown)]
    rows = [
        (
            head(plain(name), f"model {plain(segmenter)}"),
            *(_cell(known.get((segmenter, name, cohort))) for cohort in cohorts),
        )
        for segmenter, name in dict.fromkeys((one.segmenter, one.class_name) for one in shown)
    ]
    left_out = [
        plain(one) for one in dict.fromkeys(one.segmenter for one in cells) if one not in {s.segmenter for s in shown}
    ]
    caption = "Pooled Dice [95% interval over patients]"
    blocks: list[Block] = [table(caption, ("Class", *map(plain, cohorts)), rows, _note(cells), heat=True)]
    if left_out:
        text = f"Not shown, for no other cohort has their classes: {', '.join(left_out)}; see Segmentation."
        blocks.append(Paragraph(text, "note"))
    return Section("where", TITLE, INTRO, tuple(blocks))


def _cell(one: ClassCell | None) -> Cell:
    if one is None:
        return Cell("–")
    fill, ink = heat(one.dice.value)
    small = f"{bracketed(one.dice.low, one.dice.high)} {plural(one.n_patients, 'patient')}".strip()
    home = one.verdict == "home"
    mark = "not learnt" if home and one.dice.value < MIN_DICE else MARKS.get(one.verdict, "")
    return Cell(number(one.dice.value), small, fill, ink, home, mark=mark)


def _note(cells: Sequence[ClassCell]) -> str:
    asked = n_asked(cells)
    note = (
        f"Collapsed: surely below {number(COLLAPSE, 1)} times the Dice at home; falls: surely below it. Surely: all "
        f"{plural(asked, 'comparison')} of this table together are wrong with a chance of at most {number(LEVEL)} "
        "where nothing differs (Student's t over patients, Bonferroni). "
        if asked
        else ""
    )
    return note + (
        f"Too few patients: fewer than {MIN_PATIENTS} have the class on one of the two sides. Not learnt: Dice at home "
        f"is below {MIN_DICE:g}, so there is little to lose. Patients: those that have the class in the reference. –: "
        "the cohort has no such class."
    )
