"""Figures that follow from counts: Dice in four conventions, HD95, precision, recall, missed lesions, each with its n.

The one place where Dice is computed. A slice where a class is absent from both mask and prediction has no Dice.
Counting it as 1 rewards "never predict the class"; so every convention is always given, each with the number of slices,
volumes or classes behind it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import polars as pl
from jaxtyping import Float64, Int64
from torch import Tensor

from seglens.cohorts.label_names import FOREGROUND, refuse_labels

Convention = Literal["pooled", "sampled", "slice_present", "slice_empty1"]
CONVENTIONS = ("dice_pooled", "dice_sampled", "dice_slice_present", "dice_slice_empty1")
FIGURES = (*CONVENTIONS, "precision", "recall", "hd95_mm")
"""What a `ScoreSummary` gives for each class and for the foreground, the mean over classes in which it is defined."""

ByClass = Mapping[str, float | None]
"""A figure of each foreground class and of their mean, None where it is undefined."""


def dice_of_counts(counts: Int64[Tensor, "*any 3"]) -> Float64[Tensor, "*any"]:
    """Dice of true positives, predicted and true pixels; NaN where a class is in neither mask."""
    tp, predicted, truth = counts.double().unbind(-1)
    return 2 * tp / (predicted + truth)


def dice_of_columns() -> pl.Expr:
    """Dice of the columns tp, predicted and truth; null where a class is in neither mask."""
    both = pl.col("predicted") + pl.col("truth")
    return pl.when(both > 0).then(2 * pl.col("tp") / both)


@dataclass(frozen=True)
class Score:
    """A figure with what stands behind it.

    Attributes:
        value: None where it is undefined.
        n: slices, volumes, pixels or (of a mean over classes) classes that it is made of; 0 where it is undefined.
    """

    value: float | None
    n: int

    def __str__(self) -> str:
        return f"undefined (n {self.n})" if self.value is None else f"{self.value:.4f} (n {self.n})"


@dataclass(frozen=True)
class ScoreCounts:
    """The n of every figure of a `ScoreSummary`, under the same names."""

    dice_pooled: Mapping[str, int]
    dice_sampled: Mapping[str, int]
    dice_slice_present: Mapping[str, int]
    dice_slice_empty1: Mapping[str, int]
    precision: Mapping[str, int]
    recall: Mapping[str, int]
    hd95_mm: Mapping[str, int]
    missed: Mapping[str, int]
    false_alarms: Mapping[str, int]
    mean_dice_with_background: int
    mean_dice_with_background_empty1: int


@dataclass(frozen=True)
class ScoreSummary:
    """Every convention side by side, each with its n; None (n = 0) where a figure is undefined, never NaN.

    The classes are the foreground classes. ``"foreground"`` is the mean of those that are defined, and its n the number
    of classes in that mean.

    Attributes:
        dice_pooled: counts summed over all slices.
        dice_sampled: counts summed over the kept slices of a volume (`evaluate_volumes`: of all), mean over volumes
            with the class in the mask.
        dice_slice_present: mean over slices with the class in the mask.
        dice_slice_empty1: mean over all slices, absent from both = 1.
        precision: pooled.
        recall: pooled.
        hd95_mm: mean over the slices where both have the class.
        missed: slices with the class in the mask only, by class; a mean over edits need not be whole.
        false_alarms: slices with the class in the prediction only, by class.
        mean_dice_with_background: mean of dice_pooled over all classes.
        mean_dice_with_background_empty1: mean of dice_slice_empty1 over all classes (the paper's Table 5).
        n: of each of these.
    """

    dice_pooled: ByClass
    dice_sampled: ByClass
    dice_slice_present: ByClass
    dice_slice_empty1: ByClass
    precision: ByClass
    recall: ByClass
    hd95_mm: ByClass
    missed: Mapping[str, int | float]
    false_alarms: Mapping[str, int | float]
    mean_dice_with_background: float | None
    mean_dice_with_background_empty1: float | None
    n: ScoreCounts

    @classmethod
    def mean(cls, summaries: Sequence["ScoreSummary"]) -> "ScoreSummary":
        """Figure by figure the mean of several summaries of the same slices, over those in which it is defined."""
        names = [each.name for each in fields(cls) if each.name != "n"]
        means = {name: _mean([getattr(summary, name) for summary in summaries]) for name in names}
        return cls(**means, n=summaries[0].n)

    @property
    def classes(self) -> list[str]:
        """The foreground classes, in the order of their labels."""
        return [name for name in self.dice_pooled if name != FOREGROUND]

    def dice(self, class_name: str = FOREGROUND, convention: Convention = "pooled") -> Score:
        """Dice of a class, or of the foreground, with its n.

        Args:
            class_name: a foreground class, or ``"foreground"``.
            convention: ``"pooled"``, ``"sampled"``, ``"slice_present"`` or ``"slice_empty1"``.

        Raises:
            ValueError: an unknown class or convention.
        """
        return self.score(f"dice_{convention}", class_name)

    def score(self, figure: str, class_name: str = FOREGROUND) -> Score:
        """Figure of one class by its attribute's name, such as ``"hd95_mm"``.

        Raises:
            ValueError: an unknown figure or class.
        """
        if figure not in FIGURES:
            raise ValueError(f"no figure {figure!r} by class; there are {', '.join(FIGURES)}")
        values, n = getattr(self, figure), getattr(self.n, figure)
        if class_name not in values:
            raise ValueError(f"no class {class_name!r}; there are {', '.join(values)}")
        return Score(values[class_name], n[class_name])


def _mean(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summaries_of(table: pl.DataFrame) -> dict[str, ScoreSummary]:
    """Summary of every edit of a table of counts (see `Scores`), in the order in which the edits appear."""
    tp, predicted, truth = pl.col("tp"), pl.col("predicted"), pl.col("truth")
    both, dice = predicted + truth, dice_of_columns()
    key = ["edit", "label"]
    volumes = (
        table.group_by(*key, "volume").agg(pl.col("tp", "predicted", "truth").sum()).filter(truth > 0)
        # a fixed order: the sum of floats, and so the last bit of the mean, depends on it
        .sort(*key, "volume").group_by(key, maintain_order=True)
        .agg(dice.mean().alias("dice_sampled"), pl.len().alias("n_sampled"))
    )  # fmt: skip
    rows = (
        table.group_by(*key, "class", maintain_order=True)
        .agg(
            (2 * tp.sum() / both.sum()).alias("dice_pooled"),
            both.sum().alias("both"),
            dice.filter(truth > 0).mean().alias("dice_slice_present"),
            (truth > 0).sum().alias("n_present"),
            dice.fill_null(1.0).mean().alias("dice_slice_empty1"),
            pl.len().alias("n_slices"),
            (tp.sum() / predicted.sum()).alias("precision"),
            predicted.sum().alias("n_predicted"),
            (tp.sum() / truth.sum()).alias("recall"),
            truth.sum().alias("n_truth"),
            pl.col("hd95_mm").mean(),
            pl.col("hd95_mm").count().alias("n_hd95"),
            ((truth > 0) & (predicted == 0)).sum().alias("missed"),
            ((truth == 0) & (predicted > 0)).sum().alias("false_alarms"),
        )
        .join(volumes, on=key, how="left", maintain_order="left")
    )
    parts = rows.partition_by("edit", as_dict=True, maintain_order=True)
    return {str(edit): _summary(part.sort("label").to_dicts()) for (edit,), part in parts.items()}


def _summary(classes: list[dict[str, Any]]) -> ScoreSummary:
    refuse_labels("the scores", {row["label"]: row["class"] for row in classes})  # figures are given by name
    foreground = [row for row in classes if row["label"] != 0]
    # figure: which count makes it defined, and which count is its n
    counted = {
        "dice_pooled": ("both", "n_slices"),
        "dice_sampled": ("n_sampled", "n_sampled"),
        "dice_slice_present": ("n_present", "n_present"),
        "dice_slice_empty1": ("n_slices", "n_slices"),
        "precision": ("n_predicted", "n_predicted"),
        "recall": ("n_truth", "n_truth"),
        "hd95_mm": ("n_hd95", "n_hd95"),
    }
    figures: dict[str, Any] = {}
    n: dict[str, Any] = {}
    for figure, (defined, count) in counted.items():
        values = {row["class"]: float(row[figure]) if row[defined] else None for row in foreground}
        known = [value for value in values.values() if value is not None]
        figures[figure] = {**values, FOREGROUND: sum(known) / len(known) if known else None}
        n_of = {row["class"]: int(row[count]) if row[defined] else 0 for row in foreground}
        n[figure] = {**n_of, FOREGROUND: len(known)}
    for figure in ("missed", "false_alarms"):
        figures[figure] = {row["class"]: int(row[figure]) for row in foreground}
        n[figure] = {row["class"]: int(row["n_slices"]) for row in foreground}
    pooled = [float(row["dice_pooled"]) for row in classes if row["both"]]
    return ScoreSummary(
        **figures,
        mean_dice_with_background=sum(pooled) / len(pooled),
        mean_dice_with_background_empty1=sum(float(row["dice_slice_empty1"]) for row in classes) / len(classes),
        n=ScoreCounts(**n, mean_dice_with_background=len(pooled), mean_dice_with_background_empty1=len(classes)),
    )


@dataclass(frozen=True)
class VolumeSummary:
    """Figures of one class or region over the volumes of a cohort, each with its n.

    Attributes:
        region: name of the class or region.
        labels: values that it is made of.
        n_volumes: all that were scored.
        dice: mean over the volumes with the region in the mask.
        dice_empty1: mean over all volumes; 1 where the region is in neither mask.
        hd95_mm: mean over the volumes where mask and prediction have the region.
        surface_dice: at 1 mm, mean over the volumes where mask or prediction has it.
        lesion_dice: BraTS 2023 lesion-wise, mean over all volumes; 1 where there is nothing to find and nothing found.
        n_missed_volumes: with the region in the mask and not in the prediction.
        n_false_volumes: with the region in the prediction and not in the mask.
        n_lesions: that count, in all volumes.
        n_missed_lesions: that no part of the prediction comes near.
        n_false_lesions: parts of predictions near no lesion.
    """

    region: str
    labels: tuple[int, ...]
    n_volumes: int
    dice: Score
    dice_empty1: Score
    hd95_mm: Score
    surface_dice: Score
    lesion_dice: Score
    n_missed_volumes: int
    n_false_volumes: int
    n_lesions: int
    n_missed_lesions: int
    n_false_lesions: int
