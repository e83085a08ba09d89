import json
from typing import Any

import pytest

from seglens.reports.findings import plain_findings, span
from seglens.reports.wording import number
from seglens.runs import Run


def text_of(**parts: Any) -> str:
    return " ".join(plain_findings(parts))


def pair(shared: float, floor: float | None, ceiling: float | None, **more: Any) -> dict[str, Any]:
    known = floor is not None and ceiling is not None and ceiling > floor
    calibrated = (shared - floor) / (ceiling - floor) if known else None  # type: ignore[operator]
    return {"source": "a", "target": "b", "shared": shared, "floor": floor, "ceiling": ceiling, "tau": 0.8} | {
        "calibrated": calibrated,
        **more,
    }


def test_nothing_run_nothing_said() -> None:
    assert plain_findings({}) == []
    assert plain_findings({"steering": [], "alignments": None, "universal": None}) == []


def test_a_share_is_said_with_floor_and_ceiling() -> None:
    text = text_of(alignments=[pair(0.58, 0.55, 0.96)])
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
    assert words in text_of(alignments=[pair(shared, floor, ceiling)])


def test_many_pairs_are_one_sentence_with_the_extremes() -> None:
    entries = [pair(0.6 + 0.1 * n, 0.5, 0.9, source=f"s{n}", target="t") for n in range(4)]
    found = plain_findings({"alignments": entries})
    assert len(found) == 1
    assert "60% to 90%" in found[0]
    assert "highest for s3 → t (1.00" in found[0]
    assert "lowest for s0 → t (0.25" in found[0]


def test_what_fires_together_is_said_with_its_null() -> None:
    functional = {"matched_by_weight": 0.04, "matched_by_function": 0.31, "floor": 0.12}
    text = text_of(alignments=[pair(0.8, 0.6, 0.9, functional=functional)])
    assert "matched by weight fire together with a mean correlation of 0.04" in text
    assert "by function instead, 0.31 (null: 0.12)" in text


def failure(recovered: float, random: float | None, **more: Any) -> dict[str, Any]:
    return {"segmenter": "a", "cohort": "a", "policy": "held_out", "n": 60, "recovered": recovered} | {
        "random_recovered": random,
        **more,
    }


def test_recovered_failures_are_said_beside_random_ones() -> None:
    better = text_of(failures=[failure(23, 15.5)])
    assert "recovered 23 (38%); as many random latents recovered 15.5 (26%)." in better
    assert "did not help" in text_of(failures=[failure(15, 15)])
    assert "no random latents were run" in text_of(failures=[failure(15, None)])
    baseline = text_of(failures=[failure(23, 15, baselines={"ccf": {"recovered": 30}, "uf": {"recovered": 2}})])
    assert "component filter (CCF), without latents, recovered 30" in baseline
    assert "own mask" in text_of(failures=[failure(23, 15, policy="oracle")])
    assert text_of(failures=[failure(0, 0, n=0)]) == ""


def test_what_edits_worsened_is_said_and_counts() -> None:
    baselines = {"ccf": {"recovered": 30, "worsened": 29}, "uf": {"recovered": 12, "worsened": 1}}
    more = {"worsened": 20, "random_worsened": 2, "baselines": baselines | {"reconstruct_only": {"recovered": 60}}}
    text = text_of(failures=[failure(23, 15, **more)])
    assert "recovered 23 (38%) and worsened 20; as many random latents recovered 15 (25%) and worsened 2" in text
    assert "did not help" in text
    assert "entropy filter (UF), without latents, recovered 12 and worsened 1" in text
    best = text_of(failures=[failure(23, 15, random_best_recovered=30, random_best_worsened=1, **more)])
    assert "the best draw of random latents recovered 30 (50%) and worsened 1" in best
    nothing = text_of(failures=[failure(0, 5, is_identity=True)])
    assert "edits recovered none: nothing beat the untouched network on the selection patients; as many" in nothing
    assert "did not help" not in nothing


def segmenter(home: float, away: float) -> dict[str, Any]:
    scores = {"a": home, "b": away}
    return {
        "name": "m",
        "trained_on": "a",
        "scores": {
            cohort: {"dice_pooled": {"x": value + 0.1, "y": value - 0.1, "foreground": value}}
            for cohort, value in scores.items()
        },
    }


def test_segmenters_are_compared_with_themselves_elsewhere() -> None:
    assert "0.80 foreground pooled Dice on its own cohort (a; weakest class: y, 0.70) and 0.40 on b" in text_of(
        segmenters=[segmenter(0.8, 0.4)]
    )
    assert "no less on any other (lowest: b, 0.90)" in text_of(segmenters=[segmenter(0.8, 0.9)])


def test_a_weak_hookpoint_is_called_weak() -> None:
    def effects(after: float) -> list[dict[str, Any]]:
        effect = {"hookpoint": "s3", "class": "foreground", "dice_before": 0.7, "dice_ablated": after}
        return [{"name": "m", "hookpoint": "s3", "effects": [effect, effect | {"hookpoint": "s4"}]}]

    assert "from 0.70 to 0.30" in text_of(segmenters=effects(0.3))
    assert "can do little" not in text_of(segmenters=effects(0.3))
    assert "So little passes through it in m" in text_of(segmenters=effects(0.65))


def test_explained_variance_is_said_with_its_control() -> None:
    def dictionary(control: float | None) -> list[dict[str, Any]]:
        return [{"name": "d", "explained_variance": 0.93, "control_explained_variance": control, "dice_kept": 0.97}]

    assert "alone proves nothing" in text_of(dictionaries=dictionary(0.95))
    assert "alone proves nothing" not in text_of(dictionaries=dictionary(0.40))
    assert "an untrained model 40%" in text_of(dictionaries=dictionary(0.40))
    assert "no untrained model was run" in text_of(dictionaries=dictionary(None))
    assert "Dice: 97%" in text_of(dictionaries=dictionary(None))


def test_cases_left_out_are_counted() -> None:
    cohorts = [{"name": "a", "n_quarantined": 2}, {"name": "b", "n_quarantined": 0}]
    assert "a 2; see Cohorts" in text_of(cohorts=cohorts)


def test_span_of_what_is_written_alike_is_one_value() -> None:
    assert span([0.501, 0.499], number) == "0.50"
    assert span([0.1, None, 0.3], number) == "0.10 to 0.30"
    assert span([None], number) == "–"


def test_a_whole_summary_gives_few_plain_sentences(full_run: Run) -> None:
    found = plain_findings(full_run.summary)
    assert 8 <= len(found) <= 16
    assert all(sentence.endswith(".") and "None" not in sentence and "nan" not in sentence for sentence in found)
    assert found == plain_findings(json.loads(json.dumps(full_run.summary)))
