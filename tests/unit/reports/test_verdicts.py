from dataclasses import replace

import pytest
from tests.records import scores, steering, summary

from seglens.reports.verdicts import baselines_of, compared, steering_finding, steering_findings
from seglens.segmenters.score_summary import ScoreSummary
from seglens.steering.records import GainRecord, SteeringRecord


def figures(pooled: float | None, empty1: float | None = None) -> ScoreSummary:
    return scores({"edema": pooled}, dice_slice_empty1={"edema": empty1})


def entry(before: float, after: float, **baselines: float) -> SteeringRecord:
    others = {name: figures(value) for name, value in baselines.items()}
    return steering(figures(before), figures(after), others, settings={})


def test_a_difference_below_the_printed_digit_is_none() -> None:
    assert [compared(a, 0.5) for a in (0.504, 0.496, 0.506, 0.494)] == [0, 0, 1, -1]


@pytest.mark.parametrize(
    ("before", "after", "baselines", "words"),
    [
        (
            0.30,
            0.45,
            {"logit_bias": 0.40, "random_latents": 0.31},
            "beats logit bias, the baseline that the selection patients chose, by +0.05 [+0.03, +0.07]",
        ),
        (0.30, 0.45, {"logit_bias": 0.50, "random_latents": 0.31}, "falls behind logit bias"),
        (0.30, 0.45, {"logit_bias": 0.452, "random_latents": 0.31}, "cannot be told from logit bias"),
        (
            0.30,
            0.45,
            {"logit_bias": 0.40, "random_latents": 0.46},
            "not due to the chosen latents, as far as can be told: random latents",
        ),
        (
            0.30,
            0.45,
            {"logit_bias": 0.40, "reconstruct_only": 0.45},
            "not due to the chosen latents, as far as can be told: reconstruction",
        ),
        (0.30, 0.45, {"random_latents": 0.31}, "No baseline at the output was run"),
        (0.30, 0.45, {}, "Nothing was run beside it"),
        (0.45, 0.30, {"logit_bias": 0.20}, "made this class worse"),
        (0.30, 0.302, {"logit_bias": 0.20}, "cannot be told from the untouched network"),
    ],
)
def test_the_verdict_follows_the_numbers(before: float, after: float, baselines: dict[str, float], words: str) -> None:
    assert words in steering_finding(entry(before, after, **baselines))


def test_a_gain_whose_interval_holds_zero_is_none() -> None:
    """Three hundredths over a handful of patients: a fixed .005 calls it a gain that beats every baseline."""
    figures_of = {"logit_bias": 0.31, "random_latents": 0.30}
    others = {name: figures(value) for name, value in figures_of.items()}
    sure, unsure = (
        steering_finding(steering(figures(0.30), figures(0.33), others, settings={}, reach=reach))
        for reach in (0.01, 0.08)
    )
    assert "raised pooled Dice from 0.30 to 0.33, difference [+0.02, +0.04] over 11 patients" in sure
    assert "beats logit bias" in sure
    assert "took pooled Dice from 0.30 to 0.33, difference [−0.05, +0.11] over 11 patients" in unsure
    assert "cannot be told from the untouched network" in unsure
    assert "beats" not in unsure


def test_an_edit_beats_nothing_while_one_kind_of_random_latents_comes_within_its_interval() -> None:
    """Edit .50, random latents .45, logit bias .13: ahead of the bias by .37, and perhaps of no random draw."""
    one = entry(0.30, 0.50, logit_bias=0.13, random_latents=0.46, random_best=0.45)
    sure = one.gains | {"random_best": GainRecord(0.05, 0.02, 0.08)}
    text = steering_finding(replace(one, gains=sure))
    assert "beats logit bias, the baseline that the selection patients chose, by +0.37 [+0.35, +0.39]" in text
    assert text.endswith("and random latents, by +0.04 and the best draw of random latents, by +0.05.")
    unsure = one.gains | {"random_best": GainRecord(0.05, -0.02, 0.12)}
    text = steering_finding(replace(one, gains=unsure))
    assert "beats" not in text
    assert "the best draw of random latents did as well" in text
    assert "no random latents were run beside it" in steering_finding(entry(0.30, 0.50, logit_bias=0.13))


