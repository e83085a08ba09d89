from dataclasses import replace
from typing import Any

import pytest
from tests.records import alignment, cohort, dictionary, effect, failure, outcome, scores, segmenter, summary

from seglens.diffing.records import FunctionRecord
from seglens.reports.findings import plain_findings, span
from seglens.reports.wording import number
from seglens.runs import Run
from seglens.summaries import DictionaryRecord, SegmenterRecord, summary_of


def text_of(**parts: Any) -> str:
    return " ".join(plain_findings(summary(**parts)))


def test_nothing_run_nothing_said() -> None:
    assert plain_findings(summary()) == []


def test_a_share_is_said_with_floor_and_ceiling() -> None:
    text = text_of(alignments=[alignment(0.58, 0.55, 0.96)])
    assert (
        "58% of live latents are called shared at tau 0.8; the floor is 55%, the ceiling 96%: calibrated 0.07" in text
    )
    assert "hardly more than a common seed" in text


@pytest.mark.parametrize(
    ("shared", "floor", "ceiling", "words"),
    [
        (0.95, 0.55, 0.96, "nearly what one model gives twice"),
        (0.50, 0.55, 0.96, "less than a common seed gives"),
        (0.90, 0.96, 0.96, "the share says nothing here"),
        (0.90, None, 0.96, "this share cannot be read"),
    ],
)
def test_the_reading_of_a_share_follows_its_place(
    shared: float, floor: float | None, ceiling: float | None, words: str
) -> None:
    assert words in text_of(alignments=[alignment(shared, floor, ceiling)])


def test_many_pairs_are_one_sentence_with_the_extremes() -> None:
    entries = [alignment(0.6 + 0.1 * n, 0.5, 0.9, source=f"s{n}", target="t") for n in range(4)]
    found = plain_findings(summary(alignments=entries))
    assert len(found) == 1
    assert "60% to 90%" in found[0]
    assert "highest for s3 → t (1.00" in found[0]
    assert "lowest for s0 → t (0.25" in found[0]


def test_what_fires_together_is_said_with_its_null() -> None:
    functional = FunctionRecord(0.04, 0.31, 0.12, None, True)
    text = text_of(alignments=[alignment(0.8, 0.6, 0.9, functional=functional)])
    assert "matched by weight fire together with a mean correlation of 0.04" in text
    assert "by function instead, 0.31 (null: 0.12)" in text


def test_correlations_of_other_widths_stand_in_no_range() -> None:
    """A wider dictionary has more latents to choose among: .32 above a null of .30 is less than .20 above .09."""
    wide, narrow = FunctionRecord(None, 0.32, 0.30, None, False), FunctionRecord(0.04, 0.20, 0.09, 0.31, True)
    text = text_of(alignments=[alignment(None, functional=wide), alignment(0.8, 0.6, 0.9, functional=narrow)])
    assert "by function instead, 0.20 (null: 0.09), 0.50 between null and one model twice" in text
    assert "0.20 to 0.32" not in text
    assert "0.32 (null: 0.30)" in text


def test_recovered_failures_are_said_beside_random_ones() -> None:
    better = text_of(failures=[failure(23, 15.5)])
    assert "recovered 23 (38%) and worsened 0; as many random latents recovered 15.5 (26%) and worsened 0." in better
    assert "did not help" in text_of(failures=[failure(15, 15)])
    assert "no random latents were run" in text_of(failures=[failure(15, None)])
    baseline = text_of(failures=[failure(23, 15, baselines={"ccf": outcome(30), "uf": outcome(2)})])
    assert "component filter (CCF), the best after the fact without latents, recovered 30" in baseline
    assert "own mask" in text_of(failures=[failure(23, 15, policy="oracle")])


