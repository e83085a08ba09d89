from dataclasses import fields

import numpy as np
import polars as pl
import pytest
import torch

from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.codes import Codes
from seglens.diffing.differential import Responses
from seglens.experiments import NotApplicableError
from seglens.experiments.differential import TEST, Thresholds, among, by_crosscoder, named_good, summary
from seglens.experiments.differential_bench import (
    FACTORS,
    NONE,
    POPULATION,
    Bench,
    Sizes,
    alternating,
    held_out_cohorts,
    joined,
    of_patients,
    open_bench,
    paired,
    responses_of,
)
from seglens.phantoms.populations import resolve
from seglens.runs import Run
from seglens.studies.stages import Study
from seglens.studies.table import analysis_table


def _slices(name: str, patients: list[str], *, lesion_of: set[str]) -> SliceSet:
    """One slice of 4 x 4 pixels a patient, the upper left quarter a lesion in some."""
    masks = torch.zeros(len(patients), 4, 4, dtype=torch.uint8)
    for row, patient in enumerate(patients):
        masks[row, :2, :2] = patient in lesion_of
    return SliceSet.from_tensors(
        torch.rand(len(patients), 1, 4, 4),
        masks,
        torch.ones(len(patients), 4, 4, dtype=torch.bool),
        pl.DataFrame({"case": patients}),
        name=name,
        sequences=["T1"],
        labels={0: "background", 1: "lesion"},
    )


@pytest.mark.parametrize("factor", [factor for factor in FACTORS if factor != NONE])
def test_a_factor_changes_one_prior_only(factor: str) -> None:
    off, on = resolve(POPULATION, {}), resolve(POPULATION, FACTORS[factor])
    changed = [part.name for part in fields(off) if getattr(off, part.name) != getattr(on, part.name)]
    assert changed == list(FACTORS[factor])


def test_responses_are_by_region_and_leave_out_who_has_no_lesion() -> None:
    slices = _slices("some", ["b", "a", "c"], lesion_of={"a", "b"})
    dense = torch.zeros(12, 2)
    dense[0, 0], dense[5, 1] = 3.0, 6.0  # the lesion of b, and a token elsewhere in a
    found = responses_of(Codes.from_dense(dense), slices, (1, 2, 2))
    assert (found.patients, found.regions) == (("a", "b"), ("lesion", "rest"))
    assert found.values.tolist() == [[[0, 0], [0, 2]], [[3, 0], [0, 0]]]


def test_patients_are_paired_by_name() -> None:
    off = responses_of(
        Codes.from_dense(torch.ones(12, 2)), _slices("off", ["a", "b", "c"], lesion_of=set("abc")), (1, 2, 2)
    )
    on = responses_of(Codes.from_dense(torch.ones(8, 2)), _slices("on", ["c", "a"], lesion_of=set("ac")), (1, 2, 2))
    assert [side.patients for side in paired(off, on)] == [("a", "c"), ("a", "c")]


def test_two_cohorts_with_the_same_names_are_joined_as_different_patients() -> None:
    one, other = (_slices(name, ["a", "b"], lesion_of=set()) for name in ("one", "other"))
    both = joined(one, other)
    assert both.index["patient"].to_list() == ["0/a", "0/b", "1/a", "1/b"]
    torch.testing.assert_close(both.images(), torch.cat([one.images(), other.images()]))


def test_two_renderings_of_one_patient_stay_one_patient() -> None:
    off, on = (_slices(name, ["a", "b"], lesion_of=set()) for name in ("off", "on"))
    both = joined(off, on, same_patients=True)
    assert both.index["patient"].to_list() == ["a", "b", "a", "b"]
    torch.testing.assert_close(both.images(), torch.cat([off.images(), on.images()]))


