"""Results as a table to read, in a terminal and in a Markdown page."""

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.growth import Growth
from benchmarks.runner import Result, Row

COLUMNS = ("case", "subject", "CPU ms", "wall ms", "peak MiB", "x floor", "x best peer")
GROWTH_COLUMNS = ("grows with", "subject", "slope of time", "slope of memory")
WORDS = 2
"""How many columns of a table are words, to the left; numbers stand to the right."""


def table(result: Result) -> list[tuple[str, ...]]:
    """Column heads, then a row a subject; a case's name stands at its first row."""
    cells: list[tuple[str, ...]] = [COLUMNS]
    for place, row in enumerate(result.rows):
        first = place == 0 or result.rows[place - 1].case != row.case
        cells.append((row.case if first else "", row.subject, *_numbers(row)))
    return cells


def _numbers(row: Row) -> tuple[str, ...]:
    return (
        milliseconds(row.cpu_ms), milliseconds(row.wall_ms), f"{row.peak_mib:.0f}",
        ratio(row.x_floor), ratio(row.x_best_peer),
    )  # fmt: skip


def growth_table(growths: Sequence[Growth]) -> list[tuple[str, ...]]:
    """Column heads, then a row a subject and axis."""
    slopes = [(one.axis, one.subject, f"{one.time_slope:.2f}", f"{one.memory_slope:.2f}") for one in growths]
    return [GROWTH_COLUMNS, *slopes]


def milliseconds(value: float) -> str:
    """Three digits, or all of them before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Three digits; a dash where there is nothing to compare with."""
    return "–" if value is None else milliseconds(value)


def left_out(result: Result) -> list[str]:
    """A line for each subject and reason, with its cases."""
    cases: dict[tuple[str, str], list[str]] = {}
    for one in result.left_out:
        cases.setdefault((one.subject, one.reason), []).append(one.case)
    everywhere = len({*(row.case for row in result.rows), *(one.case for one in result.left_out)})
    lines = []
    for (subject, reason), where in cases.items():
        which = "" if len(where) == everywhere else f" ({', '.join(where)})"
        lines.append(f"left out: {subject}{which}: {reason}")
    return lines


def as_text(result: Result, growths: Sequence[Growth]) -> str:
    """One benchmark for a terminal."""
    blocks = [f"{result.benchmark.name}: {result.benchmark.title}", aligned(table(result)), *left_out(result)]
    if growths:
        blocks += ["", aligned(growth_table(growths))]
    return "\n".join(blocks)


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """A table for a terminal, column heads first."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if column < WORDS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def as_markdown(result: Result, growths: Sequence[Growth], header: Sequence[str]) -> str:
    """One benchmark for a page: a heading, the table, what was left out, slopes, and where it was measured."""
    blocks = [f"### {result.benchmark.name}", result.benchmark.title, piped(table(result))]
    blocks += left_out(result)
    if growths:
        blocks.append(piped(growth_table(growths)))
    blocks.append("<sub>" + "<br>".join(header) + "</sub>")
    return "\n\n".join(blocks)


def piped(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table, column heads first."""
    marks = [":--" if column < WORDS else "--:" for column in range(len(cells[0]))]
    rows = [cells[0], marks, *cells[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
SECTION = re.compile(r"<!-- benchmark (\w+) -->\n(.*?)\n<!-- /benchmark -->", re.DOTALL)


def update_page(page: Path, sections: dict[str, str]) -> None:
    """Put benchmarks into a page between its markers; those that were not run stay as they are.

    Args:
        page: a Markdown file with the lines of `BEGIN` and `END`; made, with nothing else, where it is missing.
        sections: name of a benchmark -> its Markdown.
    """
    content = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ValueError(f"{page} must have one line {BEGIN} and one line {END}; the table goes between them")
    before, rest = content.split(BEGIN)
    old, after = rest.split(END)
    merged = dict(SECTION.findall(old)) | sections
    body = "\n\n".join(f"<!-- benchmark {name} -->\n{text}\n<!-- /benchmark -->" for name, text in merged.items())
    page.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")
