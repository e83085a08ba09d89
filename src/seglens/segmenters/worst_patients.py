"""The patients that a segmenter segments worst, each with the prediction of the slice where most is wrong."""

from dataclasses import dataclass

import polars as pl
import torch

from seglens.artifacts import Artifact, Draft
from seglens.cohorts.slice_set import SliceSet
from seglens.segmenters.score_summary import dice_of_columns
from seglens.segmenters.scoring import Scores, predict_slices
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Masks, flat, with_depth

MAX_PATIENTS = 4
FILE = "worst"


@dataclass(frozen=True)
class WorstPatients:
    """One slice of each of the worst patients, worst first.

    Attributes:
        rows: of the scored set.
        predicted: labels there [n D H W].
    """

    rows: tuple[int, ...]
    predicted: Masks

    def write(self, draft: Draft) -> None:
        """Write into an artifact beside its scores; nothing where there is no patient."""
        if self.rows:
            draft.save_tensors(FILE, {"rows": torch.tensor(self.rows), "predicted": flat(self.predicted)})

    @classmethod
    def read(cls, artifact: Artifact) -> "WorstPatients | None":
        """Read what ``write`` wrote, None where it wrote nothing."""
        if not artifact.has(f"{FILE}.safetensors"):
            return None
        tensors = artifact.tensors(FILE)
        return cls(tuple(tensors["rows"].tolist()), with_depth(tensors["predicted"], 4))


def worst_patients(segmenter: Segmenter, slices: SliceSet, scores: Scores) -> WorstPatients:
    """Predict one slice of each of the worst patients once more, to be shown.

    Args:
        segmenter: as it was scored.
        slices: that it was scored on.
        scores: of them.
    """
    rows = worst_rows(scores)
    predicted = (
        predict_slices(segmenter, slices.select(rows)) if rows else torch.empty(0, *slices.size, dtype=torch.uint8)
    )
    return WorstPatients(tuple(rows), predicted)


def worst_rows(scores: Scores, most: int = MAX_PATIENTS) -> list[int]:
    """Rows of the slices with most wrong pixels of the patients with the lowest Dice, worst first.

    Args:
        scores: of the untouched network.
        most: patients at most; those without any class in the mask are left out.
    """
    worst = patient_dice(scores).sort("dice", "patient")["patient"].to_list()[:most]
    wrong = pl.col("predicted") + pl.col("truth") - 2 * pl.col("tp")
    of_slice = (
        _foreground(scores)
        .group_by("patient", "row")
        .agg(wrong.sum().alias("wrong"))
        .sort(["wrong", "row"], descending=[True, False])
    )
    first = dict(of_slice.group_by("patient", maintain_order=True).agg(pl.col("row").first()).iter_rows())
    return [int(first[patient]) for patient in worst]


def patient_dice(scores: Scores) -> pl.DataFrame:
    """Mean pooled Dice of every patient over the classes in the patient's mask: patient, dice."""
    by_class = (
        _foreground(scores).group_by("patient", "class").agg(pl.col("tp", "predicted", "truth").sum())
        .filter(pl.col("truth") > 0).sort("patient", "class").with_columns(dice_of_columns().alias("dice"))
    )  # fmt: skip
    return by_class.group_by("patient", maintain_order=True).agg(pl.col("dice").mean())


def _foreground(scores: Scores) -> pl.DataFrame:
    return scores.table.filter((pl.col("label") > 0) & (pl.col("edit") == "none"))
