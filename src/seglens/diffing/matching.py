"""Matchings between two sets of latents, given their similarity [n_a n_b]; either side may be the wider one.

Every matcher returns, for each row, the column that it is matched to, or -1. Hungarian matches one to one; greedy and
Sinkhorn let several rows take one column, as the paper's baselines do (table 2, collision above 0).
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

ROWS_AT_ONCE = 1024
"""Similarity is computed and searched in blocks of so many rows."""

Similarity = Float[np.ndarray, "n_a n_b"]
Match = Int64[np.ndarray, " n_a"]
Matcher = Callable[[Similarity], Match]


def unit_rows(vectors: Float[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
    """Rows of length 1 in float32; a zero row stays zero."""
    rows = vectors.detach().to("cpu", torch.float32)
    norms = rows.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, rows / norms.clamp_min(torch.finfo(torch.float32).tiny), torch.zeros_like(rows))


def cosine(a: Float[Tensor, "n_a d"], b: Float[Tensor, "n_b d_too"]) -> Float32[np.ndarray, "n_a n_b"]:
    """Cosine of every row of ``a`` with every row of ``b``, -1..1; 0 where a row is zero.

    Args:
        a: one vector a latent.
        b: the same of the other side.

    Returns:
        The whole [n_a n_b] array, which the assignment needs; it is filled in blocks of rows.

    Raises:
        ValueError: the vectors are of different width.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"latents of width {a.shape[1]} and {b.shape[1]} live in different activation spaces, so their weights "
            "have no cosine; match them by function (functional_alignment) instead"
        )
    unit_a, unit_b = unit_rows(a), unit_rows(b).T.contiguous()
    out = torch.empty(len(a), len(b))
    for start in range(0, len(a), ROWS_AT_ONCE):
        torch.mm(unit_a[start : start + ROWS_AT_ONCE], unit_b, out=out[start : start + ROWS_AT_ONCE])
    return out.clamp_(-1, 1).numpy()


def hungarian(similarity: Similarity) -> Match:
    """Match one to one with the largest total similarity (paper, section 3.6), by lapx's Jonker-Volgenant solver.

    Every row of the narrower side is matched, to a negative similarity too if need be; its zero rows (dead latents)
    take what is left over, in order. Where several matchings are best, which of them is returned is arbitrary but
    always the same.

    Args:
        similarity: [n_a n_b], finite, of either sign. The solver works on a copy of 8 bytes a pair.

    Returns:
        For each row its column; -1 for the rows that a narrower other side leaves over.

    Raises:
        ValueError: a similarity is NaN or infinite.
    """
    import lap

    if not np.isfinite(similarity).all():
        row, column = np.argwhere(~np.isfinite(similarity))[0]
        raise ValueError(
            f"the similarity of row {row} and column {column} is {similarity[row, column]}; all must be finite"
        )
    n_a, n_b = similarity.shape
    live_rows, live_columns = similarity.any(axis=1), similarity.any(axis=0)
    turned = n_a > n_b or (n_a == n_b and live_columns.sum() < live_rows.sum())
    narrow, live = (similarity.T, live_columns) if turned else (similarity, live_rows)
    # Zero rows are put aside: every row is matched anyway, so it costs nothing, and their ties slow the solver down
    # (4,096 latents, a fifth of them zero: 26 s with them, 0.1 s without).
    partners = np.full(len(narrow), -1, dtype=np.int64)
    if live.any():
        cost = np.negative(narrow[live], dtype=np.float64, order="C")
        _, partners[live] = lap.lapjvr(cost, extend_cost=True, return_cost=False)
    partners[~live] = np.setdiff1d(np.arange(narrow.shape[1]), partners)[: len(narrow) - live.sum()]
    if not turned:
        return partners
    match = np.full(n_a, -1, dtype=np.int64)
    match[partners] = np.arange(n_b)
    return match


def greedy(similarity: Similarity) -> Match:
    """Every row takes its most similar column, the first of equals, whoever else has taken it."""
    match = np.full(similarity.shape[0], -1, dtype=np.int64)
    if similarity.shape[1]:
        for start in range(0, len(match), ROWS_AT_ONCE):
            match[start : start + ROWS_AT_ONCE] = similarity[start : start + ROWS_AT_ONCE].argmax(axis=1)
    return match


def sinkhorn(similarity: Similarity, *, temperature: float = 0.05, iterations: int = 100) -> Match:
    """Entropic transport between the two sides, then every row takes its heaviest column.

    The plan is ``u_i exp(C_ij / temperature) v_j`` with uniform marginals (Sinkhorn-Knopp scaling).

    Args:
        similarity: [n_a n_b], -1..1.
        temperature: in units of similarity; below about 0.02 single precision underflows.
        iterations: of the row and column scaling.

    Raises:
        ValueError: temperature below 0.02 or fewer than one iteration.
    """
    if temperature < 0.02 or iterations < 1:
        raise ValueError(
            f"temperature {temperature} and {iterations} iterations; need at least 0.02 and at least 1 iteration"
        )
    n_a, n_b = similarity.shape
    if not n_b or not n_a:
        return np.full(n_a, -1, dtype=np.int64)
    kernel = np.exp((similarity.astype(np.float32) - 1) / np.float32(temperature))
    v = np.ones(n_b, dtype=np.float32)
    for _ in range(iterations):
        u = 1 / (n_a * (kernel @ v))
        v = 1 / (n_b * (u @ kernel))
    match = np.empty(n_a, dtype=np.int64)
    for start in range(0, n_a, ROWS_AT_ONCE):
        match[start : start + ROWS_AT_ONCE] = (kernel[start : start + ROWS_AT_ONCE] * v).argmax(axis=1)
    return match
