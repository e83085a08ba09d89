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
