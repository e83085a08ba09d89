"""Statements that hold for every input, tried on many."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seglens.artifacts import hash_of
from seglens.cohorts.case import Case, split_by_patient
from seglens.dictionaries.codes import Codes
from seglens.diffing.matching import hungarian
from seglens.segmenters.scoring import count_scores, pooled_dice

quickly = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SMALL = st.integers(0, 2**31 - 1)
LABELS = {0: "background", 1: "core", 2: "edema"}


@quickly
@given(patients=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=30), seed=SMALL)
def test_a_patient_is_never_in_two_splits(patients, seed):
    cases = [
        Case(f"{patient}-{number}", patient, f"{patient}-{number}", "c", {}, None, {})
        for number, patient in enumerate(patients)
    ]
    splits = split_by_patient(cases, {"train": 0.6, "val": 0.15, "test": 0.25}, seed)
    dealt = [case_id for ids in splits.values() for case_id in ids]
    assert sorted(dealt) == sorted(case.id for case in cases)
    owners = {split: {case_id[0] for case_id in ids} for split, ids in splits.items()}
    assert not owners["train"] & owners["val"]
    assert not owners["train"] & owners["test"]
    assert not owners["val"] & owners["test"]
    assert split_by_patient(cases[::-1], {"train": 0.6, "val": 0.15, "test": 0.25}, seed).keys() == splits.keys()


@quickly
@given(dense=arrays("float32", (7, 5), elements=st.sampled_from([0.0, 0.0, 0.5, 1.25, 3.0])))
def test_codes_are_their_dense_form(dense):
    dense = torch.from_numpy(dense)
    codes = Codes.from_dense(dense)
    assert torch.equal(codes.to_dense(), dense)
    assert torch.equal(codes.firing_counts(), (dense > 0).sum(0))
    order = torch.arange(len(dense)).flip(0)
    assert torch.equal(codes.rows(order).to_dense(), dense.flip(0))


@quickly
@given(
    masks=arrays("uint8", (3, 2, 2, 4), elements=st.integers(0, 2)),
    predictions=arrays("uint8", (3, 2, 2, 4), elements=st.integers(0, 2)),
)
def test_dice_is_symmetric_bounded_and_one_for_the_truth(masks, predictions):
    masks, predictions = torch.from_numpy(masks), torch.from_numpy(predictions)
    forward = pooled_dice(count_scores(predictions, masks, LABELS), LABELS)
    backward = pooled_dice(count_scores(masks, predictions, LABELS), LABELS)
    assert forward == pytest.approx(backward, nan_ok=True)
    assert all(value is None or 0 <= value <= 1 for value in forward.values())
    truth = pooled_dice(count_scores(masks, masks, LABELS), LABELS)
    assert all(value in (None, 1.0) for value in truth.values())


@quickly
@given(n=st.integers(1, 8), seed=SMALL)
def test_the_assignment_undoes_a_permutation(n, seed):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    similarity = torch.eye(n)[order].numpy()
    assert hungarian(similarity).tolist() == order.tolist()


@quickly
@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.booleans(), st.none())))
def test_hashes_do_not_depend_on_order(value):
    assert hash_of(value) == hash_of(dict(reversed(value.items())))
    assert hash_of(value) != hash_of({**value, "one more key": str(Path())})
