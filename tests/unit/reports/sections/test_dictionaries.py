from seglens.reports.sections.dictionaries import dictionaries_section


def test_explained_variance_stands_beside_its_control() -> None:
    entry = {"name": "adult", "hookpoint": "stage2", "explained_variance": 0.931, "control_explained_variance": 0.955}
    table = dictionaries_section({"dictionaries": [entry | {"n_latents": 1024, "k": 16}]}).blocks[0]
    texts = dict(zip(table.columns, (cell.text for cell in table.rows[0]), strict=True))
    assert texts["Variance explained"] == "93.1%"
    assert texts["… of an untrained network"] == "95.5%"
    assert texts["Dice kept"] == "–"
    assert texts["Latents"] == "1\u202f024"
