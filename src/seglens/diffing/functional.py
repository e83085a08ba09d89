"""Alignment by function: latents correspond when their codes rise and fall together on the same probe slices.

It needs no common activation space, so it works across widths and architectures and for models trained apart, where the
cosine of weights says nothing. Tokens must be at the same places: ``pool_codes`` brings a finer grid to a coarser one.
"""

from dataclasses import dataclass
from functools import partial, reduce
from math import prod
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from seglens.dictionaries.codes import Codes
from seglens.diffing.alignment import Alignment
from seglens.diffing.matching import Matcher, hungarian
from seglens.shapes import Extent


@dataclass(frozen=True)
class FunctionalAlignment:
    """One-to-one matching of largest total code correlation.

    Attributes:
        pairs: columns source_latent, target_latent (Int32), correlation (Float32, Pearson over tokens, -1..1).
        mean_correlation: over the pairs; None for no pairs.
        n_tokens: probe tokens.
        live_source: source latents that fire often enough to be compared.
        live_target: the same of the target.
    """

    pairs: pl.DataFrame
    mean_correlation: float | None
    n_tokens: int
    live_source: int
    live_target: int

    def share_above(self, correlation: float = 0.5) -> float:
        """Pairs of at least this correlation over the live latents of the narrower side, 0..1."""
        possible = min(self.live_source, self.live_target)
        return self.pairs.filter(pl.col("correlation") >= correlation).height / possible if possible else 0.0


def functional_alignment(
    source: Codes, target: Codes, *, match: Matcher = hungarian, minimum_firings: int = 2
) -> FunctionalAlignment:
    """Match latents by the correlation of their codes on the same tokens.

    Args:
        source: codes of the probe tokens by one dictionary.
        target: codes of the same tokens, in the same order, by the other.
        match: from the correlations ``[n_a n_b]`` to the column of each row, -1 for none.
        minimum_firings: latents active at fewer tokens are left out and not counted as live.

    Returns:
        The matching (by default the optimal assignment) and its mean correlation. An optimal assignment over noise is
        above 0: compare with the same figure on tokens of other slices.

    Raises:
        ValueError: different numbers of tokens.
    """
    _same_tokens(source, target)
    a, b = _matrix(source), _matrix(target)
    live_a, live_b = _live(a, minimum_firings), _live(b, minimum_firings)
    correlation = _correlations(a[:, live_a], b[:, live_b])
    partners = match(correlation)
    rows = (partners >= 0).nonzero()[0]
    values = correlation[rows, partners[rows]]
    pairs = pl.DataFrame(
        {"source_latent": live_a[rows], "target_latent": live_b[partners[rows]], "correlation": values},
        schema={"source_latent": pl.Int32, "target_latent": pl.Int32, "correlation": pl.Float32},
    )
    mean = float(values.mean(dtype=np.float64)) if len(values) else None
    return FunctionalAlignment(pairs, mean, source.n, len(live_a), len(live_b))


def calibrated_correlation(found: float, null: float, ceiling: float) -> float | None:
    """A mean correlation by function between the null and the ceiling of its own pair.

    The more latents there are to choose among, and the more tokens are averaged to a common grid, the higher is what an
    optimal assignment finds in noise: raw figures of other widths and grids do not compare.

    Args:
        found: `FunctionalAlignment.mean_correlation` of the pair.
        null: the same on tokens of other slices.
        ceiling: the same of two dictionaries of one model.

    Returns:
        0 at the null, 1 at the ceiling; None where they do not part.
    """
    return (found - null) / (ceiling - null) if ceiling > null else None


