import json

from seglens.reports.sections.closing import glossary_section, repeat_section, without_folders


def test_paths_keep_their_last_part_only() -> None:
    settings = {"cohorts": {"a": {"sources": [{"path": "/home/x/BraTS/"}, {"path": "C:\\data\\ped"}]}}, "path": 3}
    cut = without_folders(settings)
    assert [source["path"] for source in cut["cohorts"]["a"]["sources"]] == ["BraTS", "ped"]
    assert cut["path"] == 3


def test_settings_can_be_taken_out_again() -> None:
    settings = {"name": "s", "seed": 3, "sequences": ["T1c"]}
    section = repeat_section(settings, {"store/a": "f" * 64})
    folds = [block for block in section.blocks if block.kind == "fold"]
    assert json.loads(folds[0].blocks[0].text) == settings
    assert folds[1].blocks[0].rows[0][1].text == "f" * 16


def test_what_computed_the_results_is_said() -> None:
    blocks = repeat_section({}, {}, "Computed by torch 1.").blocks
    assert "Computed by torch 1." in [block.text for block in blocks if block.kind == "paragraph"]
    assert not any("Computed by" in block.text for block in repeat_section({}, {}).blocks)


def test_every_convention_is_explained() -> None:
    table = glossary_section().blocks[-1]
    assert [row[0].text for row in table.rows] == [
        "Pooled",
        "Per volume",
        "Per slice, class present",
        "Per slice, empty = 1",
    ]
