"""Scores of every segmenter on every cohort, in every convention, each with its n."""

from collections.abc import Sequence

from seglens.cohorts.label_names import FOREGROUND
from seglens.reports.blocks import Block, Cell, Fold, Paragraph, Section, head, table
from seglens.reports.palette import heat
from seglens.reports.wording import CONVENTIONS, UNDEFINED, count, number, plain
from seglens.segmenters.score_summary import ScoreSummary
from seglens.summaries import SegmenterRecord, Summary


def segmentation_section(summary: Summary) -> Section:
    """A heat table cohort x cohort, then everything behind it."""
    segmenters = summary.segmenters
    intro = (
        "How well each model segments its own cohort and the others. A model that does well at home and badly away has "
        "met a population shift; whether its latents can mend that is asked further down."
    )
    if not any(one.scores for one in segmenters):
        blocks: tuple[Block, ...] = (Paragraph("No segmenter was scored.", "missing"),)
        return Section("segmentation", "Segmentation", intro, blocks)
    cohorts = [one.name for one in summary.cohorts]
    details: list[Block] = [Fold(*_details(one)) for one in segmenters if one.scores]
    return Section(
        "segmentation", "Segmentation", intro, (_matrix(segmenters, cohorts), _conventions(segmenters), *details)
    )


def _matrix(segmenters: Sequence[SegmenterRecord], cohorts: Sequence[str]) -> Block:
    rows = []
    for one in segmenters:
        cells = []
        for cohort in cohorts:
            value = one.scores[cohort].dice().value if cohort in one.scores else None
            fill, ink = heat(value) if value is not None else ("", "")
            cells.append(Cell(number(value), "", fill, ink, strong=cohort == one.trained_on))
        rows.append((head(plain(one.name), one.architecture), *cells))
    return table(
        "Foreground pooled Dice: model (row) on the test slices of a cohort (column)",
        ("Model", *(plain(cohort) for cohort in cohorts)),
        rows,
        "Mean over the foreground classes; outlined: the cohort that the model was trained on. – : the cohort has "
        "other labels, or was not scored. Dark is low, light is high (0 to 1).",
        heat=True,
    )


def _conventions(segmenters: Sequence[SegmenterRecord]) -> Block:
    rows = []
    for one in segmenters:
        for cohort, scores in one.scores.items():
            cells = [Cell(number(scores.score(key).value), _n_of(scores, key)) for key in CONVENTIONS]
            background = number(scores.mean_dice_with_background)
            rows.append((head(plain(one.name)), head(plain(cohort)), *cells, background))
    return table(
        "Foreground Dice in all four conventions",
        ("Model", "Cohort", *(name[:1].upper() + name[1:] for name in CONVENTIONS.values()), "Pooled, with background"),
        rows,
        "The same masks, counted in four ways. “Empty = 1” counts a slice without the class in mask and prediction as "
        "perfect, which flatters a model that never predicts it. n: slices, volumes, or slices with the class, summed "
        "up as the smallest and largest over the classes. The last column also averages over background, as many "
        "papers do.",
    )


def _n_of(scores: ScoreSummary, convention: str) -> str:
    counts = [scores.score(convention, name).n for name in scores.classes]
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"n {count(low)}" if low == high else f"n {count(low)}–{count(high)}"


def _details(one: SegmenterRecord) -> tuple[str, tuple[Block, ...]]:
    rows = [line for cohort, scores in one.scores.items() for line in score_rows(plain(cohort), scores)]
    title = f"{plain(one.name)}: every class, every figure"
    return title, (table(f"Scores of {plain(one.name)}, test slices", ("Cohort", *SCORE_COLUMNS), rows, SCORE_NOTE),)


SCORE_COLUMNS = (
    "Class", *(f"Dice {name}" for name in CONVENTIONS.values()), "Precision", "Recall", "HD95 mm", "Missed",
)  # fmt: skip
SCORE_NOTE = (
    "Precision and recall are pooled. HD95: the 95th percentile of the distance between the two outlines, mean over "
    "the slices where both have the class. Missed: slices that have the class and where the model predicts none of "
    "it; they have no HD95 and are counted here instead of being dropped."
)


def score_rows(first: str, scores: ScoreSummary) -> list[tuple[Cell | str, ...]]:
    """One table row a class (and the foreground mean): `SCORE_COLUMNS` behind a first cell."""
    rows: list[tuple[Cell | str, ...]] = []
    for name in (*scores.classes, FOREGROUND):
        cells: list[Cell | str] = [head(first), head("foreground mean" if name == FOREGROUND else plain(name))]
        for key in CONVENTIONS:
            cells.append(Cell(number(scores.score(key, name).value), _n_text(scores, key, name)))
        cells += [number(scores.score(key, name).value) for key in ("precision", "recall")]
        cells.append(Cell(number(scores.score("hd95_mm", name).value, 1), _n_text(scores, "hd95_mm", name)))
        present = scores.dice(name, "slice_present").n
        cells.append(
            Cell(UNDEFINED) if name == FOREGROUND else Cell(count(scores.missed[name]), f"of {count(present)}")
        )
        rows.append(tuple(cells))
    return rows


def _n_text(scores: ScoreSummary, key: str, name: str) -> str:
    return "" if name == FOREGROUND else f"n {count(scores.score(key, name).n)}"