def pair_correlations(
    source: Codes, target: Codes, source_latents: Int64[Tensor, " p"], target_latents: Int64[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """Pearson correlation over tokens of each given pair of latents.

    Args:
        source: codes of the probe tokens by one dictionary.
        target: codes of the same tokens by the other.
        source_latents: one number a pair.
        target_latents: its partner.

    Returns:
        float64 [p], -1..1; 0 where a latent of the pair never changes (it does not fire: no common function).

    Raises:
        ValueError: different numbers of tokens.
    """
    _same_tokens(source, target)
    a, b = _matrix(source)[:, source_latents.cpu().numpy()], _matrix(target)[:, target_latents.cpu().numpy()]
    products = np.asarray(a.multiply(b).sum(axis=0)).reshape(-1)
    (mean_a, deviation_a), (mean_b, deviation_b) = _moments(a), _moments(b)
    covariance = products / max(source.n, 1) - mean_a * mean_b
    scale = deviation_a * deviation_b
    correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
    return torch.from_numpy(correlation.clip(-1, 1))


def firing_overlap(
    source: Codes, target: Codes, source_latents: Int64[Tensor, " p"], target_latents: Int64[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """At how many of the tokens where either latent of a pair fires both do (Jaccard index).

    Correlation asks whether strengths agree; this asks whether the same tokens are meant.

    Args:
        source: codes of the probe tokens by one dictionary.
        target: codes of the same tokens by the other.
        source_latents: one number a pair.
        target_latents: its partner.

    Returns:
        float64 [p], 0..1; 0 where neither fires.

    Raises:
        ValueError: different numbers of tokens.
    """
    _same_tokens(source, target)
    a, b = (_matrix(codes) != 0 for codes in (source, target))
    a, b = a[:, source_latents.cpu().numpy()], b[:, target_latents.cpu().numpy()]
    both = np.asarray(a.multiply(b).sum(axis=0), dtype=np.float64).reshape(-1)
    either = np.asarray(a.sum(axis=0) + b.sum(axis=0), dtype=np.float64).reshape(-1) - both
    return torch.from_numpy(np.divide(both, either, out=np.zeros_like(both), where=either > 0))


def weight_matched_function(alignment: Alignment, source: Codes, target: Codes) -> float | None:
    """Mean code correlation of the shared pairs of an alignment by weights: do latents called shared fire together?

    Args:
        alignment: of the two dictionaries.
        source: codes of the probe tokens by the source dictionary.
        target: codes of the same tokens by the target dictionary.

    Returns:
        The mean, -1..1; None where nothing is shared.
    """
    shared = alignment.shared
    if not shared.height:
        return None
    latents = [torch.tensor(shared[name].to_list()).long() for name in ("source_latent", "target_latent")]
    return float(pair_correlations(source, target, *latents).mean())


def pool_codes(codes: Codes, grid: Extent, to_grid: Extent) -> Codes:
    """Codes on a coarser token grid: the mean over the area of each coarse token.

    Args:
        codes: of whole slices, tokens in row-major order, slice after slice.
        grid: slices, rows and columns of the codes.
        to_grid: those wanted; no side longer. Where it does not divide the grid, overlaps weigh by area.

    Returns:
        Codes of the same slices, ``to_grid`` tokens each.

    Raises:
        ValueError: the tokens are not whole slices of ``grid``, or ``to_grid`` is finer.
    """
    from scipy import sparse

    tokens = prod(grid)
    if codes.n % tokens or min(*grid, *to_grid) < 1 or any(to > n for n, to in zip(grid, to_grid, strict=True)):
        raise ValueError(
            f"{codes.n} tokens on the grid {grid} (slices, rows, columns) cannot be pooled to {to_grid}; give whole "
            "slices and a grid that is not finer"
        )
    if grid == to_grid:
        return codes
    sides = (area_weights(n, to) for n, to in zip(grid, to_grid, strict=True))
    one_slice = reduce(partial(sparse.kron, format="csr"), sides)
    pooled = (sparse.kron(sparse.eye(codes.n // tokens), one_slice, format="csr") @ _matrix(codes)).tocsr()
    pooled.sort_indices()
    return Codes(
        torch.from_numpy(pooled.indptr.astype(np.int64)),
        torch.from_numpy(pooled.indices.astype(np.int32)),
        torch.from_numpy(pooled.data.astype(np.float32)),
        codes.n_latents,
    )


def common_grid(a: Extent, b: Extent) -> Extent:
    """The finest grid that both can be pooled to."""
    return min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2])


def _same_tokens(source: Codes, target: Codes) -> None:
    if source.n != target.n:
        raise ValueError(
            f"codes of {source.n} and of {target.n} tokens: both sides need the same probe tokens; pool_codes brings "
            "one token grid to the other"
        )


def _matrix(codes: Codes) -> Any:
    from scipy import sparse

    parts = (codes.values.double().cpu().numpy(), codes.latents.cpu().numpy(), codes.offsets.cpu().numpy())
    return sparse.csr_matrix(parts, shape=(codes.n, codes.n_latents))


def _live(matrix: Any, minimum_firings: int) -> Int64[np.ndarray, " live"]:
    _, deviation = _moments(matrix)
    return ((matrix.getnnz(axis=0) >= minimum_firings) & (deviation > 0)).nonzero()[0]


def _moments(matrix: Any) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    n = max(matrix.shape[0], 1)
    mean = np.asarray(matrix.sum(axis=0)).reshape(-1) / n
    square = np.asarray(matrix.multiply(matrix).sum(axis=0)).reshape(-1) / n
    variance = square - mean**2
    # A latent of one value at every token has a variance of rounding errors, not 0.
    return mean, np.sqrt(np.where(variance > 1e-12 * square, variance, 0))


def _correlations(a: Any, b: Any) -> Float[np.ndarray, "n_a n_b"]:
    """Sparse product, then centred: only latents that fire together cost anything."""
    (mean_a, deviation_a), (mean_b, deviation_b) = _moments(a), _moments(b)
    covariance = (a.T.tocsr() @ b).toarray() / max(a.shape[0], 1) - np.outer(mean_a, mean_b)
    covariance /= np.outer(deviation_a, deviation_b)
    return covariance.clip(-1, 1).astype(np.float32)


def area_weights(n: int, to: int) -> Any:
    """Sparse [to n]: row i averages the cells of [0, n) that [i, i+1) * n / to covers."""
    from scipy import sparse

    edges = np.linspace(0, n, to + 1)
    cells = np.arange(n)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights = overlap.clip(0) * to / n
    return sparse.csr_matrix(np.where(weights > 1e-12, weights, 0))
