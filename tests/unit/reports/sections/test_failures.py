from dataclasses import replace

from tests.records import outcome, summary

from seglens.reports.sections.failures import failures_section, share_of
from seglens.runs import Run
from seglens.summaries import summary_of


def test_shares_are_written_with_their_percentage() -> None:
    assert share_of(23, 60) == "23 (38%)"
    assert share_of(5 / 3, 12) == "1.7 (14%)"
    assert share_of(None, 60) == "–"
    assert share_of(0, 0) == "0"


def test_pictures_show_before_after_and_reference(full_run: Run) -> None:
    section = failures_section(full_run, summary_of(full_run))
    pictures = next(block for block in section.blocks if block.kind == "pictures")
    assert len(pictures.pictures) == 8
    assert [one.label.split(":")[0] for one in pictures.pictures[1:4]] == ["held-out edit", "oracle edit", "reference"]
    assert pictures.pictures[0].label.startswith("model as it is: Dice 0.20")
    assert pictures.pictures[0].uri != pictures.pictures[1].uri


def test_recovered_stands_beside_random_and_baselines(full_run: Run) -> None:
    table = next(b for b in failures_section(full_run, summary_of(full_run)).blocks if b.kind == "table")
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["held-out edit"] == ["3 (25%)", "0 (0%)", "0.250", "+0.040", "1.7 (14%)", "0 (0%)", "0.220"]
    assert rows["logit bias"][0] == "4 (33%)"


def test_what_got_worse_and_the_extent_are_written_from_the_numbers(full_run: Run) -> None:
    held_out, oracle = (
        replace(
            record, worsened=2, random_worsened=1.5, random_worsened_draws=(1, 2), n_eligible=96,
            dice_of_best_failure=0.87, baselines={"reconstruct_only": outcome(1, 3, 0.2)},
        )
        for record in summary_of(full_run).failures
    )  # fmt: skip
    held_out = replace(
        held_out, random_best_recovered=2, random_best_worsened=4, random_best_net=-2, random_best_mean_after=0.2,
        dice_all_before=0.5, dice_all_after=0.512, is_identity=True,
    )  # fmt: skip
    section = failures_section(full_run, summary(failures=[held_out, oracle]))
    table = next(b for b in section.blocks if b.kind == "table")
    rows = {row[0].text: row for row in table.rows}
    assert rows["held-out edit"][0].sub == "nothing beat the untouched network"
    assert [cell.text for cell in rows["held-out edit"][1:3]] == ["3 (25%)", "2 (17%)"]
    assert (rows["held-out edit"][6].text, rows["held-out edit"][6].sub) == ("1.5 (12%)", "draws: 1, 2")
    assert [cell.text for cell in rows["best draw of random latents"][1:4]] == ["2 (17%)", "4 (33%)", "0.200"]
    assert rows["reconstruction only"][0].sub == "control"
    assert "12 of 96 lesion slices; the best of them has Dice 0.87" in table.note
    assert "pooled foreground Dice from 0.500 to 0.512" in table.note
    assert "hardly get" not in table.note


def test_without_its_stage_a_result_has_no_pictures(full_run: Run, small_run: Run) -> None:
    nowhere = failures_section(small_run, summary(failures=summary_of(full_run).failures))
    assert nowhere.blocks[0].text == "adult on adult"
    assert any(block.kind == "paragraph" and block.tone == "missing" for block in nowhere.blocks)
