from dataclasses import replace

from tests.records import summary

from seglens.reports.sections.steering import steering_section
from seglens.runs import Run
from seglens.summaries import summary_of


def test_curves_show_every_baseline_as_a_level(full_run: Run) -> None:
    section = steering_section(full_run, summary_of(full_run))
    charts = [block for block in section.blocks if block.kind == "chart"]
    assert len(charts) == 2
    labels = {key.label: key.value for key in charts[0].keys}
    assert labels["logit bias"] == "0.056"
    assert labels["whole activation at its mean"] == "0.144"
    assert labels["untouched"] == "0.053"
    assert len(labels) == 13  # two curves, the untouched model, ten baselines
    assert len({(key.colour, key.dash) for key in charts[0].keys}) == 13
    assert "chosen (2.00)" in charts[0].caption


def test_the_table_holds_each_policy_and_baseline_with_its_difference(full_run: Run) -> None:
    section = steering_section(full_run, summary_of(full_run))
    table = next(block for block in section.blocks if block.kind == "table")
    by_name = {row[0].text: row for row in table.rows}
    assert {"untouched", "held-out", "oracle", "logit bias", "random latents", "reconstruction only"} <= set(by_name)
    assert (by_name["logit bias"][2].text, by_name["logit bias"][2].sub) == ("0.056", "+0.003")
    assert by_name["logit bias"][1].text == "bias 0.00, 0.50, −0.50"
    assert by_name["whole activation at its mean"][0].sub == "best baseline without latents on the selection patients"
    assert by_name["random latents"][0].sub == "control"


def test_an_edit_of_nothing_is_not_shown_as_chosen(full_run: Run) -> None:
    settings = {"logit_bias": {"bias": [0.0, 8.0, -0.5], "at_bound": True}}
    more = {"is_identity": True, "alpha": 1.0, "settings": settings}
    entries = [replace(one, **more) if one.policy == "held_out" else one for one in summary_of(full_run).steering]
    section = steering_section(full_run, summary(steering=entries))
    chart = next(block for block in section.blocks if block.kind == "chart")
    assert "no strength was chosen" in chart.caption
    assert "latents that came closest (3), not chosen" in [key.label for key in chart.keys]
    table = next(block for block in section.blocks if block.kind == "table")
    row = next(row for row in table.rows if row[0].text == "held-out")
    assert row[1].text == "none"
    assert "nothing beat the untouched network" in row[1].sub
    assert "Logit bias still wants the end of the grid" in table.note
    assert "upper bound" not in table.note
    assert "bias 0.00, 8.00, −0.50" in [row[1].text for row in table.rows]


def test_without_curves_the_numbers_remain(full_run: Run, small_run: Run) -> None:
    section = steering_section(small_run, summary(steering=summary_of(full_run).steering))
    assert not [block for block in section.blocks if block.kind == "chart"]
    assert any(block.kind == "paragraph" and "No curve over alpha" in block.text for block in section.blocks)
    assert any(block.kind == "table" for block in section.blocks)
