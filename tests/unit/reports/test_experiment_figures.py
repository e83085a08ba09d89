import re
from xml.etree import ElementTree

import polars as pl
import pytest

from seglens.experiments.experiment import Figure
from seglens.reports.blocks import Chart, Heading, Paragraph, Table
from seglens.reports.experiment_figures import figure_blocks, written

CURVES = pl.DataFrame(
    {
        "cohort": ["adult", "adult", "ssa", "ssa"],
        "alpha": [2.0, 0.0, 0.0, 2.0],
        "dice": [0.5, 0.25, 0.1, None],
        "low": [0.4, 0.2, 0.0, None],
        "high": [0.6, 0.3, 0.2, None],
        "latents": ["specific"] * 4,
    }
)


def drawings(blocks):
    return [drawing for block in blocks if isinstance(block, Chart) for drawing in (block.wide, block.narrow)]


@pytest.mark.parametrize(
    "figure",
    [
        Figure("lines", "t", "Lines", x="alpha", y="dice", series="cohort"),
        Figure("lines", "t", "Lines", x="alpha", y="dice", panel="cohort"),
        Figure("bars", "t", "Bars", x="cohort", y="dice", low="low", high="high", series="latents", panel="alpha"),
        Figure("bars", "t", "Bars", x="cohort", y="dice", panel="alpha", own_axes=True),
        Figure("ranges", "t", "Ranges", x="dice", y="cohort", low="low", high="high"),
    ],
)
def test_every_kind_is_sound_svg_in_both_layouts(figure):
    blocks = figure_blocks(figure, CURVES)
    assert isinstance(blocks[0], Heading)
    found = drawings(blocks)
    assert len(found) == 2
    for drawing in found:
        ElementTree.fromstring(str(drawing))
        assert "nan" not in str(drawing).lower()


def test_a_line_runs_from_left_to_right_whatever_the_order_of_the_rows():
    adult = CURVES.filter(pl.col("cohort") == "adult")
    (chart,) = (b for b in figure_blocks(Figure("lines", "t", "L", x="alpha", y="dice"), adult) if isinstance(b, Chart))
    points = re.search(r'polyline points="([^"]+)"', str(chart.wide))
    assert points
    xs = [float(pair.split(",")[0]) for pair in points[1].split()]
    assert xs == sorted(xs)


def test_a_bar_twice_as_long_for_twice_the_value():
    rows = pl.DataFrame({"name": ["a", "b"], "share": [0.25, 0.5]})
    (chart,) = (b for b in figure_blocks(Figure("bars", "t", "B", x="name", y="share"), rows) if isinstance(b, Chart))
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([0-9.]+)"', str(chart.wide))]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)


def test_a_heat_map_is_a_table_of_rows_and_columns_with_a_gap_where_nothing_was_measured():
    rows = pl.DataFrame({"method": ["m", "m", "n"], "factor": ["f", "g", "f"], "auroc": [0.5, 1.0, 0.75]})
    figure = Figure("heat", "t", "Heat", x="factor", y="method", value="auroc")
    (table,) = (block for block in figure_blocks(figure, rows) if isinstance(block, Table))
    assert table.columns == ("method", "f", "g")
    assert [[cell.text for cell in row] for row in table.rows] == [["m", "0.50", "1.00"], ["n", "0.75", "–"]]
    assert table.rows[0][1].fill != table.rows[0][2].fill


def test_only_some_rows_are_drawn_and_an_empty_drawing_says_so():
    nothing = Figure("lines", "t", "Curves", x="alpha", y="dice", only={"cohort": ["healthy"]})
    (said,) = figure_blocks(nothing, CURVES)
    assert isinstance(said, Paragraph)
    assert said.text == "Curves: there is nothing to draw."


def test_a_table_of_another_version_is_said_and_not_drawn():
    (said,) = figure_blocks(Figure("lines", "t", "Curves", x="alpha", y="recall"), CURVES)
    assert isinstance(said, Paragraph)
    assert said.text == "Curves: not drawn, its table has no column recall."


def test_names_are_escaped():
    rows = pl.DataFrame({"name": ["<script>"], "share": [0.5]})
    for drawing in drawings(figure_blocks(Figure("bars", "t", "B", x="name", y="share"), rows)):
        assert "<script>" not in str(drawing)


def test_values_are_written_for_a_reader():
    assert [written(value) for value in (None, True, 3, -0.5, [1, 2], "held_out")] == [
        "–", "yes", "3", "−0.50", "1, 2", "held-out",
    ]  # fmt: skip


def test_bars_that_are_left_out_are_told():
    table = pl.DataFrame({"policy": [f"policy {n}" for n in range(70)], "value": [n / 70 for n in range(70)]})
    figure = Figure("bars", "policies", "Dice", x="policy", y="value", caption="By policy.")
    (chart,) = [block for block in figure_blocks(figure, table) if isinstance(block, Chart)]
    assert chart.caption == "By policy. The first 60 of up to 70 bars are drawn; the table has all."
    (whole,) = [block for block in figure_blocks(figure, table.head(60)) if isinstance(block, Chart)]
    assert whole.caption == "By policy."
