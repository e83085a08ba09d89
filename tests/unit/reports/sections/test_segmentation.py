from dataclasses import replace

from tests.records import scores

from seglens.reports.sections.segmentation import SCORE_COLUMNS, score_rows, segmentation_section
from seglens.runs import Run
from seglens.summaries import summary_of


def test_the_matrix_has_a_cell_for_each_model_and_cohort(full_run: Run) -> None:
    matrix = segmentation_section(summary_of(full_run)).blocks[0]
    assert matrix.kind == "table"
    assert matrix.columns == ("Model", "healthy", "adult", "pediatric", "SSA")
    cells = {row[0].text: row[1:] for row in matrix.rows}
    assert [cell.text for cell in cells["adult"]] == ["–", "0.79", "0.49", "0.49"]
    assert [cell.strong for cell in cells["adult-unet"]] == [False, True, False, False]
    assert cells["adult"][0].fill == ""
    assert cells["adult"][1].fill != cells["adult"][2].fill


def test_each_class_has_every_figure_with_its_n() -> None:
    own = scores(
        {"edema": 0.5, "core": None},
        precision={"edema": 0.25},
        dice_sampled={"edema": None, "foreground": None},
    )
    own = replace(own, hd95_mm=own.hd95_mm | {"edema": 12.34}, missed={"edema": 3, "core": 0})
    rows = score_rows("adult", own)
    assert [len(row) for row in rows] == [1 + len(SCORE_COLUMNS)] * 3
    texts = [[cell if isinstance(cell, str) else cell.text for cell in row] for row in rows]
    assert texts[0] == ["adult", "edema", "0.50", "–", "0.50", "0.50", "0.25", "0.50", "12.3", "3"]
    assert texts[1][:3] == ["adult", "core", "–"]
    assert texts[2][1] == "foreground mean"
    assert rows[0][2].sub == "n 50"  # type: ignore[union-attr]
    assert rows[0][-1].sub == "of 50"  # type: ignore[union-attr]
