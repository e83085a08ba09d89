"""Counts per slice and class, of whatever was predicted: all figures follow from them (see `score_summary`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from seglens.artifacts import finite
from seglens.cohorts.label_names import FOREGROUND, refuse_labels
from seglens.cohorts.slice_set import SliceSet, Spacing
from seglens.runtime.progress import Progress, silent
from seglens.segmenters import surface
from seglens.segmenters.decision import CLASSES, Decision
from seglens.segmenters.inference import all_batches, each_batch
from seglens.segmenters.score_summary import (
    CONVENTIONS,
    Convention,
    Score,
    ScoreSummary,
    dice_of_columns,
    dice_of_counts,
    summaries_of,
)
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images, Masks, flat

Counts = Int64[Tensor, "B K 3"]
"""Pixels of each slice and class: true positives, predicted, truth."""

Measured = tuple[Tensor, list[float | None]]
"""Counts of some slices [B K 3], and HD95 slice by slice, class by class where it was asked for."""

SCHEMA: Mapping[str, Any] = {
    "edit": pl.String,
    "row": pl.UInt32,
    "case": pl.String,
    "patient": pl.String,
    "volume": pl.String,
    "label": pl.UInt8,
    "class": pl.String,
    "tp": pl.Int64,
    "predicted": pl.Int64,
    "truth": pl.Int64,
    "hd95_mm": pl.Float64,
}


@dataclass(frozen=True)
class Scores:
    """Counts from which every figure follows.

    Attributes:
        table: one row a slice x class x edit, background included: edit, row (in the SliceSet), case, patient, volume,
            label, class, tp, predicted, truth (pixels), hd95_mm (null where not asked for, where the pixel spacing is
            unknown, or where the class is absent from mask or prediction).
    """

    table: pl.DataFrame

    @classmethod
    def merged(cls, scores: Sequence["Scores"]) -> "Scores":
        """One table of several, for example of several edits."""
        return cls(pl.concat([part.table for part in scores]))

    def _repr_html_(self) -> str:
        rows: list[tuple[object, ...]] = []
        for edit, figures in self.summaries().items():
            for name in (*figures.classes, FOREGROUND):
                rows.append((edit, name, *(figures.score(own, name).value for own in CONVENTIONS)))
        return pl.DataFrame(rows, schema=["edit", "class", *CONVENTIONS], orient="row")._repr_html_()

    def summaries(self) -> dict[str, ScoreSummary]:
        """Summary of every edit, in the order in which the edits appear."""
        return summaries_of(self.table)

    def summary(self, edit: str = "none") -> ScoreSummary:
        """Every figure of one edit, each with its n.

        Raises:
            ValueError: no such edit.
        """
        rows = self.table.filter(pl.col("edit") == edit)
        if rows.is_empty():
            raise ValueError(f"no scores of the edit {edit!r}; there are {sorted(self.table['edit'].unique())}")
        return summaries_of(rows)[edit]

    def dice(self, class_name: str = FOREGROUND, convention: Convention = "pooled", *, edit: str = "none") -> Score:
        """Dice of a class, or of the foreground (the mean of the classes in which it is defined), with its n.

        Args:
            class_name: a foreground class, or ``"foreground"``.
            convention: ``"pooled"`` (counts summed over all slices), ``"sampled"`` (over the kept slices of a
                volume, mean over volumes with the class in the mask), ``"slice_present"`` (mean over slices with the
                class in the mask) or ``"slice_empty1"`` (mean over all slices, absent from both = 1).
            edit: which edit's rows.

        Returns:
            Value (0..1, None where it is undefined) and n.

        Raises:
            ValueError: an unknown class, convention or edit.
        """
        return self.summary(edit).dice(class_name, convention)

    def pooled_by_edit(self, class_name: str = FOREGROUND) -> dict[str, float]:
        """Pooled Dice of a class, or of the foreground, for every edit; 0 where it is undefined."""
        rows = self.table.filter(pl.col("label") > 0 if class_name == FOREGROUND else pl.col("class") == class_name)
        pooled = (
            rows.group_by("edit", "label", maintain_order=True)
            .agg(pl.col("tp", "predicted", "truth").sum())
            .group_by("edit", maintain_order=True)
            .agg(dice_of_columns().mean().fill_null(0.0))
        )
        return dict(pooled.iter_rows())

    def slice_dice(
        self, class_name: str = FOREGROUND, convention: Literal["slice_present", "slice_empty1"] = "slice_empty1"
    ) -> pl.DataFrame:
        """Dice of every slice and edit: columns edit, row, dice, in the order of the table.

        Args:
            class_name: a foreground class, or ``"foreground"``: the mean over the slice's foreground classes.
            convention: ``"slice_empty1"``: a class absent from mask and prediction gives 1. ``"slice_present"``: only
                classes in the slice's mask count; slices without any are left out.
        """
        label = pl.col("label") > 0 if class_name == FOREGROUND else pl.col("class") == class_name
        rows = self.table.filter(label & (pl.col("truth") > 0) if convention == "slice_present" else label)
        dice = dice_of_columns().fill_null(1.0).mean().alias("dice")
        return rows.group_by("edit", "row", maintain_order=True).agg(dice)


@dataclass(frozen=True)
class Truth:
    """True masks of a batch, made ready once to be compared with many predictions.

    Attributes:
        labels: label value (0..K-1) to name.
        cells: of each pixel, where the row of its slice and true label begins in the confusion matrices [B K K].
        decision: of the model, for regions, which hold the voxels of several labels.
    """

    labels: Mapping[int, str]
    cells: Int32[Tensor, "B D H W"]
    decision: Decision = CLASSES

    @classmethod
    def of(cls, masks: Masks, labels: Mapping[int, str], decision: Decision = CLASSES) -> "Truth":
        """Make masks ready.

        Raises:
            ValueError: a value that is not in ``labels``.
        """
        _check_values("masks", masks, labels)
        slice_of = torch.arange(len(masks), device=masks.device, dtype=torch.int32).view(-1, 1, 1, 1)
        return cls(labels, (slice_of * len(labels) + masks) * len(labels), decision)

    def counts(self, predictions: Masks) -> Counts:
        """True positives, predicted and true pixels of every slice and class (see `count_scores`).

        Raises:
            ValueError: another shape than the masks', or a value that is not in ``labels``.
        """
        if predictions.shape != self.cells.shape:
            raise ValueError(
                f"predictions {tuple(predictions.shape)} and masks {tuple(self.cells.shape)} differ in shape"
            )
        _check_values("predictions", predictions, self.labels)
        n_slices, n_classes = len(predictions), len(self.labels)
        confusion = torch.bincount((self.cells + predictions).flatten(), minlength=n_slices * n_classes**2)
        confusion = confusion.view(n_slices, n_classes, n_classes)
        both = confusion.diagonal(dim1=1, dim2=2), confusion.sum(1), confusion.sum(2)
        if not self.decision.members:
            return torch.stack(both, dim=-1)
        member = self.decision.membership(n_classes).to(confusion.device)
        hits = torch.einsum("kt,btp,kp->bk", member.double(), confusion.double(), member.double()).long()
        return torch.stack([hits, *((count[:, None] * member).sum(2) for count in both[1:])], dim=-1)


def count_scores(predictions: Masks, masks: Masks, labels: Mapping[int, str], decision: Decision = CLASSES) -> Counts:
    """True positives, predicted and true pixels of every slice and class, or region.

    Args:
        predictions: predicted labels ``[B D H W]``.
        masks: true labels, same shape and device.
        labels: label value (0..K-1) to name.
        decision: of the model that these are labels of.

    Returns:
        ``[B K 3]`` Int64, on the device of the masks.

    Raises:
        ValueError: shapes that differ, or a value that is not in ``labels``.
    """
    return Truth.of(masks, labels, decision).counts(predictions)


def _check_values(name: str, values: Masks, labels: Mapping[int, str]) -> None:
    if values.numel() and int(values.max()) >= len(labels):
        raise ValueError(
            f"{name} hold the value {int(values.max())}, labels are {dict(labels)}; "
            "map the values in the files when the cohort is read"
        )


def pooled_dice(counts: Counts, labels: Mapping[int, str]) -> dict[str, float | None]:
    """dice_pooled of each foreground class and their mean ``"foreground"``; None where a class is nowhere.

    Raises:
        ValueError: labels of one name, or one that is called as their mean.
    """
    refuse_labels("the counts", labels)
    pooled = dice_of_counts(counts.sum(0)).float().tolist()
    values = {name: finite(pooled[label]) for label, name in labels.items() if label != 0}
    known = [value for value in values.values() if value is not None]
    return {**values, FOREGROUND: sum(known) / len(known) if known else None}


def predict_slices(segmenter: Segmenter, slices: SliceSet, batch_size: int = 32, progress: Progress = silent) -> Masks:
    """Predicted labels of all slices ``[n D H W]``, on the CPU.

    Raises:
        ValueError: slices of other sequences than the segmenter's.
    """
    segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing, regions=True)

    def predicted(_rows: Sequence[int], images: Images) -> Masks:
        return segmenter.predict(images).cpu()

    parts = each_batch(predicted, segmenter, slices, batch_size=batch_size, progress=progress)
    return torch.cat([masks for _, masks in parts])


def score_predictions(
    predictions: Masks, slices: SliceSet, *, with_hd95: bool = False, edit_name: str = "none", batch_size: int = 256
) -> Scores:
    """Scores of predicted labels ``[n D H W]`` of all slices of the set, whoever predicted them.

    Args:
        predictions: on the CPU.
        slices: their masks, index and labels.
        with_hd95: also the 95th percentile Hausdorff distance (slow, and of slices only).
        edit_name: what the rows are called.
        batch_size: slices counted at once.

    Raises:
        ValueError: predictions of another shape than the set's masks.
    """
    if tuple(predictions.shape) != (len(slices), *slices.size):
        raise ValueError(
            f"the predictions are {tuple(predictions.shape)}; {slices.name!r} needs {(len(slices), *slices.size)}"
        )
    measured = [
        _measured(predictions[rows[0] : rows[-1] + 1], slices, rows, with_hd95) for rows in slices.batches(batch_size)
    ]
    return _scores_of(measured, slices, edit_name)


def scores_from_counts(
    counts: Counts,
    slices: SliceSet,
    *,
    edit_name: str = "none",
    distances: Sequence[float | None] | None = None,
) -> Scores:
    """The table of Scores from counts ``[n K 3]`` of all slices, and HD95 (mm) slice by slice, class by class."""
    n_classes = len(slices.labels)
    counts = counts.cpu()
    labels = sorted(slices.labels)
    index = slices.index.select("row", "case", "patient", "volume")
    table = index[torch.arange(len(index)).repeat_interleave(n_classes).numpy()]
    columns: dict[str, Any] = {
        "label": labels * len(index),
        "class": [slices.labels[label] for label in labels] * len(index),
        "tp": counts[..., 0].flatten().numpy(),
        "predicted": counts[..., 1].flatten().numpy(),
        "truth": counts[..., 2].flatten().numpy(),
        "hd95_mm": [None] * (len(index) * n_classes) if distances is None else list(distances),
    }
    table = table.with_columns(pl.lit(edit_name).alias("edit"), *(pl.Series(k, v) for k, v in columns.items()))
    return Scores(table.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items()))


def evaluate(
    segmenter: Segmenter,
    slices: SliceSet,
    *,
    hd95: bool = False,
    edit_name: str = "none",
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: Progress = silent,
) -> Scores:
    """Predict every slice and compare with its mask; of a model of regions, region by region.

    In a torch.distributed group the batches are dealt to the processes, and every process returns all scores, equal to
    those of one process in every bit.

    Args:
        segmenter: as it is, with whatever edits are in force.
        slices: with masks, of the segmenter's sequences and labels.
        hd95: also the 95th percentile Hausdorff distance in mm.
        edit_name: what the rows are called in ``Scores.table``.
        batch_size: slices predicted at once.
        device: where to run; the network is moved there; None: where it is.
        progress: told after each batch.

    Raises:
        ValueError: other sequences or labels than the segmenter's.
    """
    segmenter.check_data(slices.name, slices.sequences, slices.labels, preprocessing=slices.preprocessing, regions=True)
    if device is not None:
        segmenter.to(device)

    def measured(rows: Sequence[int], images: Images) -> Measured:
        return _measured(segmenter.predict(images).cpu(), slices, rows, hd95, segmenter.decision)

    measurements = all_batches(measured, segmenter, slices, batch_size=batch_size, progress=progress)
    return _scores_of(measurements, slices, edit_name)


def _measured(
    predicted: Masks, slices: SliceSet, rows: Sequence[int], with_hd95: bool, decision: Decision = CLASSES
) -> Measured:
    """Counts of some slices, and HD95 slice by slice, class by class; no HD95 unless it is asked for."""
    truth = slices.masks(rows)
    distances: list[float | None] = []
    if with_hd95:
        for own_predicted, own_truth, sides_mm in zip(
            predicted.split(1), truth.split(1), slices.spacing_mm(rows), strict=True
        ):
            distances.append(None)  # the background has no lesion surface
            for label in sorted(slices.labels)[1:]:
                one, other = (flat(decision.belongs(own, label))[0] for own in (own_predicted, own_truth))
                distances.append(_hd95(one, other, sides_mm))
    return count_scores(predicted, truth, slices.labels, decision), distances


def _hd95(predicted: Tensor, truth: Tensor, spacing_mm: Spacing) -> float | None:
    """Of a plane ``[H W]`` or a volume ``[D H W]``; None where a side of its voxels is not known."""
    sides = [side for side in spacing_mm[-predicted.ndim :] if side]
    if len(sides) < predicted.ndim:
        return None
    distances = surface.surface_distances(predicted.numpy(), truth.numpy(), sides)
    return None if distances is None else surface.hd95(distances)


def _scores_of(measured: Sequence[Measured], slices: SliceSet, edit_name: str) -> Scores:
    """Scores of all slices from the measurements of the batches that they were cut into."""
    distances = [distance for _, batch in measured for distance in batch]
    counts = torch.cat([counts for counts, _ in measured])
    return scores_from_counts(counts, slices, edit_name=edit_name, distances=distances or None)
