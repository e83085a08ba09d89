import base64
import json
import re
from importlib.metadata import version

from seglens.reports.sections.closing import about_blocks, glossary_section, repeat_section, without_folders
from seglens.runs import Run
from seglens.summaries import summary_of


def test_paths_keep_their_last_part_only() -> None:
    settings = {"cohorts": {"a": {"sources": [{"path": "/home/x/BraTS/"}, {"path": "C:\\data\\ped"}]}}, "path": 3}
    cut = without_folders(settings)
    assert [source["path"] for source in cut["cohorts"]["a"]["sources"]] == ["BraTS", "ped"]
    assert cut["path"] == 3


def test_settings_can_be_taken_out_again() -> None:
    settings = {"name": "s", "seed": 3, "sequences": ["T1c"]}
    section = repeat_section(settings, {"store/a": "f" * 64})
    link = section.blocks[0]
    assert link.file == "study.yaml"
    assert json.loads(base64.b64decode(link.address.partition("base64,")[2])) == settings
    folds = [block for block in section.blocks if block.kind == "fold"]
    assert folds[0].blocks[0].rows[0][1].text == "f" * 16


def test_a_page_says_when_and_with_what_it_was_made(full_run: Run) -> None:
    facts, link = about_blocks(full_run, summary_of(full_run))
    entries = dict(facts.entries)
    assert entries["Med-SegLens"] == version("med-seglens")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", entries["Finished"])
    assert entries["Device"].endswith(("thread", "threads"))
    assert "/home/someone" not in base64.b64decode(link.address.partition("base64,")[2]).decode()


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