def test_a_small_gain_whose_interval_excludes_zero_is_one() -> None:
    text = steering_finding(steering(figures(0.3), figures(0.304), {}, settings={}, reach=0.002))
    assert "raised pooled Dice from 0.300 to 0.304" in text


def test_the_baseline_is_the_one_that_was_chosen_and_the_best_after_the_fact_stands_beside_it() -> None:
    text = steering_finding(replace(entry(0.30, 0.45, ccf=0.31, uf=0.44, flip=0.32), best_baseline="ccf"))
    assert "component filter (CCF), reached 0.31 (the best after the fact, entropy filter (UF), 0.44)" in text
    assert "beats component filter (CCF)" in text


def test_the_sentence_turns_with_the_sign() -> None:
    assert "raised pooled Dice from 0.30 to 0.45" in steering_finding(entry(0.30, 0.45))
    assert "lowered pooled Dice from 0.45 to 0.30" in steering_finding(entry(0.45, 0.30))
    assert "left pooled Dice at 0.30 (before: 0.30)" in steering_finding(entry(0.30, 0.301))
    assert "from 0.053 to 0.060" in steering_finding(entry(0.053, 0.060)), "small values keep three digits"


def test_no_edit_is_said_to_be_none() -> None:
    text = steering_finding(replace(entry(0.3, 0.3), latents=()))
    assert "nothing was changed and pooled Dice stays at 0.30" in text


def test_an_identity_is_said_to_be_none() -> None:
    text = steering_finding(replace(entry(0.3, 0.3), is_identity=True))
    assert "nothing beat the untouched network on the selection patients, so nothing was changed" in text


def test_the_better_of_the_random_controls_counts() -> None:
    best_draw = entry(0.30, 0.45, random_latents=0.31, random_best=0.46)
    assert baselines_of(best_draw, "edema")[1] == {"random_best": 0.46}
    assert "the best draw of random latents did as well" in steering_finding(best_draw)
    mean = entry(0.30, 0.45, random_latents=0.33, random_best=0.31)
    assert baselines_of(mean, "edema")[1] == {"random_latents": 0.33}


def test_a_convention_that_reads_differently_is_named_without_a_verdict() -> None:
    story = replace(entry(0.05, 0.0, drop_class=0.0), before=figures(0.05, 0.48), after=figures(0.0, 0.65))
    text = steering_finding(story)
    assert "read differently (of this no interval was recorded): 0.48 to 0.65" in text
    same = replace(entry(0.3, 0.5), before=figures(0.3, 0.3), after=figures(0.5, 0.5))
    assert "read differently" not in steering_finding(same)


def test_the_best_baseline_is_no_control() -> None:
    best, controls = baselines_of(entry(0.1, 0.2, ccf=0.11, uf=0.15, random_latents=0.3, reconstruct_only=0.4), "edema")
    assert best == ("uf", 0.15)
    assert controls == {"random_latents": 0.3, "reconstruct_only": 0.4}
    assert baselines_of(entry(0.1, 0.2), "edema") == (None, {})


def test_the_oracle_is_a_gap_not_a_finding() -> None:
    chosen = entry(0.3, 0.4, logit_bias=0.35)
    other = replace(entry(0.3, 0.39, logit_bias=0.35), chosen=False)
    oracle = replace(entry(0.3, 0.6, logit_bias=0.35), policy="oracle")
    elsewhere = replace(oracle, target="ssa", after=figures(0.9))
    undefined = replace(entry(0.3, 0.4), after=figures(None))
    texts = list(steering_findings(summary(steering=[chosen, other, oracle, elsewhere, undefined])))
    assert len(texts) == 1
    assert texts[0].endswith("(oracle, not deployable): 0.60.")
