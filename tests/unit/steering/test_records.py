import json
import math

import pytest
from tests.records import failure, outcome, scores, steering

from seglens.documents import DocumentError, from_document, to_document
from seglens.segmenters.intervals import Interval
from seglens.steering.edits import LatentEdit
from seglens.steering.records import FailureRecord, GainRecord, SteeringRecord

BEFORE, AFTER = scores({"edema": 0.3, "core": None}), scores({"edema": 0.4, "core": None})


def again(records, kind):
    return from_document(json.dumps(to_document(records, list[kind])), list[kind], "results.json")


def test_a_steering_record_comes_back_with_its_edit_and_scores():
    record = steering(BEFORE, AFTER, {"ccf": BEFORE})
    assert again([record], SteeringRecord) == [record]
    document = to_document(record)
    assert document["class"] == "edema"
    assert "class_name" not in document
    assert document["after"]["dice_pooled"] == {"edema": 0.4, "core": None, "foreground": 0.4}
    assert LatentEdit.from_description(record.edit_description).latents == record.latents


def test_a_failure_record_leaves_out_what_its_policy_does_not_have():
    held_out = failure(23, 15.5, random_best_recovered=20, firing_rate=0.1, baselines={"ccf": outcome(3)})
    oracle = failure(30, 20.0, policy="oracle", latents=None, alpha=None)
    assert again([held_out, oracle], FailureRecord) == [held_out, oracle]
    document = to_document(oracle)
    assert document["latents"] is None
    assert not {"random_best_recovered", "firing_rate", "dice_all_before"} & set(document)
    assert to_document(held_out)["baselines"]["ccf"] == {
        "recovered": 3, "worsened": 0, "net": 3, "mean_after": 0.22, "setting": {},
    }  # fmt: skip


def test_a_policy_or_a_count_that_there_is_not_is_refused():
    document = to_document([failure(23, 15.5)], list[FailureRecord])
    document[0] |= {"policy": "luck", "recovered": 2.5}
    with pytest.raises(DocumentError, match=r"0\.policy: .*'held_out' or 'oracle', got 'luck'; 0\.recovered: .*2\.5"):
        from_document(json.dumps(document), list[FailureRecord], "results.json")


def test_a_gain_has_a_sign_where_its_interval_excludes_0_and_ends_where_dice_does():
    signs = [GainRecord(0.1, low, high).sign for low, high in ((0.05, 0.2), (-0.1, 0.3), (-0.3, -0.1), (None, None))]
    assert signs == [1, 0, -1, 0]
    assert GainRecord.of(Interval(0.2, -1.98, 2.41, 2, 2000)) == GainRecord(0.2, -1.0, 1.0)
    assert GainRecord.of(Interval(0.2, math.nan, math.nan, 1, 2000)) == GainRecord(0.2, None, None)
