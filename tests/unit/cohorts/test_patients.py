import polars as pl
import pytest
import torch

from seglens.cohorts.patients import other_slice_rows, patient_halves

INDEX = pl.DataFrame({"patient": list("aaabbcdddeff"), "cohort": ["x"] * 6 + ["y"] * 6})


def test_every_second_patient_is_in_the_other_half():
    assert patient_halves(INDEX).tolist() == [0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1]
    assert patient_halves(pl.DataFrame({"case": ["p", "p", "q"]})).tolist() == [0, 1, 0]
    assert patient_halves(pl.DataFrame({"patient": ["p", "p"]})).tolist() == [0, 0]


def test_another_slice_keeps_the_cohort_and_changes_the_patient():
    rows = other_slice_rows(INDEX, seed=1)
    assert sorted(rows.tolist()) == list(range(12))
    for own, other in enumerate(rows.tolist()):
        assert INDEX["patient"][own] != INDEX["patient"][other]
        assert INDEX["cohort"][own] == INDEX["cohort"][other]


def test_without_patients_no_slice_stays_its_own():
    rows = other_slice_rows(pl.DataFrame({"case": list("aaaabbbbb")}))
    assert sorted(rows.tolist()) == list(range(9))
    assert not bool((rows == torch.arange(9)).any())


def test_a_patient_with_most_of_the_slices_is_refused():
    index = pl.DataFrame({"patient": list("aaab")})
    with pytest.raises(ValueError, match="one patient has 3 of the 4 slices; at most half"):
        other_slice_rows(index)
