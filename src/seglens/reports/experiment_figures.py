"""Drawings of an experiment's tables: lines, bars with intervals, heat maps, ranges; small multiples of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import polars as pl
from markupsafe import Markup

from seglens.artifacts import finite
from seglens.reports.blocks import Block, Cell, Chart, Heading, Key, Paragraph, Table, head
from seglens.reports.charts import (
    NARROW,
    WIDE,
    Number,
    Series,
    fitted,
    line,
    line_chart,
    nice_ticks,
    svg,
    text,
)
from seglens.reports.figures import RangeRow, range_chart
from seglens.reports.palette import DASHES, INK, MUTED, SERIES, heat
from seglens.reports.wording import UNDEFINED, number, plain

Drawn: TypeAlias = Callable[[pl.DataFrame, int], Markup]
"""Draws a panel's rows at a width."""
ROW = 24
MAX_BARS = 60
LONG_LABEL = 18
"""Letters; panels of bars with longer labels stand below each other."""


@dataclass(frozen=True)
class Figure:
    """A drawing of one of a finding's tables.

    Attributes:
        kind: ``lines`` (``y`` over a numeric ``x``, a line for each of ``series``), ``bars`` (a bar of length ``y`` for
            each ``x``, coloured by ``series``, with an interval from ``low`` to ``high``), ``heat`` (rows ``y``,
            columns ``x``, cells ``value``), or ``ranges`` (shares ``x`` of the pairs ``y`` between their floor ``low``
            and ceiling ``high``).
        table: of the finding.
        title: over the drawing.
        x: column.
        y: column.
        value: column; heat maps, and the calibrated share of ranges.
        series: column; None draws one line, or all bars in one colour.
        panel: column; one small drawing for each of its values.
        low: column of the interval's lower end; bars and ranges.
        high: column of its upper end.
        caption: what the reader must know to read it.
        only: column to the values that are drawn; the others stay in the table.
        own_axes: panels of bars are of different quantities, each on its own axis.
    """

    kind: Literal["lines", "bars", "heat", "ranges"]
    table: str
    title: str
    x: str
    y: str
    value: str | None = None
    series: str | None = None
    panel: str | None = None
    low: str | None = None
    high: str | None = None
    caption: str = ""
    only: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    own_axes: bool = False


def figure_blocks(figure: Figure, table: pl.DataFrame) -> list[Block]:
    """A figure of an experiment as blocks of the page.

    Args:
        figure: what to draw.
        table: the finding's table that it names.
    """
    named = (figure.x, figure.y, figure.value, figure.series, figure.panel, figure.low, figure.high, *figure.only)
    absent = [column for column in named if column is not None and column not in table.columns]
    if absent:
        return [Paragraph(f"{figure.title}: not drawn, its table has no column {', '.join(absent)}.", "missing")]
    for column, values in figure.only.items():
        table = table.filter(pl.col(column).is_in(list(values)))
    if table.is_empty():
        return [Paragraph(f"{figure.title}: there is nothing to draw.", "missing")]
    if figure.kind == "heat":
        return _heat_maps(figure, table)
    if figure.kind == "ranges":
        return [Heading(figure.title), _chart(figure, table, lambda rows, width: _ranges(figure, rows, width), ())]
    names = _distinct(table, figure.series) if figure.series else []
    if figure.kind == "lines":
        keys = tuple(Key(plain(name), _colour(i), "line", _dash(i)) for i, name in enumerate(names))
        limits = _limits(table, [figure.y])
        return [
            Heading(figure.title),
            _chart(figure, table, lambda rows, width: _lines(figure, rows, names, limits, width), keys),
        ]
    keys = tuple(Key(plain(name), _colour(i)) for i, name in enumerate(names))
    drawn = [column for column in (figure.y, figure.low, figure.high) if column]
    common = _limits(table, drawn)

    def bars(rows: pl.DataFrame, width: int) -> Markup:
        return _bars(figure, rows, names, _limits(rows, drawn) if figure.own_axes else common, width)

    return [Heading(figure.title), _chart(figure, table, bars, keys)]


def written(value: Any, digits: int = 2) -> str:
    """Any value of a table as a reader wants it."""
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value).replace("-", "−")
    if isinstance(value, float):
        return number(value, digits)
    if isinstance(value, list):
        return ", ".join(written(one) for one in value)
    return plain(value)