def test_calls_and_scores_of_a_crosscoder_dictionary_are_of_different_patients() -> None:
    off, on = (_slices(name, [*"cabad"], lesion_of=set()) for name in ("off", "on"))
    calling, scoring = alternating(off.index["patient"].to_list())
    assert (calling, scoring) == (["a", "c"], ["b", "d"])
    called_on = joined(*(of_patients(slices, calling) for slices in (off, on)), same_patients=True)
    assert called_on.index["patient"].to_list() == ["c", "a", "a", "c", "a", "a"]
    torch.testing.assert_close(called_on.images(), torch.cat([side.images([0, 1, 3]) for side in (off, on)]))
    responses = Responses(("a", "b", "d"), ("rest",), np.arange(3.0).reshape(3, 1, 1))
    scored = among(responses, scoring)
    assert (scored.patients, scored.values.flatten().tolist()) == (("b", "d"), [1.0, 2.0])


class _Called(Bench):
    """A bench without a study, whose crosscoder calls latent 0."""

    def __init__(self):
        pass

    def crosscoder(self, hookpoint, factor):
        return None, [0], 1

    def crosscoder_responses(self, crosscoder, hookpoint, cohort):
        return Responses(("a", "b", "c", "d"), ("rest",), np.arange(1.0, 5.0).reshape(4, 1, 1))

    def held_out_halves(self):
        return alternating(["a", "b", "c", "d"])


def test_the_crosscoder_methods_are_scored_on_no_patient_that_they_were_called_on() -> None:
    found = by_crosscoder(_Called(), "early", "noise", Thresholds({}, {}))
    assert {one.held_out[side].patients for one in found.values() for side in (0, 1)} == {("b", "d")}
    assert {side.patients for one in found.values() for side in one.discovery} == {("a", "b", "c", "d")}


def test_without_a_factor_the_held_out_patients_are_their_own_pair() -> None:
    assert held_out_cohorts(NONE) == ("held out/off", "held out/off")
    assert held_out_cohorts("noise") == ("held out/off", "held out/noise")


def test_a_factor_that_is_not_found_counts_as_chance_and_every_call_on_no_difference_as_false() -> None:
    columns = ["method", "hookpoint", "factor", "called", "live", "within", "between", "together"]
    rows = [
        (TEST, "early", NONE, 0, 10, None, None, None),
        (TEST, "early", "noise", 4, 10, 1.0, 0.9, 1.0),
        (TEST, "early", "contrast", 0, 10, 0.5, 0.5, 0.5),
        ("other", "early", NONE, 5, 10, None, None, None),
        ("other", "early", "noise", 5, 10, 0.7, 0.6, 0.8),
        ("other", "early", "contrast", 5, 10, 0.5, 0.4, 0.6),
    ]
    response = pl.DataFrame(rows, schema=columns, orient="row")
    null = pl.DataFrame({"hookpoint": ["early"] * 3, "split": [0, 1, 2], "called": [0, 0, 2], "testable": [10] * 3})
    test, other = summary(response, null).to_dicts()
    assert (test["populations"], test["false discovery rate"], test["factors found"]) == (4, 0.25, 1)
    assert test["false share"] == pytest.approx(0.05)
    assert test["within"] == pytest.approx(0.75)
    assert (other["populations"], other["false discovery rate"], other["false share"]) == (1, 1.0, 0.5)


def test_a_study_without_tumour_phantom_labels_cannot_carry_it(tiny_settings, tmp_path) -> None:
    run = Run(tmp_path / "run")
    with run.writing({}), pytest.raises(NotApplicableError, match="planted in phantoms only"):
        open_bench(Study(tiny_settings, run, analysis_table()), Sizes())


def test_a_method_is_good_by_the_response_that_is_asked_for_and_says_how_often_it_was_tried() -> None:
    columns = ["method", "hookpoint", "populations", "false discovery rate", "within", "between"]
    rows = [("a", "early", 101, 0.02, 0.95, 0.80), ("b", "early", 1, 0.0, 0.92, 0.91), ("c", "early", 1, 1.0, 1.0, 1.0)]
    methods = pl.DataFrame(rows, schema=columns, orient="row")
    assert named_good(methods, "within") == "a at early (101), b at early (1)"
    assert named_good(methods, "between") == "b at early (1)"
    assert named_good(methods.head(0), "within") == "no method"
