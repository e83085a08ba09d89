"""The four unsupervised metrics of an alignment (paper, section 5.5, appendix E.1), for every method.

The paper's 100% agreement and 0 collision hold by construction of S. So every method is measured without a filter, with
the cosine filter alone, and with the whole condition of S.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.matching import Match, Matcher
from seglens.diffing.methods import AlignmentMethod, alignment_methods
from seglens.diffing.sharing import live_latents, projections

FILTERS = ("none", "tau", "shared")
"""Which latents are measured: all matched; those with both cosines >= tau; those that also agree (S)."""

Cosines = Float32[np.ndarray, "n_a n_b"]
Kept = Bool[np.ndarray, " n_a"]


@dataclass(frozen=True)
class _Trial:
    """One subsample of both dictionaries, and what each projection's matching gave on it, in full numbering."""

    rows: Int64[np.ndarray, " r"]
    present: Bool[np.ndarray, " n_b"]
    by_encoder: Match
    by_decoder: Match


def agreement(by_encoder: Match, by_decoder: Match, kept: Kept) -> float | None:
    """Share of the kept latents that encoder and decoder match to the same counterpart; None for no latents."""
    return float((by_encoder == by_decoder)[kept].mean()) if kept.any() else None


def collision(match: Match, kept: Kept) -> float | None:
    """Share of the kept latents that are surplus on a target taken by another: 1 - distinct targets / latents."""
    targets = match[kept]
    return 1 - len(np.unique(targets)) / len(targets) if len(targets) else None


def predictability(encoder: Cosines, decoder: Cosines, match: Match, kept: Kept) -> float | None:
    """Mean cosine of the kept pairs minus its expectation under random pairing of the same latents, -2..2.

    The cosine is the mean of encoder and decoder. The expectation is exact: the mean over all pairings of the kept
    sources with the kept targets, so no shuffle is drawn.
    """
    rows = kept.nonzero()[0]
    if not len(rows):
        return None
    columns = match[rows]
    paired = (encoder[rows, columns] + decoder[rows, columns]).mean(dtype=np.float64) / 2
    weights = np.bincount(columns, minlength=encoder.shape[1]) / len(rows)
    shuffled = sum(
        float(similarity[rows].mean(axis=0, dtype=np.float64) @ weights) for similarity in (encoder, decoder)
    )
    return float(paired - shuffled / 2)


def stability(match: Match, kept: Kept, trials: Sequence[_Trial], *, dual: bool, by_decoder: Match) -> float | None:
    """Share of the kept latents that keep their counterpart in every subsample that holds both.

    Args:
        match: the match on the whole dictionaries.
        kept: latents to measure.
        trials: matchings on subsamples.
        dual: a latent must keep its counterpart in both projections, each its own.
        by_decoder: the decoder's match on the whole dictionaries.

    Returns:
        0..1; None where no kept latent was in a subsample together with its counterpart.
    """
    tried = np.zeros(len(match), dtype=bool)
    moved = np.zeros(len(match), dtype=bool)
    for trial in trials:
        checks = [(match, trial.by_encoder)] + ([(by_decoder, trial.by_decoder)] if dual else [])
        for whole, part in checks:
            rows = trial.rows[whole[trial.rows] >= 0]
            rows = rows[trial.present[whole[rows]]]
            tried[rows] = True
            moved[rows] |= part[rows] != whole[rows]
    measured = tried & kept
    return float((~moved)[measured].mean()) if measured.any() else None


def alignment_metrics(
    source: SparseAutoencoder,
    target: SparseAutoencoder,
    *,
    tau: float = 0.8,
    methods: Sequence[AlignmentMethod] | None = None,
    alive_source: Bool[Tensor, " m_source"] | None = None,
    alive_target: Bool[Tensor, " m_target"] | None = None,
    n_trials: int = 5,
    subsample: float = 0.8,
    seed: int = 0,
) -> pl.DataFrame:
    """Agreement, stability, collision and predictability of every method, with and without the filters of S.

    Args:
        source: dictionary whose latents are matched.
        target: the other.
        tau: cosine threshold of the filters.
        methods: by weights; None: ``alignment_methods("weights")``.
        alive_source: True where a source latent fires.
        alive_target: the same of the target.
        n_trials: bootstrap subsamples of both dictionaries for stability; the same ones for every method.
        subsample: share of the latents drawn without replacement, 0..1.
        seed: of the subsamples.

    Returns:
        One row a method x filter ("none", "tau", "shared"): method, filter, n (latents measured), agreement, stability,
        collision (0..1), predictability (cosine); null where no latent is left.

    Raises:
        ValueError: subsample not in (0, 1].
    """
    if not 0 < subsample <= 1 or n_trials < 0:
        raise ValueError(f"subsample {subsample} must be in (0, 1] and n_trials {n_trials} at least 0")
    encoder, decoder = projections(
        source, target, live_latents(source, alive_source), live_latents(target, alive_target)
    )
    draws = _draws(encoder.shape, n_trials, subsample, seed)
    rows: list[Mapping[str, object]] = []
    trials_of: dict[object, list[_Trial]] = {}  # two methods use the same matcher: its trials are run once
    for method in methods or alignment_methods("weights").values():
        matcher = method.match
        if matcher not in trials_of:
            trials_of[matcher] = [_trial(matcher, encoder, decoder, a, b) for a, b in draws]
        match, by_decoder = matcher(encoder), matcher(decoder)
        for name, kept in _filters(encoder, decoder, match, by_decoder, tau).items():
            rows.append(
                {
                    "method": method.name,
                    "filter": name,
                    "n": int(kept.sum()),
                    "agreement": agreement(match, by_decoder, kept),
                    "stability": stability(match, kept, trials_of[matcher], dual=method.dual, by_decoder=by_decoder),
                    "collision": collision(match, kept),
                    "predictability": predictability(encoder, decoder, match, kept),
                }
            )
    figures = ("agreement", "stability", "collision", "predictability")
    return pl.DataFrame(
        rows, schema={"method": pl.String, "filter": pl.String, "n": pl.Int64} | dict.fromkeys(figures, pl.Float64)
    )


def _filters(encoder: Cosines, decoder: Cosines, match: Match, by_decoder: Match, tau: float) -> dict[str, Kept]:
    matched = match >= 0
    rows = matched.nonzero()[0]
    close = matched.copy()
    close[rows] = np.minimum(encoder[rows, match[rows]], decoder[rows, match[rows]]) >= np.float32(tau)
    return dict(zip(FILTERS, (matched, close, close & (match == by_decoder)), strict=True))


def _draws(
    shape: tuple[int, ...], n_trials: int, share: float, seed: int
) -> list[tuple[Int64[np.ndarray, " r"], Int64[np.ndarray, " c"]]]:
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Int64[np.ndarray, " r"]:
        return torch.randperm(n, generator=generator)[: round(share * n)].sort().values.numpy()

    return [(draw(shape[0]), draw(shape[1])) for _ in range(n_trials)]


def _trial(
    match: Matcher,
    encoder: Cosines,
    decoder: Cosines,
    rows: Int64[np.ndarray, " r"],
    columns: Int64[np.ndarray, " c"],
) -> _Trial:
    matches = []
    for similarity in (encoder, decoder):
        part = match(np.ascontiguousarray(similarity[np.ix_(rows, columns)]))
        whole = np.full(len(similarity), -1, dtype=np.int64)
        whole[rows] = np.where(part >= 0, columns[part] if len(columns) else -1, -1)
        matches.append(whole)
    present = np.zeros(encoder.shape[1], dtype=bool)
    present[columns] = True
    return _Trial(rows, present, matches[0], matches[1])
