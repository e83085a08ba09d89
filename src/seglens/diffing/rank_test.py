"""Rank-sum tests of many responses at once: exact in small groups, and within strata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TypeGuard

import numpy as np
from jaxtyping import Float64, Int64

MAX_EXACT = 50
"""Patients of both groups up to which the null distribution is counted; beyond, a normal one is as good."""
UNKNOWN = "unknown"
Strata = tuple[Sequence[str], Sequence[str]]
"""Stratum of each patient of the first and of the second group."""
Known = float | int | str | np.generic | None
Covariate = tuple[Sequence[Known], Sequence[Known]]


@dataclass(frozen=True)
class RankTest:
    """Wilcoxon's rank-sum test of k responses, two-sided, by permutation of the groups within strata.

    Ties are midranks, and the null distribution is that of the ranks as they are tied.

    Attributes:
        auroc: chance that a response of the second group exceeds one of the first in the same stratum, ties half; 0..1.
        p: 0..1; 1 where all values are equal.
    """

    auroc: Float64[np.ndarray, " k"]
    p: Float64[np.ndarray, " k"]
    _nulls: "tuple[_Null, ...]" = field(repr=False)
    _of: Int64[np.ndarray, " k"] = field(repr=False)
    _pairs: int = field(repr=False)

    def least_auroc(self, alpha: float) -> Float64[np.ndarray, " k"]:
        """Smallest AUROC, in either direction, that reaches a level; NaN where not even complete separation does.

        Args:
            alpha: level of one test, 0..1.
        """
        least = np.array([null.least(alpha) for null in self._nulls])
        return 0.5 + least[self._of] / (2 * self._pairs)


def rank_test(
    off: Float64[np.ndarray, "p k"], on: Float64[np.ndarray, "q k"], strata: Strata | None = None
) -> RankTest:
    """Compare two groups of patients, response by response.

    Args:
        off: responses of the first group.
        on: of the second.
        strata: of the patients of both, in their order; only patients of one stratum are compared, and a stratum with
            patients of one group says nothing. None puts all into one.

    Raises:
        ValueError: strata of another number of patients, or none with patients of both groups.
    """
    from scipy.stats import rankdata

    labels = [np.asarray(side, dtype=object) for side in strata or ([""] * len(off), [""] * len(on))]
    if [len(side) for side in labels] != [len(off), len(on)]:
        raise ValueError(
            f"strata of {len(labels[0])} and {len(labels[1])} patients for groups of {len(off)} and {len(on)}; give "
            "one for each patient, in their order"
        )
    both = sorted(set(labels[0]) & set(labels[1]))
    if not both:
        raise ValueError(
            f"no stratum has patients of both groups: {', '.join(sorted(set(labels[0]))[:5]) or 'none'} and "
            f"{', '.join(sorted(set(labels[1]))[:5]) or 'none'}; take fewer covariates or wider bins"
        )
    ranks, sizes = [], []  # doubled, so that midranks are whole
    for stratum in both:
        sides = [group[names == stratum] for group, names in zip((off, on), labels, strict=True)]
        ranks.append(np.rint(2 * rankdata(np.concatenate(sides), axis=0)).astype(np.int64))
        sizes.append(len(sides[1]))
    pairs = sum(n * (len(rank) - n) for n, rank in zip(sizes, ranks, strict=True))
    above = sum(rank[-n:].sum(axis=0) - n * (len(rank) + 1) for n, rank in zip(sizes, ranks, strict=True))
    ordered = np.concatenate([np.sort(rank, axis=0) for rank in ranks])
    patterns, of = np.unique(ordered, axis=1, return_inverse=True) if off.shape[1] else (ordered, np.empty(0, int))
    of = of.reshape(-1)
    ends = np.cumsum([len(rank) for rank in ranks])[:-1]
    nulls = tuple(_Null.of(np.split(pattern, ends), sizes) for pattern in patterns.T)
    p = np.ones(off.shape[1])
    for number, null in enumerate(nulls):
        own = of == number
        p[own] = null.p(np.abs(np.asarray(above)[own]))
    return RankTest(0.5 + np.asarray(above) / (2 * pairs), p, nulls, of, pairs)


def strata_of(covariates: Mapping[str, Covariate], *, bins: int = 3) -> Strata:
    """Strata of patients who are alike in what is known about them: lesion size, age, scanner.

    Numbers are cut at quantiles of both groups together, so what differs within a bin is not removed; texts and truth
    values are taken as they are. None and NaN are a stratum of their own.

    Args:
        covariates: name to the values of the first and of the second group's patients.
        bins: of a number; more bins remove more and leave fewer patients to compare.

    Raises:
        ValueError: no covariate, fewer than 2 bins, covariates of different numbers of patients, a value that is
            neither number nor text, or numbers that all fall into one bin, which removes nothing.
    """
    sizes = {tuple(len(side) for side in both) for both in covariates.values()}
    if len(sizes) != 1 or bins < 2:
        raise ValueError(
            f"{len(covariates)} covariates of {len(sizes)} different numbers of patients in {bins} bins; give at least "
            "one covariate, a value for every patient of both groups, and 2 bins or more"
        )
    ((first, _),) = sizes
    columns = [_binned(name, [*off, *on], bins) for name, (off, on) in covariates.items()]
    labels = ["; ".join(words) for words in zip(*columns, strict=True)]
    return labels[:first], labels[first:]


def _binned(name: str, values: Sequence[Known], bins: int) -> list[str]:
    numbers = [float(value) for value in values if _is_number(value) and not np.isnan(value)]
    edges = np.quantile(numbers, np.arange(1, bins) / bins) if numbers else np.empty(0)
    found, taken = [], set()
    for value in values:
        if isinstance(value, str | bool | np.bool_):
            found.append(str(value))
        elif value is None or (_is_number(value) and np.isnan(value)):
            found.append(UNKNOWN)
        elif _is_number(value):
            found.append(str(int(np.searchsorted(edges, value, side="right"))))
            taken.add(found[-1])
        else:
            raise ValueError(
                f"covariate {name!r} holds a {type(value).__name__}; legal are numbers, texts and None, so give plain "
                "values (an array's or tensor's by .tolist())"
            )
    if len(numbers) > 1 and len(taken) == 1:
        raise ValueError(
            f"covariate {name!r}: its {len(numbers)} numbers, {min(numbers):g} to {max(numbers):g}, all fall into one "
            f"of {bins} bins, which removes nothing; legal are numbers that their quantiles part: give more bins, "
            "texts with groups of your own, or leave the covariate out"
        )
    return found


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, numpy's included, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Null:
    """Distribution of |D|, D the doubled rank sum of the second group less its mean, under permutation.

    Attributes:
        distances: attainable values of |D|, ascending.
        tail: P(|D| >= each of them); empty where the distribution is taken as normal.
        spread: standard deviation of D.
        largest: the largest |D|.
    """

    distances: Int64[np.ndarray, " d"]
    tail: Float64[np.ndarray, " d"]
    spread: float
    largest: int

    @classmethod
    def of(cls, ranks: Sequence[Int64[np.ndarray, " _"]], sizes: Sequence[int]) -> "_Null":
        """From the ascending doubled ranks of each stratum, and how many of them the second group has there."""
        variance, highest, lowest = 0.0, 0, 0
        for rank, n in zip(ranks, sizes, strict=True):
            size, centred = len(rank), rank - len(rank) - 1
            variance += n * (size - n) / (size * max(size - 1, 1)) * float((centred**2).sum())
            highest += int(centred[size - n :].sum())
            lowest += int(centred[:n].sum())
        largest = max(highest, -lowest)
        if sum(map(len, ranks)) > MAX_EXACT:
            return cls(np.empty(0, np.int64), np.empty(0), float(np.sqrt(variance)), largest)
        chance, start = np.ones(1), 0
        for rank, n in zip(ranks, sizes, strict=True):
            chance = np.convolve(chance, _rank_sums(rank, n))
            start -= n * (len(rank) + 1)
        sums = np.abs(np.arange(start, start + len(chance)))
        attained = chance > 0
        distances, place = np.unique(sums[attained], return_inverse=True)
        tail = np.bincount(place.reshape(-1), weights=chance[attained])[::-1].cumsum()[::-1]
        return cls(distances, tail, float(np.sqrt(variance)), largest)

    def p(self, distance: Int64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
        """Chance of a |D| that large or larger."""
        from scipy.stats import norm

        if len(self.tail):
            return np.minimum(1.0, self.tail[np.searchsorted(self.distances, distance)])
        if self.spread == 0:
            return np.ones(len(distance))
        return np.minimum(1.0, 2 * norm.sf((distance - 1) / self.spread))  # half a rank for continuity

    def least(self, alpha: float) -> float:
        """Smallest |D| that reaches a level; NaN where none does."""
        from scipy.stats import norm

        if len(self.tail):
            reached = self.distances[self.tail <= alpha]
            return float(reached[0]) if len(reached) else np.nan
        wanted = 1 + self.spread * float(norm.isf(alpha / 2))
        return wanted if self.spread > 0 and wanted <= self.largest else np.nan


def _rank_sums(ranks: Int64[np.ndarray, " n"], size: int) -> Float64[np.ndarray, " s"]:
    """Chance of every sum of ``size`` of these ranks, from 0 on: each choice is as likely."""
    counts = np.zeros((size + 1, int(ranks.sum()) + 1))
    counts[0, 0] = 1
    for rank in ranks:
        counts[1:, rank:] += counts[:-1, : counts.shape[1] - rank]
    return counts[size] / counts[size].sum()
