from tests.records import cohort, counted, summary

from seglens.reports.sections.class_matrix import matrix_section
from seglens.segmenters.class_falls import class_cells

COHORTS = summary(cohorts=[cohort("a"), cohort("b")])


def test_cells_hold_dice_interval_patients_and_what_collapsed() -> None:
    tables = {
        ("m", "a"): counted({"core": 0.8, "rim": 0.1}),
        ("m", "b"): counted({"core": 0.05, "rim": 0.1}),
        ("n", "b"): counted({"core": 0.9}),
        ("n", "a"): counted({"core": 0.9}, patients=2),
    }
    table = matrix_section(COHORTS, class_cells(tables, {"m": "a", "n": "b"})).blocks[0]
    assert table.columns == ("Class", "a", "b")
    rows = {(row[0].text, row[0].sub): row[1:] for row in table.rows}
    home, away = rows["core", "model m"]
    assert (home.text, home.strong, home.mark) == ("0.80", True, "")
    assert (away.text, away.strong, away.mark) == ("0.05", False, "collapsed")
    assert away.sub.startswith("[0.0")
    assert away.sub.endswith("] 8 patients")
    assert rows["core", "model n"][0].mark == "too few patients"
    assert [cell.mark for cell in rows["rim", "model m"]] == ["not learnt", ""]


def test_models_whose_classes_no_other_cohort_has_are_named() -> None:
    tables = {("m", "a"): counted({"core": 0.8}), ("m", "b"): counted({"core": 0.8}), ("n", "b"): counted({"x": 0.9})}
    blocks = matrix_section(COHORTS, class_cells(tables, {"m": "a", "n": "b"})).blocks
    assert [row[0].text for row in blocks[0].rows] == ["core"]
    assert blocks[1].text.startswith("Not shown, for no other cohort has their classes: n;")
    alone = matrix_section(COHORTS, class_cells({("n", "b"): counted({"x": 0.9})}, {"n": "b"})).blocks
    assert [row[0].text for row in alone[0].rows] == ["x"]


def test_without_scores_it_says_so() -> None:
    assert matrix_section(summary(), []).blocks[0].tone == "missing"
