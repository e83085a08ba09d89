"""The main figure: every pair of dictionaries with its shared fraction between floor and ceiling."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from seglens.reports.charts import WIDE, Number, Place, dot, fitted, line, svg, text
from seglens.reports.palette import BLUE, GRID, INK, MUTED, VERMILLION
from seglens.reports.wording import UNDEFINED, number, pair_of, percent
from seglens.summaries import Summary

TOP = 124.0
"""Room above the rows of the stand-alone figure."""
BAND = "#c9d6e2"
TITLE = "Shared latents of every pair of models, between floor and ceiling"


@dataclass(frozen=True)
class RangeRow:
    """One pair: shares in 0..1, None where undefined."""

    label: str
    sub: str
    raw: float | None
    floor: float | None
    ceiling: float | None
    other_seed: float | None
    calibrated: float | None
    by_weight: float | None
    by_function: float | None
    function_floor: float | None


def range_rows(summary: Summary) -> list[RangeRow]:
    """The pairs of a summary, most alike first, those without floor or ceiling last."""
    rows = []
    for entry in summary.alignments:
        facts = [
            fact(entry.same_segmenter_start, "common start", "separate starts"),
            fact(entry.same_sae_seed, "same SAE seed", "other SAE seed"),
        ]
        rows.append(
            RangeRow(
                label=pair_of(entry),
                sub=", ".join(fact for fact in facts if fact),
                raw=entry.shared,
                floor=entry.floor,
                ceiling=entry.ceiling,
                other_seed=entry.ceiling_other_seed,
                calibrated=entry.calibrated,
                by_weight=entry.functional.matched_by_weight,
                by_function=entry.functional.matched_by_function,
                function_floor=entry.functional.floor,
            )
        )
    return sorted(rows, key=lambda one: (one.raw is None, one.calibrated is None, -(one.calibrated or 0.0)))


def fact(value: bool | None, yes: str, no: str) -> str:
    """The word for a yes or a no; nothing where it is not known."""
    return "" if value is None else yes if value else no


def range_chart(rows: Sequence[RangeRow], *, width: int = WIDE, title: str = TITLE) -> Markup:
    """A row a pair: a bar from floor to ceiling, the raw share on it, and the numbers that can be read behind it.

    Args:
        rows: from top to bottom.
        width: of the view box; below 560 the label stands above its bar and the numbers below it.
        title: said by screen readers.
    """
    return _narrow(rows, width, title) if width < 560 else _wide(rows, width, title)


def main_figure(summary: Summary) -> str:
    """The main figure as a stand-alone SVG file with its own legend and title.

    Args:
        summary: of a run.

    Returns:
        SVG text; without alignments a drawing that says so.
    """
    rows = range_rows(summary)
    if not rows:
        return str(
            svg(WIDE, 60, TITLE, [text(20, 36, "No pair of dictionaries was compared in this run.", colour=MUTED)])
        )
    body = _wide_parts(rows, WIDE, top=TOP)
    legend = [
        f'<rect x="0" y="0" width="{WIDE}" height="{_wide_height(rows, TOP):g}" fill="#ffffff"/>',
        text(16, 26, "Which latents do two models share?", size=17, bold=True),
        text(
            16, 46, "Share of live latents matched at the threshold. Read it only between its floor and its ceiling.",
            colour=MUTED,
        ),
    ]  # fmt: skip
    x = 16.0
    for kind, words in LEGEND:
        legend += _marker(kind, x + 8, 66)
        legend.append(text(x + 22, 70, words, colour=MUTED, size=11.5))
        x += 34 + 5.9 * len(words)
    return str(svg(WIDE, _wide_height(rows, TOP), TITLE, [*legend, *body]))


LEGEND = (
    ("floor", "floor (rotated null)"),
    ("raw", "raw share"),
    ("ceiling", "ceiling (same model, other order)"),
    ("seed", "same model, other SAE seed"),
)
"""Marker and what it means."""


def _marker(kind: str, x: Number, y: Number) -> list[str]:
    if kind == "floor":
        return [line(x, y - 8, x, y + 8, colour=VERMILLION, width=3)]
    if kind == "ceiling":
        return [line(x, y - 8, x, y + 8, colour=INK, width=3)]
    if kind == "raw":
        return [dot(x, y, 6, BLUE)]
    return [dot(x, y, 4.5, MUTED, hollow=True)]


def _bar(one: RangeRow, at: Place, y: Number) -> list[str]:
    parts = []
    if one.floor is not None and one.ceiling is not None:
        low, high = sorted((at(one.floor), at(one.ceiling)))
        parts.append(
            f'<rect x="{low:.1f}" y="{y - 5:.1f}" width="{max(high - low, 1):.1f}" height="10" rx="2" fill="{BAND}"/>'
        )
    for kind, value in (("seed", one.other_seed), ("floor", one.floor), ("ceiling", one.ceiling), ("raw", one.raw)):
        if value is not None:
            parts += _marker(kind, at(min(1.0, max(0.0, value))), y)
    if one.raw is None:
        parts.append(text(at(0) + 6, y + 4, "not comparable by weights", colour=MUTED, size=11.5))
    return parts


ROW = 44.0


def _wide_height(rows: Sequence[RangeRow], top: Number) -> Number:
    return top + ROW * len(rows) + 34


def _wide(rows: Sequence[RangeRow], width: int, title: str) -> Markup:
    return svg(width, _wide_height(rows, 44), title, _wide_parts(rows, width, top=44))


def _wide_parts(rows: Sequence[RangeRow], width: int, top: Number) -> list[str]:
    labels = [20 + 7.4 * len(one.label) for one in rows]
    left = min(240.0, max(150.0, *labels, *(22 + 5.9 * len(one.sub) for one in rows)))
    right = width - 286.0
    centres = (right + 68, right + 154, right + 240)

    def at(share: Number) -> Number:
        return left + 8 + share * (right - left - 16)

    bottom = top + ROW * len(rows)
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(at(tick), top - 6, at(tick), bottom, colour=GRID))
        parts.append(text(at(tick), bottom + 16, percent(tick), anchor="middle", colour=MUTED, size=11))
    headings = (("calibrated", "share"), ("correlation,", "by weight"), ("correlation,", "by function"))
    for centre, (first, second) in zip(centres, headings, strict=True):
        parts.append(text(centre, top - 24, first, anchor="middle", colour=MUTED, size=11))
        parts.append(text(centre, top - 11, second, anchor="middle", colour=MUTED, size=11))
    for place, one in enumerate(rows):
        y = top + ROW * (place + 0.5)
        if place:
            parts.append(line(8, y - ROW / 2, width - 8, y - ROW / 2, colour="#eef1f4"))
        parts.append(text(16, y - 1 if one.sub else y + 4, fitted(one.label, left - 20), bold=True))
        if one.sub:
            parts.append(text(16, y + 13, fitted(one.sub, left - 16, 10.5), colour=MUTED, size=10.5))
        parts += _bar(one, at, y)
        parts.append(text(centres[0], y + 5, number(one.calibrated), anchor="middle", size=16, bold=True))
        parts.append(text(centres[1], y + 4, number(one.by_weight), anchor="middle"))
        floor = "" if one.function_floor is None else f"null {number(one.function_floor)}"
        parts.append(text(centres[2], y - 1 if floor else y + 4, number(one.by_function), anchor="middle"))
        if floor:
            parts.append(text(centres[2], y + 13, floor, anchor="middle", colour=MUTED, size=10.5))
    parts.append(
        text(
            (left + right) / 2,
            bottom + 31,
            "share of live latents called shared",
            anchor="middle",
            colour=MUTED,
            size=11,
        )
    )
    return parts


def _narrow(rows: Sequence[RangeRow], width: int, title: str) -> Markup:
    step, top = 92.0, 6.0

    def at(share: Number) -> Number:
        return 14 + share * (width - 28)

    bottom = top + step * len(rows)
    parts = []
    for place, one in enumerate(rows):
        y = top + step * place
        parts.append(text(6, y + 16, fitted(one.label, width - 12, 13), bold=True, size=13))
        parts += [line(at(tick), y + 26, at(tick), y + 48, colour=GRID) for tick in (0.0, 0.25, 0.5, 0.75, 1.0)]
        parts += _bar(one, at, y + 37)
        words = f"calibrated {number(one.calibrated)}"
        parts.append(text(6, y + 65, words, bold=True))
        parts.append(
            text(
                16 + 7.2 * len(words), y + 65,
                f"fire together {number(one.by_weight)}; by function {number(one.by_function)}", colour=MUTED, size=11,
            )
        )  # fmt: skip
        tail = (
            one.sub
            if one.function_floor is None
            else f"{one.sub}{'; ' if one.sub else ''}null by function {number(one.function_floor)}"
        )
        parts.append(text(6, y + 80, fitted(tail or UNDEFINED, width - 12, 10.5), colour=MUTED, size=10.5))
    for tick in (0.0, 0.5, 1.0):
        parts.append(text(at(tick), bottom + 12, percent(tick), anchor="middle", colour=MUTED, size=11))
    return svg(width, bottom + 20, title, parts)