def test_what_edits_worsened_is_said_and_counts() -> None:
    baselines = {"ccf": outcome(30, 29), "uf": outcome(12, 1), "reconstruct_only": outcome(60)}
    more = {"worsened": 20, "random_worsened": 2, "baselines": baselines}
    text = text_of(failures=[failure(23, 15, **more)])
    assert "recovered 23 (38%) and worsened 20; as many random latents recovered 15 (25%) and worsened 2" in text
    assert "did not help" in text
    assert "entropy filter (UF), the best after the fact without latents, recovered 12 and worsened 1" in text
    best = text_of(failures=[failure(23, 15, random_best_recovered=30, random_best_worsened=1, **more)])
    assert "the best draw of random latents recovered 30 (50%) and worsened 1" in best
    nothing = text_of(failures=[failure(0, 5, is_identity=True)])
    assert "edits recovered none: nothing beat the untouched network on the selection patients; as many" in nothing
    assert "did not help" not in nothing


def trained(home: float, away: float) -> SegmenterRecord:
    both = {cohort: scores({"x": mean + 0.1, "y": mean - 0.1}) for cohort, mean in (("a", home), ("b", away))}
    return segmenter("m", trained_on="a", scores=both)


def test_segmenters_are_compared_with_themselves_elsewhere() -> None:
    assert "0.80 foreground pooled Dice on its own cohort (a; weakest class: y, 0.70) and 0.40 on b" in text_of(
        segmenters=[trained(0.8, 0.4)]
    )
    higher = text_of(segmenters=[trained(0.8, 0.9)])
    assert "and 0.90 on b." in higher
    assert "no less" not in higher, "no interval of this difference is recorded"
    three = replace(trained(0.8, 0.9), scores=trained(0.8, 0.9).scores | {"c": scores({"x": 0.7, "y": 0.3})})
    assert "and 0.50 on c, the lowest on another." in text_of(segmenters=[three])


def test_a_weak_hookpoint_is_called_weak() -> None:
    def effects(after: float) -> list[SegmenterRecord]:
        return [segmenter("m", hookpoints=("s3",), effects=(effect("s3", after), effect("s4", after)))]

    assert "from 0.70 to 0.30" in text_of(segmenters=effects(0.3))
    assert "can do little" not in text_of(segmenters=effects(0.3))
    assert "So little passes through it in m" in text_of(segmenters=effects(0.65))


def test_of_several_hookpoints_the_weak_one_is_named() -> None:
    one = segmenter("m", hookpoints=("s3", "s1"), effects=(effect("s1", 0.68), effect("s2", 0.6), effect("s3", 0.2)))
    text = text_of(segmenters=[one])
    assert "m at s1 from 0.70 to 0.68, m at s3 from 0.70 to 0.20." in text
    assert "So little passes through it in m at s1, and" in text
    fitted = [dictionary("m", explained_variance=0.9), dictionary("m@s1", explained_variance=0.8)]
    assert "The dictionaries of m explain 80% to 90%" in text_of(dictionaries=fitted)


def test_explained_variance_is_said_with_its_control() -> None:
    def fitted(control: float | None) -> list[DictionaryRecord]:
        return [dictionary("d", explained_variance=0.93, control_explained_variance=control, dice_kept=0.97)]

    assert "alone proves nothing" in text_of(dictionaries=fitted(0.95))
    assert "alone proves nothing" not in text_of(dictionaries=fitted(0.40))
    assert "an untrained model 40%" in text_of(dictionaries=fitted(0.40))
    assert "no untrained model was run" in text_of(dictionaries=fitted(None))
    assert "Dice: 97%" in text_of(dictionaries=fitted(None))


def test_cases_left_out_are_counted() -> None:
    cohorts = [cohort("a", n_quarantined=2), cohort("b")]
    assert "a 2; see Cohorts" in text_of(cohorts=cohorts)


def test_span_of_what_is_written_alike_is_one_value() -> None:
    assert span([0.501, 0.499], number) == "0.50"
    assert span([0.1, None, 0.3], number) == "0.10 to 0.30"
    assert span([None], number) == "–"


def test_a_whole_summary_gives_few_plain_sentences(full_run: Run) -> None:
    found = plain_findings(summary_of(full_run))
    assert 8 <= len(found) <= 16
    assert all(sentence.endswith(".") and "None" not in sentence and "nan" not in sentence for sentence in found)
