"""Drawings as SVG text: lines over an axis, bars, and the pieces of others. Every text in them is escaped."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import Markup, escape

from seglens.reports.palette import BLUE, GRID, INK, MUTED, PAPER
from seglens.reports.wording import number

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
Number: TypeAlias = float | int
"""Either; the run-time check of types takes a whole number for no float."""
Place: TypeAlias = Callable[[Number], Number]
"""From a value to its pixel."""
WIDE = 760
FEW = 8
"""Places on an axis that are all named, round or not."""
NARROW = 350


@dataclass(frozen=True)
class Series:
    """A line; points whose y is None break it."""

    name: str
    x: tuple[Number, ...]
    y: tuple[Number | None, ...]
    colour: str
    dash: str = ""
    markers: bool = True


@dataclass(frozen=True)
class Level:
    """A horizontal line across the chart."""

    name: str
    y: Number
    colour: str
    dash: str


@dataclass(frozen=True)
class Bar:
    """One bar from ``start`` to ``value``; ``text`` stands at its end."""

    label: str
    value: Number | None
    text: str
    colour: str = BLUE
    strong: bool = False


@dataclass(frozen=True)
class Dot:
    """A value with its interval; without one a ring, and ``text`` stands at the end of the row."""

    label: str
    value: Number
    low: Number | None
    high: Number | None
    text: str
    colour: str = BLUE
    strong: bool = False


def svg(width: Number, height: Number, title: str, parts: Iterable[str]) -> Markup:
    """A whole drawing that scales to its box; ``title`` is what a screen reader says."""
    body = "".join(parts)
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(title)}" font-family="{FONT}" font-size="12" '
        f'fill="{INK}"><title>{escape(title)}</title>{body}</svg>'
    )


def text(
    x: Number,
    y: Number,
    content: str,
    *,
    anchor: str = "start",
    colour: str = INK,
    size: Number = 12,
    bold: bool = False,
) -> str:
    """One line of text; ``y`` is its baseline."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size:g}"{weight}>'
        f"{escape(content)}</text>"
    )


