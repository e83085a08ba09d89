"""How time and memory grow with the size of a case: slopes on log-log axes, and a figure of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from benchmarks.runner import Result, Row
from seglens.reports.charts import dot, line, svg, text
from seglens.reports.palette import DASHES, GRID, MUTED, PAPER, SERIES

MIN_MIB = 1.0
"""Memory below this is the process's noise; it counts as this much, for a logarithm."""
PANEL_WIDTH, PANEL_HEIGHT, KEY_LINE = 360, 240, 18


@dataclass(frozen=True)
class Growth:
    """One subject at 1x, 2x, 4x, 8x of something.

    Attributes:
        benchmark: name of the benchmark.
        axis: what grows.
        subject: name of the subject.
        sizes: multiples of the smallest case.
        cpu_ms: CPU time at each.
        peak_mib: memory at each.
        time_slope: least-squares slope of log time over log size: 1 is in proportion, 2 quadratic, 0 flat.
        memory_slope: the same of memory.
    """

    benchmark: str
    axis: str
    subject: str
    sizes: tuple[int, ...]
    cpu_ms: tuple[float, ...]
    peak_mib: tuple[float, ...]
    time_slope: float
    memory_slope: float


def growths(result: Result) -> list[Growth]:
    """The growth of every subject that has a row at every size of an axis."""
    by_place = {(row.case, row.subject): row for row in result.rows}
    found = []
    for axis, cases in result.benchmark.growth.items():
        for subject in result.benchmark.subjects:
            rows = [by_place[case, subject.name] for case in cases if (case, subject.name) in by_place]
            if len(rows) == len(cases) > 1:
                found.append(_growth(axis, rows))
    return found


def _growth(axis: str, rows: Sequence[Row]) -> Growth:
    sizes = tuple(2**place for place in range(len(rows)))
    times = tuple(row.cpu_ms for row in rows)
    memory = tuple(row.peak_mib for row in rows)
    return Growth(
        rows[0].benchmark, axis, rows[0].subject, sizes, times, memory,
        slope(sizes, times), slope(sizes, [max(MIN_MIB, one) for one in memory]),
    )  # fmt: skip


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of log(values) over log(sizes); both positive, two sizes at least."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((one - middle_x) ** 2 for one in x)
    return sum((one - middle_x) * (other - middle_y) for one, other in zip(x, y, strict=True)) / across


def figure(found: Sequence[Growth]) -> str:
    """One SVG: a row of two panels (time, memory) for every axis of every benchmark, slopes in the key."""
    groups: dict[tuple[str, str], list[Growth]] = {}
    for one in found:
        groups.setdefault((one.benchmark, one.axis), []).append(one)
    parts, top = [], 0.0
    for (benchmark, axis), members in groups.items():
        parts.append(text(16, top + 24, f"{benchmark}: growth with {axis}", size=15, bold=True))
        parts += _panel((16, top + 36), axis, members, "CPU ms")
        parts += _panel((36 + PANEL_WIDTH, top + 36), axis, members, "peak MiB")
        top += 36 + PANEL_HEIGHT + KEY_LINE * len(members) + 20
    if not groups:
        parts = [text(16, 36, "No benchmark that was run says how it grows.", colour=MUTED)]
    width, height = 2 * PANEL_WIDTH + 52, max(top, 60)
    background = f'<rect width="{width}" height="{height:g}" fill="{PAPER}"/>'
    title = "Time and memory at growing sizes, on logarithmic axes, with fitted slopes"
    return str(svg(width, height, title, [background, *parts]))


def _panel(
    corner: tuple[float, float], axis: str, members: Sequence[Growth], measure: Literal["CPU ms", "peak MiB"]
) -> Iterable[str]:
    """Lines on log-log axes, both in powers of two, and under them a key with the slopes."""
    if measure == "CPU ms":
        values, slopes = [one.cpu_ms for one in members], [one.time_slope for one in members]
    else:
        values = [tuple(max(MIN_MIB, mib) for mib in one.peak_mib) for one in members]
        slopes = [one.memory_slope for one in members]
    left, top = corner
    x0, x1 = left + 56, left + PANEL_WIDTH - 12
    y0, y1 = top + PANEL_HEIGHT - 66, top + 22
    everything = [value for line_of in values for value in line_of]
    low, high = math.floor(math.log2(min(everything))), math.ceil(math.log2(max(everything)))
    high = max(high, low + 2)
    doublings = max(len(one.sizes) for one in members) - 1

    def at(size: float, value: float) -> tuple[float, float]:
        across, up = math.log2(size) / doublings, (math.log2(value) - low) / (high - low)
        return x0 + across * (x1 - x0), y0 - up * (y0 - y1)

    yield text(left, top + 10, measure, colour=MUTED)
    for power in range(low, high + 1, max(1, round((high - low) / 6))):
        _, y = at(1, 2.0**power)
        yield line(x0, y, x1, y, colour=GRID)
        yield text(x0 - 6, y + 4, f"{2.0**power:,.3g}" if power < 10 else f"{2**power:,}", anchor="end", colour=MUTED)
    for size in (2**place for place in range(doublings + 1)):
        x, _ = at(size, 2.0**low)
        yield line(x, y0, x, y0 + 4, colour=MUTED)
        yield text(x, y0 + 18, f"{size}x", anchor="middle", colour=MUTED)
    yield text((x0 + x1) / 2, y0 + 36, f"{axis}, as a multiple of the smallest case", anchor="middle", colour=MUTED)
    for place, (one, heights, fitted) in enumerate(zip(members, values, slopes, strict=True)):
        colour, dash, hollow = SERIES[place % len(SERIES)], DASHES[place % len(DASHES)], place % 2 == 1
        points = [at(size, value) for size, value in zip(one.sizes, heights, strict=True)]
        for start, end in pairwise(points):
            yield line(*start, *end, colour=colour, width=2, dash=dash)
        yield from (dot(x, y, 4, colour, hollow=hollow) for x, y in points)
        y = top + PANEL_HEIGHT + place * KEY_LINE
        yield line(x0, y - 4, x0 + 36, y - 4, colour=colour, width=2, dash=dash)
        yield dot(x0 + 18, y - 4, 4, colour, hollow=hollow)
        yield text(x0 + 44, y, f"{one.subject}: slope " + f"{fitted:.2f}".replace("-", "−"))
