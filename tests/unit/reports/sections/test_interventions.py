import polars as pl
import pytest
from tests.records import counted, scores, steering, summary

from seglens.artifacts import new_artifact
from seglens.reports.sections.interventions import interventions_section
from seglens.runs import Run, Stage


@pytest.fixture
def run(tmp_path):
    """With the scores of the untouched network and of two baselines."""
    levels = {"none": 0.3, "uf": 0.5, "ccf": 0.3}
    table = pl.concat([counted({"edema": dice}).table.with_columns(edit=pl.lit(name)) for name, dice in levels.items()])
    run, stage = Run(tmp_path), Stage("steering/adult-pediatric-edema", "steering", {})

    def make(path, _):
        with new_artifact(path, kind="steering", inputs={}) as draft:
            draft.save_table("scores", table)

    with run.writing({}):
        run.finish(stage, make)
    return run


def entry(**more):
    baselines = {"ccf": 0.3, "uf": 0.5, "random_latents": 0.35, "drop_class": 0.0}
    by_name = {name: scores({"edema": dice}) for name, dice in baselines.items()}
    return steering(scores({"edema": 0.3}), scores({"edema": 0.4}), by_name, **more)


def test_gains_are_sorted_and_have_intervals(run):
    heading, sentence, chart = interventions_section(run, summary(steering=[entry()])).blocks
    assert heading.text == "Edema of adult on pediatric"
    assert "entropy filter (UF), which needs no latents, did better (+0.20)" in sentence.text
    order = [
        chart.wide.index(words) for words in ("entropy filter", "latents (3 changed)", "random latents", "component")
    ]
    assert order == sorted(order)
    assert "+0.20 [+0.20, +0.20]" in chart.wide
    assert "+0.10 [+0.08, +0.12]" in chart.wide
    assert "+0.05<" in chart.wide, "random latents are a mean over draws, and have no interval"
    assert "drop class" not in chart.wide, "a bound that helps nobody stretches the axis"


def test_what_was_not_chosen_or_is_the_oracle_s_is_not_shown(run):
    missing = interventions_section(run, summary(steering=[entry(chosen=False), entry(policy="oracle")])).blocks
    assert [block.tone for block in missing] == ["missing"]