def _chart(figure: Figure, table: pl.DataFrame, draw: Drawn, keys: tuple[Key, ...]) -> Chart:
    """One drawing, or small multiples: two in a row at a desk, one on a phone."""
    if figure.panel is None:
        caption = _with_note_of_cut(figure, [table])
        return Chart(figure.title, draw(table, WIDE), draw(table, NARROW), caption, keys)
    panels = [(plain(name), table.filter(pl.col(figure.panel) == name)) for name in _distinct(table, figure.panel)]
    caption = _with_note_of_cut(figure, [rows for _, rows in panels])
    longest = max(len(plain(label)) for label in table[figure.x].to_list()) if figure.kind == "bars" else 0
    columns = 1 if len(panels) == 1 or longest > LONG_LABEL else 2
    wide = [(name, draw(rows, WIDE // columns - 12)) for name, rows in panels]
    narrow = [(name, draw(rows, NARROW)) for name, rows in panels]
    return Chart(figure.title, _tiled(figure.title, wide, columns), _tiled(figure.title, narrow, 1), caption, keys)


def _with_note_of_cut(figure: Figure, drawings: Sequence[pl.DataFrame]) -> str:
    """The caption, which says so where bars are left out."""
    most = max(rows.height for rows in drawings)
    if figure.kind != "bars" or most <= MAX_BARS:
        return figure.caption
    return f"{figure.caption} The first {MAX_BARS} of up to {most} bars are drawn; the table has all.".lstrip()


def _tiled(title: str, drawings: Sequence[tuple[str, Markup]], columns: int) -> Markup:
    """Drawings side by side, each under its name."""
    parts, top, width = [], 0.0, 0.0
    for start in range(0, len(drawings), columns):
        tallest, left = 0.0, 0.0
        for name, drawing in drawings[start : start + columns]:
            own_width, own_height = _size(drawing)
            parts.append(text(left + 4, top + 15, fitted(name, own_width - 8, 13), size=13, bold=True))
            parts.append(f'<g transform="translate({left:g},{top + 24:g})">{drawing}</g>')
            tallest, left = max(tallest, own_height), left + own_width + 24
        top += tallest + 40
        width = max(width, left - 24)
    return svg(width, top, title, parts)


def _size(drawing: Markup) -> tuple[float, float]:
    """Width and height of a drawing's view box."""
    box = str(drawing).split('viewBox="', 1)[1].split('"', 1)[0].split()
    return float(box[2]), float(box[3])


def _lines(
    figure: Figure, rows: pl.DataFrame, names: Sequence[Any], limits: tuple[Number, Number], width: int
) -> Markup:
    series = []
    for place, name in enumerate(names or [None]):
        own = rows if figure.series is None else rows.filter(pl.col(figure.series) == name)
        own = own.filter(pl.col(figure.x).is_not_null()).sort(figure.x)
        if own.height:
            points = tuple(own[figure.x].to_list()), tuple(finite(value) for value in own[figure.y].to_list())
            series.append(
                Series(plain(name) if name is not None else "", *points, colour=_colour(place), dash=_dash(place))
            )
    return line_chart(
        figure.title,
        series,
        [],
        x_label=plain(figure.x),
        y_label=plain(figure.y),
        width=width,
        height=320 if width > NARROW + 40 else 250,
        y_limits=limits,
    )


def _bars(
    figure: Figure, rows: pl.DataFrame, names: Sequence[Any], limits: tuple[Number, Number], width: int
) -> Markup:
    """Horizontal bars from zero; the rows of one label stand together, their whiskers are the interval."""
    rows = rows.head(MAX_BARS)
    texts = [written(value, _digits(limits)) for value in rows[figure.y].to_list()]
    labels = [plain(value) for value in rows[figure.x].to_list()]
    label_width = min(width * 0.4, 7.0 * max(len(label) for label in labels) + 14)
    room = width - label_width - 7.0 * max(len(one) for one in texts) - 18
    ticks = nice_ticks(min(0.0, limits[0]), max(0.0, limits[1]), 4)
    low, high = ticks[0], ticks[-1]

    def at(value: Number) -> Number:
        return label_width + (value - low) / (high - low) * room

    bottom = 6 + ROW * len(labels)
    parts = []
    for tick in ticks:
        parts.append(line(at(tick), 2, at(tick), bottom, colour=MUTED if tick == 0 else "#d9dee3"))
        parts.append(text(at(tick), bottom + 15, f"{tick:g}".replace("-", "−"), anchor="middle", colour=MUTED, size=11))
    parts.append(text(label_width, bottom + 32, plain(figure.y), colour=MUTED))
    for place, row in enumerate(rows.iter_rows(named=True)):
        y = 4 + ROW * place
        colour = _colour(list(names).index(row[figure.series]) if figure.series else 0)
        if place == 0 or labels[place] != labels[place - 1]:
            parts.append(text(label_width - 8, y + 14, fitted(labels[place], label_width - 8), anchor="end"))
        value = finite(row[figure.y])
        ends = [finite(row[column]) if column else None for column in (figure.low, figure.high)]
        if value is not None:
            start, length = at(min(0.0, value)), max(1.0, abs(at(value) - at(0.0)))
            parts.append(f'<rect x="{start:.1f}" y="{y + 3}" width="{length:.1f}" height="14" rx="2" fill="{colour}"/>')
        if ends[0] is not None and ends[1] is not None:
            parts.append(line(at(ends[0]), y + 10, at(ends[1]), y + 10, colour=INK, width=1.6))
            parts += [line(at(end), y + 6, at(end), y + 14, colour=INK, width=1.6) for end in ends if end is not None]
        furthest = max(one for one in (0.0, value, *ends) if one is not None)
        parts.append(text(at(furthest) + 6, y + 14, texts[place], size=11.5))
    return svg(width, bottom + 38, figure.title, parts)


def _ranges(figure: Figure, rows: pl.DataFrame, width: int) -> Markup:
    """The report's main figure: ``y`` names the pair, ``x`` is the share, ``low`` and ``high`` its bounds."""
    drawn = [
        RangeRow(
            label=plain(row[figure.y]),
            sub=plain(row[figure.series]) if figure.series else "",
            raw=finite(row[figure.x]),
            floor=finite(row.get(figure.low or "")),
            ceiling=finite(row.get(figure.high or "")),
            other_seed=finite(row.get("ceiling, other SAE seed")),
            calibrated=finite(row.get(figure.value or "")),
            by_weight=finite(row.get("correlation of shared pairs")),
            by_function=finite(row.get("correlation matched by function")),
            function_floor=finite(row.get("functional floor")),
        )
        for row in rows.iter_rows(named=True)
    ]
    return range_chart(drawn, width=width, title=figure.title)


def _heat_maps(figure: Figure, table: pl.DataFrame) -> list[Block]:
    assert figure.value is not None
    low, high = _limits(table, [figure.value])
    panels = _distinct(table, figure.panel) if figure.panel else [None]
    blocks: list[Block] = [Heading(figure.title)]
    for panel in panels:
        rows = table if figure.panel is None else table.filter(pl.col(figure.panel) == panel)
        columns, names = _distinct(rows, figure.x), _distinct(rows, figure.y)
        values = {(row[figure.y], row[figure.x]): row[figure.value] for row in rows.iter_rows(named=True)}
        cells = [
            (head(plain(name)), *(_square(values.get((name, column)), low, high) for column in columns))
            for name in names
        ]
        caption = plain(figure.value) if panel is None else f"{plain(panel)}: {plain(figure.value)}"
        shown = (plain(figure.y), *(plain(column) for column in columns))
        blocks.append(Table(caption, shown, tuple(cells), figure.caption if panel == panels[-1] else "", heat=True))
    return blocks


def _square(value: Any, low: Number, high: Number) -> Cell:
    value = finite(value)
    if value is None:
        return Cell(UNDEFINED)
    fill, ink = heat(value, low, high)
    return Cell(number(value, _digits((low, high))), fill=fill, ink=ink)


def _digits(limits: tuple[Number, Number]) -> int:
    """Digits that part values of this size."""
    largest = max(abs(limits[0]), abs(limits[1]))
    return 0 if largest >= 1000 else 1 if largest >= 20 else 2 if largest >= 0.1 else 3


def _limits(table: pl.DataFrame, columns: Sequence[str]) -> tuple[Number, Number]:
    values = [one for column in columns for value in table[column].to_list() if (one := finite(value)) is not None]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _distinct(table: pl.DataFrame, column: str) -> list[Any]:
    return table[column].unique(maintain_order=True).to_list()


def _colour(place: int) -> str:
    return SERIES[place % len(SERIES)]


def _dash(place: int) -> str:
    return DASHES[place % len(DASHES)]
