import math
import re
from xml.etree import ElementTree

import pytest
from benchmarks.growth import figure, growths, slope
from benchmarks.runner import LeftOut, Result, Row
from tests.unit.benchmarks.toy import BENCHMARK

CASES = BENCHMARK.growth["numbers"]


def row(case, subject, cpu_ms, peak_mib):
    return Row("toy", case, subject, cpu_ms, cpu_ms, peak_mib, None, None)


@pytest.fixture
def grown():
    rows = []
    for place, case in enumerate(CASES):
        rows += [row(case, "ours", 3 * 2.0**place, 40.0), row(case, "slow peer", 5 * 4.0**place, 0.2)]
    rows.append(row("small", "holding", 1.0, 1.0))  # has no other sizes
    return growths(Result(BENCHMARK, tuple(rows), (LeftOut("toy", "twice", "holding", "why"),)))


def test_slope_is_the_power():
    assert math.isclose(slope([1, 2, 4, 8], [7 * size**1.5 for size in (1, 2, 4, 8)]), 1.5)
    assert slope([1, 2], [3, 3]) == 0


def test_only_subjects_with_every_size_have_a_growth(grown):
    assert [(one.subject, round(one.time_slope, 9), one.memory_slope) for one in grown] == [
        ("ours", 1.0, 0.0),
        ("slow peer", 2.0, 0.0),
    ]
    assert grown[0].sizes == (1, 2, 4) and grown[0].cpu_ms == (3, 6, 12) and grown[0].axis == "numbers"


def test_the_figure_is_svg_with_both_panels_and_the_slopes(grown):
    drawing = ElementTree.fromstring(figure(grown))
    words = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "toy: growth with numbers" in words and "CPU ms" in words and "peak MiB" in words
    assert "ours: slope 1.00" in words and "slow peer: slope 2.00" in words
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}circle"))) == 2 * (2 * 3 + 2)
    numbers = [float(one) for one in re.findall(r'(?:c?[xy][12]?)="(-?[\d.]+)"', figure(grown))]
    assert min(numbers) >= 0 and all(math.isfinite(one) for one in numbers)


def test_a_figure_of_nothing_says_so():
    assert "No benchmark that was run says how it grows" in figure([])
