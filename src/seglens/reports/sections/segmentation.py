"""Scores of every segmenter on every cohort, in every convention, each with its n."""

from collections.abc import Mapping, Sequence
from typing import Any

from seglens.reports.blocks import Block, Cell, Fold, Paragraph, Section, head, table
from seglens.reports.palette import heat
from seglens.reports.wording import CONVENTIONS, UNDEFINED, classes_of, count, defined, dig, number, plain, score


def segmentation_section(summary: Mapping[str, Any]) -> Section:
    """A heat table cohort x cohort, then everything behind it."""
    segmenters = summary.get("segmenters") or []
    intro = (
        "How well each model segments its own cohort and the others. A model that does well at home and badly away has "
        "met a population shift; whether its latents can mend that is asked further down."
    )
    if not any(one.get("scores") for one in segmenters):
        blocks: tuple[Block, ...] = (Paragraph("No segmenter was scored.", "missing"),)
        return Section("segmentation", "Segmentation", intro, blocks)
    cohorts = [one["name"] for one in summary.get("cohorts") or []]
    cohorts += [name for one in segmenters for name in one.get("scores") or {} if name not in cohorts]
    cohorts = list(dict.fromkeys(cohorts))
    details: list[Block] = [Fold(*_details(one)) for one in segmenters if one.get("scores")]
    return Section(
        "segmentation", "Segmentation", intro, (_matrix(segmenters, cohorts), _conventions(segmenters), *details)
    )


def _matrix(segmenters: Sequence[Mapping[str, Any]], cohorts: Sequence[str]) -> Block:
    rows = []
    for one in segmenters:
        cells = []
        for cohort in cohorts:
            value = score(dig(one, "scores", cohort), "dice_pooled", "foreground")
            fill, ink = heat(value) if value is not None else ("", "")
            cells.append(Cell(number(value), "", fill, ink, strong=cohort == one.get("trained_on")))
        rows.append((head(plain(one["name"]), f"{one.get('architecture', '')}"), *cells))
    return table(
        "Foreground pooled Dice: model (row) on the test slices of a cohort (column)",
        ("Model", *(plain(cohort) for cohort in cohorts)),
        rows,
        "Mean over the foreground classes; outlined: the cohort that the model was trained on. – : the cohort has "
        "other labels, or was not scored. Dark is low, light is high (0 to 1).",
        heat=True,
    )


def _conventions(segmenters: Sequence[Mapping[str, Any]]) -> Block:
    rows = []
    for one in segmenters:
        for cohort, scores in (one.get("scores") or {}).items():
            cells = [Cell(number(score(scores, key, "foreground")), _n_of(scores, key)) for key in CONVENTIONS]
            background = (scores or {}).get("mean_dice_with_background")
            rows.append((head(plain(one["name"])), head(plain(cohort)), *cells, number(background)))
    return table(
        "Foreground Dice in all four conventions",
        ("Model", "Cohort", *(name[:1].upper() + name[1:] for name in CONVENTIONS.values()), "Pooled, with background"),
        rows,
        "The same masks, counted in four ways. “Empty = 1” counts a slice without the class in mask and prediction as "
        "perfect, which flatters a model that never predicts it. n: slices, volumes, or slices with the class, summed "
        "up as the smallest and largest over the classes. The last column also averages over background, as many "
        "papers do.",
    )


def _n_of(scores: Any, convention: str) -> str:
    counts = [
        int(value) for name in classes_of(scores) if (value := defined(dig(scores, "n", convention, name))) is not None
    ]
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"n {count(low)}" if low == high else f"n {count(low)}–{count(high)}"


def _details(one: Mapping[str, Any]) -> tuple[str, tuple[Block, ...]]:
    rows = [line for cohort, scores in one["scores"].items() for line in score_rows(plain(cohort), scores)]
    title = f"{plain(one['name'])}: every class, every figure"
    return title, (table(f"Scores of {plain(one['name'])}, test slices", ("Cohort", *SCORE_COLUMNS), rows, SCORE_NOTE),)


SCORE_COLUMNS = (
    "Class", *(f"Dice {name}" for name in CONVENTIONS.values()), "Precision", "Recall", "HD95 mm", "Missed",
)  # fmt: skip
SCORE_NOTE = (
    "Precision and recall are pooled. HD95: the 95th percentile of the distance between the two outlines, mean over "
    "the slices where both have the class. Missed: slices that have the class and where the model predicts none of "
    "it; they have no HD95 and are counted here instead of being dropped."
)


def score_rows(first: str, scores: Any) -> list[tuple[Cell | str, ...]]:
    """One table row a class (and the foreground mean): `SCORE_COLUMNS` behind a first cell."""
    rows: list[tuple[Cell | str, ...]] = []
    for name in [*classes_of(scores), "foreground"]:
        cells: list[Cell | str] = [head(first), head("foreground mean" if name == "foreground" else plain(name))]
        for key in CONVENTIONS:
            cells.append(Cell(number(score(scores, key, name)), _n_text(scores, key, name)))
        cells += [number(score(scores, key, name)) for key in ("precision", "recall")]
        cells.append(Cell(number(score(scores, "hd95_mm", name), 1), _n_text(scores, "hd95_mm", name)))
        missed, present = dig(scores, "missed", name), dig(scores, "n", "dice_slice_present", name)
        text = UNDEFINED if defined(missed) is None else count(missed)
        cells.append(Cell(text, f"of {count(present)}" if defined(present) is not None and text != UNDEFINED else ""))
        rows.append(tuple(cells))
    return rows


def _n_text(scores: Any, key: str, name: str) -> str:
    value = defined(dig(scores, "n", key, name))
    return "" if value is None or name == "foreground" else f"n {count(value)}"
