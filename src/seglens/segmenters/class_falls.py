"""Classes that a segmenter loses on another cohort, each with how sure that is.

The patients of two cohorts are drawn apart from each other (the cluster bootstrap of `segmenters.intervals`). The fall
of Dice, and how far Dice away lies below half of Dice at home, are each divided by their standard error and compared
with Student's t of one degree of freedom less than the smaller side has patients. All questions of a study are judged
together (Bonferroni), so that the worst of many cells is no finding merely for being the worst; that a fall is a
collapse is only asked where it is a fall.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from seglens.segmenters.intervals import DRAWS, MIN_PATIENTS, Interval, interval_of, resampled
from seglens.segmenters.scoring import Scores

MIN_DICE = 0.2
"""Dice at home from which a class is learnt, so that there is something to lose."""
COLLAPSE = 0.5
"""Share of its Dice at home below which a class has collapsed."""
LEVEL = 0.05
"""Chance of any false claim in a study without a fall."""

Verdict = Literal["collapsed", "falls", "no fall shown", "too few patients", "not learnt", "home", "no home"]
"""Of a cell: ``home`` is the segmenter's own cohort, ``no home`` has nothing to be compared with."""


@dataclass(frozen=True)
class ClassCell:
    """A class of a segmenter on a cohort.

    Attributes:
        segmenter: its name.
        home: the cohort that it comes from.
        cohort: that it is scored on.
        class_name: a foreground class.
        dice: pooled, with its 95% interval over patients; NaN where the class is nowhere.
        at_home: the same at home; None where it was not scored there.
        n_patients: with the class in the mask.
        n_home_patients: the same at home; 0 where it was not scored there.
        n_present: slices with the class in the mask.
        n_missed: of these, slices without it in the prediction.
        recall: pooled share of its pixels that are found; None where there are none.
        precision: pooled share of the predicted pixels that are right; None where none is predicted.
        verdict: see `Verdict`.
    """

    segmenter: str
    home: str
    cohort: str
    class_name: str
    dice: Interval
    at_home: Interval | None
    n_patients: int
    n_home_patients: int
    n_present: int
    n_missed: int
    recall: float | None
    precision: float | None
    verdict: Verdict

    @property
    def fall(self) -> float:
        """Dice at home minus Dice here; NaN where either is undefined."""
        return float("nan") if self.at_home is None else self.at_home.value - self.dice.value


@dataclass(frozen=True)
class _Drawn:
    """Dice of a class of a segmenter on a cohort, and what stands behind it."""

    dice: Interval
    draws: np.ndarray
    n_patients: int
    n_present: int
    n_missed: int
    recall: float | None
    precision: float | None


def class_cells(
    scores: Mapping[tuple[str, str], Scores], homes: Mapping[str, str], *, draws: int = DRAWS
) -> list[ClassCell]:
    """Judge every class of every segmenter on every cohort against its Dice at home.

    Args:
        scores: segmenter and cohort to scores of the untouched network.
        homes: segmenter to the cohort that it comes from.
        draws: how often patients are drawn.

    Returns:
        Cells in the order of ``scores`` and of the labels; a class that is in no mask of a cohort gives none there.
    """
    drawn = {
        (segmenter, cohort, name): _drawn(own, name, seed, draws)
        for seed, ((segmenter, cohort), own) in enumerate(scores.items())
        for name in own.table.filter(pl.col("label") > 0).sort("label")["class"].unique(maintain_order=True)
    }
    drawn = {key: one for key, one in drawn.items() if one.n_patients}
    asked = [key for key in drawn if _verdict_before(key, drawn, homes) is None]
    return [_cell(key, drawn, homes, len(asked)) for key in drawn]


def _drawn(scores: Scores, name: str, seed: int, draws: int) -> _Drawn:
    own = scores.table.filter((pl.col("class") == name) & (pl.col("edit") == "none"))
    truth = pl.col("truth") > 0
    tp, predicted, true = (int(own[column].sum()) for column in ("tp", "predicted", "truth"))
    patients = own.filter(truth)["patient"].n_unique()
    value, figures = resampled(scores, ["none"], name, draws=draws, seed=seed)
    return _Drawn(
        _within(interval_of(float(value[0]), figures[0], own["patient"].n_unique())),
        figures[0],
        patients,
        own.filter(truth).height,
        own.filter(truth & (pl.col("predicted") == 0)).height,
        tp / true if true else None,
        tp / predicted if predicted else None,
    )


def _within(interval: Interval) -> Interval:
    """The interval without what no Dice can be; ends that are NaN stay."""
    return replace(interval, low=float(np.clip(interval.low, 0, 1)), high=float(np.clip(interval.high, 0, 1)))


Key = tuple[str, str, str]


def _verdict_before(key: Key, drawn: Mapping[Key, _Drawn], homes: Mapping[str, str]) -> Verdict | None:
    """The verdict that needs no test; None where one is made."""
    segmenter, cohort, name = key
    if homes[segmenter] == cohort:
        return "home"
    home = drawn.get((segmenter, homes[segmenter], name))
    if home is None:
        return "no home"
    if home.dice.value < MIN_DICE:
        return "not learnt"
    return "too few patients" if min(home.n_patients, drawn[key].n_patients) < MIN_PATIENTS else None


def _cell(key: Key, drawn: Mapping[Key, _Drawn], homes: Mapping[str, str], n_asked: int) -> ClassCell:
    segmenter, cohort, name = key
    here, home = drawn[key], drawn.get((segmenter, homes[segmenter], name))
    verdict = _verdict_before(key, drawn, homes)
    if verdict is None:
        assert home is not None
        falls, half = (_is_below(here, home, share, n_asked) for share in (1.0, COLLAPSE))
        verdict = "no fall shown" if not falls else "collapsed" if half else "falls"
    return ClassCell(
        segmenter=segmenter,
        home=homes[segmenter],
        cohort=cohort,
        class_name=name,
        dice=here.dice,
        at_home=None if home is None else home.dice,
        n_patients=here.n_patients,
        n_home_patients=0 if home is None else home.n_patients,
        n_present=here.n_present,
        n_missed=here.n_missed,
        recall=here.recall,
        precision=here.precision,
        verdict=verdict,
    )


def _is_below(here: _Drawn, home: _Drawn, share: float, n_asked: int) -> bool:
    """Whether Dice here is surely below a share of that at home."""
    from scipy.stats import t

    n = min(here.n_patients, home.n_patients)
    apart = share * home.draws - here.draws
    apart = apart[~np.isnan(apart)]
    value = share * home.dice.value - here.dice.value
    error = float(apart.std()) * float(np.sqrt(n / (n - 1))) if len(apart) else float("nan")
    if error == 0:
        return value > 0
    return bool(t.sf(value / error, n - 1) * n_asked < LEVEL)  # NaN is never below


def findings_of(cells: Sequence[ClassCell], verdict: Verdict) -> list[ClassCell]:
    """Cells of a verdict, the largest fall first."""
    return sorted((one for one in cells if one.verdict == verdict), key=lambda one: -one.fall)


def n_asked(cells: Sequence[ClassCell]) -> int:
    """How many cells were tested."""
    return sum(one.verdict in ("collapsed", "falls", "no fall shown") for one in cells)
