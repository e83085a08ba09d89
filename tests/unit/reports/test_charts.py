import itertools
import math
from xml.etree import ElementTree

import pytest

from seglens.reports.charts import (
    NARROW,
    Bar,
    Level,
    Series,
    bar_chart,
    colour_scale,
    fitted,
    line_chart,
    nice_ticks,
)

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0, 0.06), (-100, 100), (3, 3), (0, float("nan")), (0, 1234.5)])
def test_ticks_are_round_few_and_cover_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    steps = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - round_one) for round_one in (1, 2, 2.5, 5)) < 1e-6
    if math.isfinite(high) and high > low:
        assert ticks[0] <= low
        assert ticks[-1] >= high - 1e-9


def drawn(series: list[Series], levels: list[Level], **more: object) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart("t <&>", series, levels, x_label="a", y_label="<b>", **more))  # type: ignore[arg-type]


def test_points_stand_where_their_values_say() -> None:
    root = drawn([Series("s", (0.0, 1.0, 2.0), (0.0, 0.5, 1.0), "#000000")], [])
    points = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1


def test_an_undefined_point_breaks_the_line() -> None:
    whole = drawn([Series("s", (0, 1, 2, 3), (0.1, 0.2, 0.3, 0.4), "#000000")], [])
    broken = drawn([Series("s", (0, 1, 2, 3), (0.1, 0.2, None, 0.4), "#000000")], [])
    assert len(list(whole.iter(f"{SVG}polyline"))) == 1
    assert [len(p.attrib["points"].split()) for p in broken.iter(f"{SVG}polyline")] == [2]
    assert len(list(broken.iter(f"{SVG}circle"))) == 3


def test_levels_marks_and_wide_axes_stay_inside() -> None:
    alphas = (-100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0)
    series = [Series("s", alphas, tuple(0.1 * place for place in range(7)), "#000000", "2 2")]
    root = drawn(series, [Level("x", 0.3, "#ff0000", "4 4")], marks=[(100.0, "chosen")], width=NARROW)
    for line in root.iter(f"{SVG}line"):
        assert all(-1 <= float(line.attrib[key]) <= NARROW + 1 for key in ("x1", "x2"))
    assert [line.attrib["stroke"] for line in root.iter(f"{SVG}line")].count("#ff0000") == 1
    words = [str(text.text) for text in root.iter(f"{SVG}text")]
    assert {"−100", "0", "100", "chosen", "<b>"} <= set(words)
    places = [float(text.attrib["x"]) for text in root.iter(f"{SVG}text") if text.text in ("−100", "0", "100")]
    assert places == sorted(places)


def test_an_empty_chart_is_still_a_drawing() -> None:
    assert drawn([], []).tag == f"{SVG}svg"
    assert ElementTree.fromstring(bar_chart("none", [])).tag == f"{SVG}svg"


def test_bars_have_the_length_of_their_values() -> None:
    bars = [Bar("a", 1.0, "one"), Bar("b", 0.5, "half"), Bar("c", -0.5, "less"), Bar("<d>", None, "–")]
    root = ElementTree.fromstring(bar_chart("t", bars))
    widths = [float(rect.attrib["width"]) for rect in root.iter(f"{SVG}rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.3)
    assert widths[1] == pytest.approx(widths[2], abs=0.3)
    assert len(widths) == 3
    left = [float(rect.attrib["x"]) for rect in root.iter(f"{SVG}rect")]
    assert left[2] + widths[2] == pytest.approx(left[0], abs=0.3)


def test_long_words_are_cut_and_scales_name_their_ends() -> None:
    assert fitted("short", 200) == "short"
    assert fitted("a very long name indeed", 60).endswith("…")
    root = ElementTree.fromstring(colour_scale("t", ["#000000", "#ffffff"], 0.0, "strong"))
    assert [text.text for text in root.iter(f"{SVG}text")] == ["0.00", "strong"]
    assert len(list(root.iter(f"{SVG}rect"))) == 2
