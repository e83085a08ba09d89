"""Patients behind an index of slices: halves of them, and for every slice one of another patient."""

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

PATIENT, COHORT = "patient", "cohort"
"""Columns of an index that are looked at where they are there."""


def patient_halves(index: pl.DataFrame) -> Int64[Tensor, " n_slices"]:
    """For every slice 0 where its patient is one of every second by name, from the first on, and else 1.

    Args:
        index: one row a slice; without the column ``patient`` every slice is a patient of its own.
    """
    if PATIENT not in index.columns:
        return torch.arange(len(index)) % 2
    number = index[PATIENT].rank("dense").to_numpy().astype("int64") - 1
    return torch.from_numpy(number) % 2


def other_slice_rows(index: pl.DataFrame, *, seed: int = 0) -> Int64[Tensor, " n_slices"]:
    """For every slice the row of a slice of another patient of its cohort; each is taken once.

    The patients of a cohort are put in random order, and its slices shifted by as many as the largest patient has.

    Args:
        index: one row a slice; without the column ``patient`` every slice is a patient of its own, without ``cohort``
            all are of one.
        seed: of the patients' order.

    Raises:
        ValueError: a patient with more than half of a cohort's slices.
    """
    rows = index.select(
        pl.int_range(pl.len()).alias("row"),
        (pl.col(PATIENT) if PATIENT in index.columns else pl.int_range(pl.len())).alias(PATIENT),
        (pl.col(COHORT) if COHORT in index.columns else pl.lit("")).alias(COHORT),
    )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.empty(len(index), dtype=torch.int64)
    for (cohort,), members in rows.group_by(COHORT, maintain_order=True):
        patients = [part["row"].to_list() for part in members.partition_by(PATIENT, maintain_order=True)]
        largest = max(map(len, patients))
        if 2 * largest > len(members):
            raise ValueError(
                f"one patient has {largest} of the {len(members)} slices{f' of {cohort!r}' if cohort else ''}; at most "
                "half may be of one patient, so that every slice can be replaced by one of another: add patients"
            )
        order = torch.randperm(len(patients), generator=generator).tolist()
        listed = torch.tensor([row for number in order for row in patients[number]])
        chosen[listed] = listed.roll(-largest)
    return chosen