def line(
    x1: Number, y1: Number, x2: Number, y2: Number, *, colour: str = GRID, width: Number = 1, dash: str = ""
) -> str:
    """One straight line."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}"{dashed}/>'
    )


def dot(x: Number, y: Number, radius: Number, colour: str, *, hollow: bool = False) -> str:
    """A filled circle, or a ring."""
    fill, stroke, width = (PAPER, colour, 2) if hollow else (colour, PAPER, 1)
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}" stroke="{stroke}" stroke-width="{width:g}"/>'
    )


def fitted(content: str, width: Number, size: Number = 12) -> str:
    """The text, cut with an ellipsis where it would be wider than ``width`` pixels (by an average letter)."""
    room = max(3, int(width / (size * 0.54)))
    return content if len(content) <= room else content[: room - 1].rstrip() + "…"


def nice_ticks(low: Number, high: Number, wanted: int = 5) -> list[Number]:
    """Round numbers that cover ``low``..``high``, about ``wanted`` of them."""
    if not math.isfinite(low) or not math.isfinite(high) or high <= low:
        high = low + 1.0 if math.isfinite(low) else 1.0
        low = low if math.isfinite(low) else 0.0
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def stretched(x: Number) -> Number:
    """A place on a symmetric logarithmic axis: sign(x) log2(1 + |x|)."""
    return math.copysign(math.log2(1 + abs(x)), x)


def line_chart(
    title: str,
    series: Sequence[Series],
    levels: Sequence[Level],
    *,
    x_label: str,
    y_label: str,
    width: int = WIDE,
    height: int = 320,
    marks: Sequence[tuple[Number, str]] = (),
    y_limits: tuple[Number, Number] | None = None,
) -> Markup:
    """Lines over a numeric axis with horizontal reference lines.

    Args:
        title: said by screen readers.
        series: the lines; x ascending.
        levels: the reference lines, for example baselines.
        x_label: under the axis.
        y_label: above the axis.
        width: of the view box; fonts keep their size, so a narrow chart is drawn anew, not shrunk.
        height: of the view box.
        marks: vertical lines, for example the chosen setting, each with a word at its top.
        y_limits: values that the axis must reach, so that several drawings share it.
    """
    left, right, top, bottom = 46, 14, 34, 44
    xs = sorted({x for one in series for x in one.x} | {x for x, _ in marks}) or [0.0, 1.0]
    ys = [y for one in series for y in one.y if y is not None] + [level.y for level in levels] + list(
        y_limits or ()
    ) or [0.0, 1.0]
    lowest, highest = min(0.0, *ys), max(ys)
    y_ticks = nice_ticks(lowest, highest if highest > lowest else lowest + 1)
    logarithmic = max(abs(x) for x in xs) > 12
    places = [stretched(x) if logarithmic else x for x in xs]
    x_low, x_high = places[0], places[-1] if places[-1] > places[0] else places[0] + 1

    def at_x(x: Number) -> Number:
        share = ((stretched(x) if logarithmic else x) - x_low) / (x_high - x_low)
        return left + 8 + share * (width - left - right - 16)

    def at_y(y: Number) -> Number:
        share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return height - bottom - share * (height - top - bottom)

    parts = [text(4, 14, y_label, colour=MUTED)]
    for tick in y_ticks:
        parts.append(line(left, at_y(tick), width - right, at_y(tick)))
        parts.append(text(left - 6, at_y(tick) + 4, f"{tick:g}".replace("-", "−"), anchor="end", colour=MUTED))
    ticks = _spaced([x for x in xs if not logarithmic or len(xs) <= FEW or _round(x)], at_x, 34)
    for x in ticks:
        parts.append(line(at_x(x), height - bottom, at_x(x), height - bottom + 4, colour=MUTED))
        parts.append(text(at_x(x), height - bottom + 18, _short(x), anchor="middle", colour=MUTED))
    parts.append(text((left + width - right) / 2, height - 6, x_label, anchor="middle", colour=MUTED))
    for x, word in marks:
        parts.append(line(at_x(x), top, at_x(x), height - bottom, colour=MUTED, dash="1 3", width=1.5))
        half = 3.2 * len(word)
        middle = min(max(at_x(x), left + half), width - right - half)
        parts.append(text(middle, top - 5, word, anchor="middle", colour=MUTED, size=11))
    for level in levels:
        parts.append(
            line(left, at_y(level.y), width - right, at_y(level.y), colour=level.colour, width=1.3, dash=level.dash)
        )
    for one in series:
        parts += _run_of_points(one, at_x, at_y)
    return svg(width, height, title, parts)


def _run_of_points(one: Series, at_x: Place, at_y: Place) -> list[str]:
    pieces: list[list[tuple[Number, Number]]] = [[]]
    for x, y in zip(one.x, one.y, strict=True):
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((at_x(x), at_y(y)))
    parts = []
    for piece in pieces:
        if len(piece) > 1:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            dashed = f' stroke-dasharray="{one.dash}"' if one.dash else ""
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{one.colour}" stroke-width="2.6" '
                f'stroke-linejoin="round"{dashed}/>'
            )
        if one.markers or len(piece) == 1:
            parts += [dot(x, y, 3.5, one.colour) for x, y in piece]
    return parts


def _round(x: Number) -> bool:
    return x == 0 or (abs(x) >= 1 and float(f"{x:.1g}") == x)


def _short(x: Number) -> str:
    return f"{x:g}".replace("-", "−")


def _spaced(values: Sequence[Number], at: Place, gap: Number) -> list[Number]:
    """Values whose places are at least ``gap`` pixels apart; zero is kept before others."""
    kept: list[Number] = []
    for value in sorted(values, key=lambda v: (v != 0, v != values[0] and v != values[-1], v)):
        if all(abs(at(value) - at(other)) >= gap for other in kept):
            kept.append(value)
    return sorted(kept)


def bar_chart(title: str, bars: Sequence[Bar], *, width: int = WIDE, high: Number | None = None) -> Markup:
    """Horizontal bars from zero, each with its label before and its text behind.

    Args:
        title: said by screen readers.
        bars: from top to bottom; a value of None leaves only the text, a negative one goes left of zero.
        width: of the view box.
        high: value of the full length; None: the largest.
    """
    label_width = min(width * 0.34, max([8.0 * len(bar.label) for bar in bars] or [0]) + 12)
    text_width = max([7.0 * len(bar.text) for bar in bars] or [0]) + 14
    values = [bar.value for bar in bars if bar.value is not None]
    top = max([*values, 0.0]) if high is None else high
    low = min([*values, 0.0])
    span = (top - low) or 1.0
    room = max(40.0, width - label_width - text_width)
    zero = label_width - low / span * room
    parts, step = [], 26
    for place, bar in enumerate(bars):
        y = 4 + place * step
        parts.append(text(label_width - 8, y + 14, fitted(bar.label, label_width - 8), anchor="end", bold=bar.strong))
        length = 0.0 if bar.value is None else bar.value / span * room
        if bar.value is not None:
            x = zero + min(0.0, length)
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 2:.1f}" width="{max(1.0, abs(length)):.1f}" height="16" rx="2" '
                f'fill="{bar.colour}"/>'
            )
        parts.append(text(zero + max(0.0, length) + 6, y + 14, bar.text, bold=bar.strong))
    if bars:
        parts.append(line(zero, 2, zero, 4 + len(bars) * step - 4, colour=MUTED))
    return svg(width, 4 + len(bars) * step, title, parts)


def dot_chart(title: str, dots: Sequence[Dot], *, x_label: str, width: int = WIDE) -> Markup:
    """Values over a common axis with zero marked, each with its interval as a line.

    Args:
        title: said by screen readers.
        dots: from top to bottom.
        x_label: under the axis.
        width: of the view box; below 560 the label stands above its row.
    """
    narrow = width < 560
    step = 40 if narrow else 26
    left = 12.0 if narrow else min(width * 0.4, max([7.2 * len(one.label) for one in dots] or [0]) + 22)
    right = width - max([6.8 * len(one.text) for one in dots] or [0]) - 14
    ends = [end for one in dots for end in (one.value, one.low, one.high) if end is not None]
    ticks = nice_ticks(min(0.0, *ends, 0.0), max(0.0, *ends, 0.0), 3 if narrow else 5)
    bottom = 6 + step * len(dots)

    def at(value: Number) -> Number:
        return left + 6 + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left - 12)

    parts = [line(at(tick), 4, at(tick), bottom, colour=GRID) for tick in ticks]
    parts += [text(at(tick), bottom + 15, _short(tick), anchor="middle", colour=MUTED, size=11) for tick in ticks]
    parts.append(line(at(0), 4, at(0), bottom, colour=MUTED, width=1.5))
    for place, one in enumerate(dots):
        y = 6 + step * (place + 0.5) + (8 if narrow else 0)
        if narrow:
            parts.append(text(4, y - 14, fitted(one.label, width - 8), bold=one.strong))
        else:
            parts.append(text(left - 6, y + 4, fitted(one.label, left - 8), anchor="end", bold=one.strong))
        if one.low is not None and one.high is not None:
            parts.append(line(at(one.low), y, at(one.high), y, colour=one.colour, width=2.5))
        parts.append(dot(at(one.value), y, 5, one.colour, hollow=one.low is None))
        parts.append(text(right + 8, y + 4, one.text, bold=one.strong))
    parts.append(text((left + right) / 2, bottom + 31, x_label, anchor="middle", colour=MUTED, size=11))
    return svg(width, bottom + 38, title, parts)


def colour_scale(title: str, colours: Sequence[str], low: Number | str, high: Number | str) -> Markup:
    """A strip of colours with the values at its two ends."""
    words = [value if isinstance(value, str) else number(value) for value in (low, high)]
    step = 120 / len(colours)
    start = 7.4 * len(words[0]) + 8
    strip = [
        f'<rect x="{start + place * step:.2f}" y="2" width="{step + 0.3:.2f}" height="12" fill="{colour}"/>'
        for place, colour in enumerate(colours)
    ]
    ends = [text(start - 5, 13, words[0], anchor="end", colour=MUTED), text(start + 125, 13, words[1], colour=MUTED)]
    return svg(start + 132 + 7.4 * len(words[1]), 17, title, [*strip, *ends])
