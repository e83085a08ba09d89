"""How sure a score is: intervals over patients, not over slices.

Slices of one patient are alike, so patients are drawn with replacement, each with all of its slices (the cluster
bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993). Two edits are compared on the same draws.
Percentile intervals of few patients are too narrow: theirs are expanded to the width that Student's t has
(Hesterberg, What Teachers Should Know about the Bootstrap, 2015, section 5.2). Of fewer than `MIN_PATIENTS` the
expanded ends would be the extremes of all draws, however many there are: there the interval is Student's t itself, with
the spread of the draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from seglens.segmenters.score_summary import CONVENTIONS, dice_of_columns
from seglens.segmenters.scoring import Scores

FIGURES = (*CONVENTIONS, "precision", "recall")
"""What an interval can be given for; each is a ratio of sums over patients."""
DRAWS = 2000
MIN_PATIENTS = 6
"""Of so many patients percentiles are taken; of fewer, Student's t."""


@dataclass(frozen=True)
class Interval:
    """A figure and its interval over patients, as `interval_of` makes it.

    Attributes:
        value: on the patients as they are; NaN where it is undefined.
        low: lower end; NaN where no draw has a value, and of one patient.
        high: upper end; NaN where ``low`` is.
        n_patients: how many were drawn from.
        n_draws: draws in which the figure is defined.
    """

    value: float
    low: float
    high: float
    n_patients: int
    n_draws: int

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def patient_bootstrap(
    scores: Scores,
    a: str,
    b: str,
    class_name: str = "foreground",
    convention: str = "dice_pooled",
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Difference of two edits, ``a`` minus ``b``, with its interval over patients.

    Args:
        scores: with both edits on the same slices.
        a: name of an edit.
        b: name of the edit that it is compared with.
        class_name: a foreground class, or ``"foreground"``: the mean of those that are defined.
        convention: one of `FIGURES`.
        draws: how often patients are drawn.
        seed: of the draws.
        level: share of such intervals that hold the truth, 0..1.

    Raises:
        ValueError: an unknown edit, class or convention.
    """
    value, drawn = resampled(scores, [a, b], class_name, convention, draws=draws, seed=seed)
    n_patients = scores.table["patient"].n_unique()
    return interval_of(value[0] - value[1], drawn[0] - drawn[1], n_patients, level=level)


def patient_interval(
    scores: Scores,
    edit: str,
    class_name: str = "foreground",
    convention: str = "dice_pooled",
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A figure of one edit with its interval over patients; arguments as in `patient_bootstrap`."""
    value, drawn = resampled(scores, [edit], class_name, convention, draws=draws, seed=seed)
    return interval_of(value[0], drawn[0], scores.table["patient"].n_unique(), level=level)


def share_interval(
    patients: Sequence[str],
    hits: Sequence[bool],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A share of slices (such as those that an edit recovers) with its interval over patients.

    A share of 0 or 1 is the same in every draw, and says nothing of its doubt: there the other end is Clopper and
    Pearson's bound with as many trials as patients (Biometrika 26, 1934). Ends never leave 0..1; of one patient both
    are NaN.

    Args:
        patients: of each slice.
        hits: whether the slice counts.
        draws: how often patients are drawn.
        seed: of the draws.
        level: share of such intervals that hold the truth, 0..1.

    Raises:
        ValueError: as many of both are needed, and at least one.
    """
    from scipy.stats import beta

    if len(patients) != len(hits) or not len(patients):
        raise ValueError(f"{len(patients)} patients and {len(hits)} hits; give one of each a slice, at least one")
    found = mean_interval(patients, [float(hit) for hit in hits], draws=draws, seed=seed, level=level)
    share, n_patients = found.value, found.n_patients
    low, high = max(found.low, 0.0), min(found.high, 1.0)
    if n_patients > 1 and share == 0:
        high = float(beta.ppf((1 + level) / 2, 1, n_patients))
    elif n_patients > 1 and share == 1:
        low = float(beta.ppf((1 - level) / 2, n_patients, 1))
    return replace(found, low=low, high=high)


def mean_interval(
    patients: Sequence[str],
    values: Sequence[float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A mean over slices, such as that of a difference, with its interval over patients.

    Args:
        patients: of each slice.
        values: one a slice.
        draws: how often patients are drawn.
        seed: of the draws.
        level: share of such intervals that hold the truth, 0..1.

    Raises:
        ValueError: as many of both are needed, and at least one.
    """
    if len(patients) != len(values) or not len(patients):
        raise ValueError(f"{len(patients)} patients and {len(values)} values; give one of each a slice, at least one")
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    n_patients = int(owner.max()) + 1
    sums = np.bincount(owner, weights=np.asarray(values, dtype=float), minlength=n_patients)
    sizes = np.bincount(owner, minlength=n_patients).astype(float)
    weights = _weights(n_patients, draws, seed)
    mean = float(sums.sum() / sizes.sum())
    return interval_of(mean, (weights @ sums) / (weights @ sizes), n_patients, level=level)


def resampled(
    scores: Scores,
    edits: Sequence[str],
    class_name: str = "foreground",
    convention: str = "dice_pooled",
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """A figure of several edits on the patients as they are, and on the same draws of them.

    Args:
        scores: with all ``edits`` on the same slices.
        edits: names.
        class_name: a foreground class, or ``"foreground"``.
        convention: one of `FIGURES`.
        draws: how often patients are drawn.
        seed: of the draws.

    Returns:
        ``[edits]`` and ``[edits draws]``; NaN where a figure is undefined.

    Raises:
        ValueError: an unknown edit, class or convention, or edits that were scored on other slices.
    """
    if convention not in FIGURES:
        raise ValueError(f"convention is {convention!r}; use one of {', '.join(FIGURES)}")
    foreground = scores.table.filter(pl.col("label") > 0)
    names = foreground["class"].unique(maintain_order=True).to_list()
    if class_name not in (*names, "foreground"):
        raise ValueError(f"no class {class_name!r}; there are {', '.join(names)} and foreground")
    classes = names if class_name == "foreground" else [class_name]
    patients = sorted(foreground["patient"].unique())
    weights = np.vstack([np.ones(len(patients)), _weights(len(patients), draws, seed)])
    figures = []
    slices = None
    for edit in edits:
        rows = foreground.filter(pl.col("edit") == edit)
        if rows.is_empty():
            raise ValueError(f"no scores of the edit {edit!r}; there are {sorted(scores.table['edit'].unique())}")
        own = rows.select("row", "case", "label").sort("row", "label")
        if slices is not None and not own.equals(slices):
            raise ValueError(f"{edits[0]!r} and {edit!r} were scored on other slices; score both on the same")
        slices = own
        above, below = _sums(rows, classes, patients, convention)
        with np.errstate(invalid="ignore"):
            values = (weights @ above) / (weights @ below)  # [1 + draws, classes]
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            figures.append(np.where(known, values, 0.0).sum(1) / known.sum(1))
    table = np.stack(figures)
    return table[:, 0], table[:, 1:]


def interval_of(value: float, drawn: np.ndarray, n_patients: int, *, level: float = 0.95) -> Interval:
    """The interval of a figure by what was drawn; draws without a value (NaN) are left out and not counted.

    From `MIN_PATIENTS` patients on, expanded percentiles. Of fewer, Student's t around the value: the quantile at
    (1 + level) / 2 with n - 1 degrees of freedom, times the spread of the draws, times sqrt(n / (n - 1)), for draws of
    a mean of n patients spread that much less than the mean does.

    Args:
        value: the figure on the patients as they are.
        drawn: the figure of each draw.
        n_patients: n, that were drawn from; of one nothing can be said, and the ends are NaN.
        level: share of such intervals that hold the truth, 0..1.
    """
    known = drawn[~np.isnan(drawn)]
    if not len(known) or n_patients < 2:
        return Interval(float(value), float("nan"), float("nan"), n_patients, len(known))
    if n_patients < MIN_PATIENTS:
        reach = _quantile(n_patients, level) * float(known.std())
        return Interval(float(value), float(value) - reach, float(value) + reach, n_patients, len(known))
    tail = _expanded_tail(n_patients, level)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high), n_patients, len(known))


def interval_over_fits(values: np.ndarray, drawn: np.ndarray, n_patients: int, *, level: float = 0.95) -> Interval:
    """The interval of a mean over fits, which differ in their seed or in their labelled patients.

    The variance of the mean is that over evaluation patients plus that over fits. Student's quantile is the mean of
    those of n - 1 and F - 1 degrees of freedom, weighted by these variances (Cochran, Biometrics 20, 1964): few fits
    that differ make a wide interval, and two that happen to agree not too narrow a one. (Degrees of freedom by
    Satterthwaite hold the truth in 88 of 100 where two fits differ much more than patients do.)

    Args:
        values: the figure of each fit on the patients as they are ``[F]``.
        drawn: of each fit on the same draws of evaluation patients ``[F B]``.
        n_patients: evaluation patients; of one nothing can be said, and the ends are NaN.
        level: share of such intervals that hold the truth, 0..1.
    """
    from scipy.stats import t

    mean, of_draw = float(values.mean()), drawn.mean(axis=0)
    known = of_draw[~np.isnan(of_draw)]
    if len(values) < 2 or n_patients < 2 or not len(known):
        return interval_of(mean, of_draw, n_patients, level=level)
    variances = np.array([known.var() * n_patients / (n_patients - 1), values.var(ddof=1) / len(values)])
    variance, reach = float(variances.sum()), 0.0
    if variance > 0:
        quantiles = t.ppf((1 + level) / 2, [n_patients - 1, len(values) - 1])
        reach = float(variances @ quantiles / variance * np.sqrt(variance))
    return Interval(mean, mean - reach, mean + reach, n_patients, len(known))


def _expanded_tail(n_patients: int, level: float) -> float:
    """Share of the draws beyond each end: below (1 - level) / 2, for draws of few patients vary too little."""
    from scipy.stats import norm

    return float(norm.cdf(-_quantile(n_patients, level)))


def _quantile(n_patients: int, level: float) -> float:
    """How many standard deviations of the draws Student's interval reaches from the value to each side."""
    from scipy.stats import t

    return float(np.sqrt(n_patients / (n_patients - 1)) * t.ppf((1 + level) / 2, n_patients - 1))


def _weights(n_patients: int, draws: int, seed: int) -> np.ndarray:
    """How often each patient is in each draw ``[draws patients]``."""
    return np.random.default_rng(seed).multinomial(n_patients, np.full(n_patients, 1 / n_patients), draws).astype(float)


def _sums(
    rows: pl.DataFrame, classes: Sequence[str], patients: Sequence[str], convention: str
) -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator of a figure, summed over each patient: two of ``[patients classes]``."""
    tp, predicted, truth = pl.col("tp"), pl.col("predicted"), pl.col("truth")
    both = predicted + truth
    one = pl.lit(1.0)
    if convention == "dice_sampled":
        rows = rows.group_by("class", "patient", "volume").agg(pl.col("tp", "predicted", "truth").sum())
    dice = dice_of_columns().fill_null(1.0)
    present = pl.when(truth > 0).then(one).otherwise(0.0)
    above, below = {
        "dice_pooled": (2.0 * tp, both),
        "dice_sampled": (present * dice, present),
        "dice_slice_present": (present * dice, present),
        "dice_slice_empty1": (dice, one),
        "precision": (tp, predicted),
        "recall": (tp, truth),
    }[convention]
    sums = (
        rows.select("class", "patient", above.cast(pl.Float64).alias("above"), below.cast(pl.Float64).alias("below"))
        .sort("class", "patient", "above", "below")  # sums of floats in one order
        .group_by("class", "patient", maintain_order=True)
        .sum()
    )
    grid = pl.DataFrame({"class": classes}).join(pl.DataFrame({"patient": patients}), how="cross")
    filled = grid.join(sums, on=["class", "patient"], how="left", maintain_order="left").fill_null(0.0)
    shape = (len(classes), len(patients))
    return filled["above"].to_numpy().reshape(shape).T, filled["below"].to_numpy().reshape(shape).T
