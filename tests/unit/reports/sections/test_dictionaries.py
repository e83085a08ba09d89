from tests.records import dictionary, summary

from seglens.reports.sections.dictionaries import dictionaries_section


def test_explained_variance_stands_beside_its_control() -> None:
    entry = dictionary("adult", hookpoint="stage2", n_latents=1024, dice_kept=None)
    table = dictionaries_section(summary(dictionaries=[entry])).blocks[0]
    texts = dict(zip(table.columns, (cell.text for cell in table.rows[0]), strict=True))
    assert texts["Variance explained"] == "93.1%"
    assert texts["… of an untrained network"] == "95.5%"
    assert texts["Dice kept"] == "–"
    assert texts["Latents"] == "1\u202f024"


def test_each_hookpoint_stands_under_its_name() -> None:
    entries = [dictionary("adult", hookpoint="stage3"), dictionary("adult@stage2", hookpoint="stage2")]
    table = dictionaries_section(summary(dictionaries=entries)).blocks[0]
    assert [(row[0].text, row[0].sub) for row in table.rows] == [("adult", "at stage3"), ("adult", "at stage2")]


def test_explained_variance_stands_on_the_ladder() -> None:
    entries = [dictionary("adult"), dictionary("ssa", control_explained_variance=None)]
    printed = dictionaries_section(summary(dictionaries=entries)).blocks[1]
    first, second = (dict(zip(printed.columns, (cell.text for cell in row), strict=True)) for row in printed.rows)
    assert (first["the lens"], first["untrained network"]) == ("0.93", "0.95")
    assert second["untrained network"] == "left out" and "not asked for" in printed.note


def test_what_was_not_computed_is_no_figure_and_is_left_out_for_that_reason() -> None:
    quality, printed = dictionaries_section(summary(dictionaries=[dictionary("adult")])).blocks
    texts = dict(zip(printed.columns, (cell.text for cell in printed.rows[0]), strict=True))
    assert texts["dense features"] == texts["untrained dictionary"] == "left out"
    assert "dense features: all channels are the activation itself" in printed.note
    assert "untrained dictionary: not computed in a study" in printed.note
    assert "random weights, drawn once" in quality.note
