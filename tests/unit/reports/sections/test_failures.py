from seglens.reports.sections.failures import failures_section, share_of
from seglens.studies.run import Run


def test_shares_are_written_with_their_percentage() -> None:
    assert share_of(23, 60) == "23 (38%)"
    assert share_of(5 / 3, 12) == "1.7 (14%)"
    assert share_of(None, 60) == "–"
    assert share_of(3, None) == "3"


def test_pictures_show_before_after_and_reference(full_run: Run) -> None:
    section = failures_section(full_run, full_run.summary)
    pictures = next(block for block in section.blocks if block.kind == "pictures")
    assert len(pictures.pictures) == 8
    assert [one.label.split(":")[0] for one in pictures.pictures[1:4]] == ["held-out edit", "oracle edit", "reference"]
    assert pictures.pictures[0].label.startswith("model as it is: Dice 0.20")
    assert pictures.pictures[0].uri != pictures.pictures[1].uri


def test_recovered_stands_beside_random_and_rivals(full_run: Run) -> None:
    table = next(b for b in failures_section(full_run, full_run.summary).blocks if b.kind == "table")
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["held-out edit"][:4] == ["3 (25%)", "1.7 (14%)", "0.250", "+0.040"]
    assert rows["logit bias"][0] == "4 (33%)"


def test_a_result_without_its_segmenters_name_is_found_by_its_cohort(full_run: Run, small_run: Run) -> None:
    entries = [entry | {"segmenter": ""} for entry in full_run.summary["failures"]]
    section = failures_section(full_run, {"failures": entries})
    assert section.blocks[0].text == "adult on adult"
    assert any(block.kind == "pictures" for block in section.blocks)
    nowhere = failures_section(small_run, {"failures": entries})
    assert nowhere.blocks[0].text == "model on adult"
    assert any(block.kind == "paragraph" and block.tone == "missing" for block in nowhere.blocks)
