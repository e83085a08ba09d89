"""Features that moved from the source to the target, ranked, beside what a random split of the patients gives."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from seglens.audit.volume_table import VolumeTable

FAMILIES = ("image.", "area.", "logits.", "tta.", "sdc@1.0")
"""Features that a person can read; temperatures beyond 1 would say the same again."""
DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Moved:
    """A feature and how far it moved.

    Attributes:
        feature: column of the table.
        source: median over patients.
        target: median over patients.
        separation: chance that a target's patient has the larger value, ties half; .5 is no difference.
        p: share of random splits of all patients in which the feature that moved most moved as far: a small value
            holds for all features at once.
    """

    feature: str
    source: float
    target: float
    separation: float
    p: float


@dataclass(frozen=True)
class Shift:
    """Difference of a target from the source.

    Attributes:
        moved: every feature that varies, the one that moved most first.
        limit: |separation - .5| that 95% of random splits do not reach in any feature.
        p: of the feature that moved most.
        n_source: patients.
        n_target: patients.
    """

    moved: tuple[Moved, ...]
    limit: float
    p: float
    n_source: int
    n_target: int

    @property
    def different(self) -> bool:
        """Whether the target differs from the source by more than random splits do."""
        return self.p < 1 - LEVEL


def shift_between(source: VolumeTable, target: VolumeTable, *, draws: int = DRAWS, seed: int = 0) -> Shift:
    """Rank features by how well they part the target's patients from the source's.

    Args:
        source: its table.
        target: its table.
        draws: random splits of all patients into groups of the same sizes.
        seed: of the draws.

    Raises:
        ValueError: a table without volumes.
    """
    if not len(source) or not len(target):
        raise ValueError("a table has no volume; give cohorts of which some volume can be read")
    columns = [name for name in source.family(*FAMILIES) if name in target.rows.columns and "@1.0." not in name]
    before, after = (_by_patient(table, columns) for table in (source, target))
    values = np.concatenate([before, after])
    usable = [place for place in range(len(columns)) if _varies(values[:, place])]
    ranks = np.stack([_ranks(values[:, place]) for place in usable], axis=1) if usable else np.zeros((len(values), 0))
    n_target = len(after)
    own = _separation(ranks, np.arange(len(values)) >= len(before))
    random = np.random.default_rng(seed)
    chosen = random.random((draws, len(values))).argsort(axis=1)[:, :n_target]
    members = np.zeros((draws, len(values)))
    np.put_along_axis(members, chosen, 1.0, axis=1)
    largest = np.abs(_separation(ranks, members) - 0.5).max(axis=1, initial=0.0)
    moved = [
        Moved(
            columns[place],
            float(np.nanmedian(before[:, place])) if not np.isnan(before[:, place]).all() else float("nan"),
            float(np.nanmedian(after[:, place])) if not np.isnan(after[:, place]).all() else float("nan"),
            float(separation),
            float((1 + (largest >= abs(separation - 0.5) - 1e-12).sum()) / (draws + 1)),
        )
        for place, separation in zip(usable, own, strict=True)
    ]
    moved.sort(key=lambda one: -abs(one.separation - 0.5))
    limit = float(np.quantile(largest, LEVEL))
    return Shift(tuple(moved), limit, moved[0].p if moved else 1.0, len(before), n_target)


def _by_patient(table: VolumeTable, columns: list[str]) -> Float[np.ndarray, "p c"]:
    """Mean of each patient's volumes; NaN where none has a value."""
    means = table.rows.group_by("patient", maintain_order=True).agg(pl.col(columns).cast(pl.Float64).mean())
    return means.select(columns).fill_null(float("nan")).to_numpy()


def _varies(values: Float[np.ndarray, " n"]) -> bool:
    known = values[~np.isnan(values)]
    return len(known) > 0 and bool(np.ptp(known) > 0)


def _ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Mean ranks from 1; what has no value lies in the middle and speaks for neither side."""
    from scipy.stats import rankdata

    known = ~np.isnan(values)
    return rankdata(np.where(known, values, np.median(values[known])))


def _separation(ranks: Float[np.ndarray, "n c"], members: np.ndarray) -> np.ndarray:
    """Chance that a member ranks above one that is none, for each column (and each row of members)."""
    inside = members.astype(float)
    n_inside = inside.sum(-1, keepdims=True)
    outside = ranks.shape[0] - n_inside
    return (inside @ ranks - n_inside * (n_inside + 1) / 2) / (n_inside * outside)
