from xml.etree import ElementTree

import pytest
from tests.records import alignment, summary

from seglens.diffing.records import FunctionRecord
from seglens.reports.charts import NARROW, WIDE
from seglens.reports.figures import main_figure, range_chart, range_rows
from seglens.reports.palette import BLUE, INK, VERMILLION
from seglens.runs import Run
from seglens.summaries import summary_of

SVG = "{http://www.w3.org/2000/svg}"


def words(text: str) -> list[str]:
    return [str(one.text) for one in ElementTree.fromstring(text).iter(f"{SVG}text")]


def test_each_pair_shows_floor_share_ceiling_in_their_places() -> None:
    root = ElementTree.fromstring(range_chart(range_rows(summary(alignments=[alignment(0.58)]))))
    ticks = {line.attrib["stroke"]: float(line.attrib["x1"]) for line in root.iter(f"{SVG}line")}
    share = next(float(c.attrib["cx"]) for c in root.iter(f"{SVG}circle") if c.attrib["fill"] == BLUE)
    floor, ceiling = ticks[VERMILLION], ticks[INK]
    assert floor < share < ceiling
    assert (share - floor) / (ceiling - floor) == pytest.approx(0.03 / 0.41, abs=0.01)


def test_numbers_stand_beside_the_drawing() -> None:
    functional = FunctionRecord(0.04, 0.31, 0.12, None, True)
    entry = alignment(0.58, functional=functional, same_segmenter_start=False, same_sae_seed=True)
    for width in (WIDE, NARROW):
        text = " ".join(words(range_chart(range_rows(summary(alignments=[entry])), width=width)))
        for figure in ("0.07", "0.04", "0.31", "0.12", "separate starts, same SAE seed"):
            assert figure in text


def test_most_alike_first_and_incomparable_last() -> None:
    entries = [
        alignment(None, source="x"),
        alignment(0.6, source="y"),
        alignment(0.9, source="z"),
        alignment(0.7, None),
    ]
    assert [one.label[0] for one in range_rows(summary(alignments=entries))] == ["z", "y", "a", "x"]
    assert "not comparable by weights" in words(range_chart(range_rows(summary(alignments=entries))))


def test_the_figure_stands_alone_and_everything_is_inside_it(full_run: Run) -> None:
    text = main_figure(summary_of(full_run))
    root = ElementTree.fromstring(text)
    width, height = (float(v) for v in root.attrib["viewBox"].split()[2:])
    for one in root.iter(f"{SVG}text"):
        assert 0 <= float(one.attrib["x"]) <= width
        assert 0 <= float(one.attrib["y"]) <= height
    for word in ("floor (rotated null)", "raw share", "ceiling (same model, other order)"):
        assert word in words(text)
    assert "href" not in text


def test_without_pairs_it_says_so() -> None:
    assert words(main_figure(summary())) == ["No pair of dictionaries was compared in this run."]


def test_hostile_names_are_text() -> None:
    text = main_figure(summary(alignments=[alignment(0.6, source="<script>alert(1)</script>")]))
    assert "<script" not in text
    assert any("<script>" in word for word in words(text))
