"""Latents that two dictionaries share by their weights (paper, section 3.6, algorithm 1)."""

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.alignment import Alignment, calibrated_share
from seglens.diffing.functional import FunctionalAlignment, functional_alignment, weight_matched_function
from seglens.diffing.matching import Match, cosine
from seglens.diffing.methods import AlignmentMethod, PairEvidence, alignment_method
from seglens.diffing.universal import specific_latents, universal_latents
from seglens.runtime.resources import require_memory

__all__ = [
    "Alignment",
    "FunctionalAlignment",
    "align",
    "calibrated_share",
    "functional_alignment",
    "live_latents",
    "projections",
    "specific_latents",
    "universal_latents",
    "weight_matched_function",
]

PAIR_COLUMNS: Mapping[str, type[pl.DataType]] = {
    "source_latent": pl.Int32,
    "target_latent": pl.Int32,
    "target_dec": pl.Int32,
    "similarity_enc": pl.Float32,
    "similarity_dec": pl.Float32,
    "shared": pl.Boolean,
}


def live_latents(dictionary: SparseAutoencoder, alive: Bool[Tensor, " m"] | None = None) -> Int64[np.ndarray, " live"]:
    """Latents that can be matched: alive, and without a zero row in encoder or decoder.

    Args:
        dictionary: the latents' dictionary.
        alive: True where a latent fires; None takes all.

    Raises:
        ValueError: ``alive`` is of another length.
    """
    usable = (dictionary.W_enc.detach().norm(dim=0) > 0) & (dictionary.W_dec.detach().norm(dim=1) > 0)
    if alive is not None:
        if len(alive) != dictionary.n_latents:
            raise ValueError(f"alive has {len(alive)} entries; the dictionary has {dictionary.n_latents} latents")
        usable = usable & alive.to(usable.device)
    return usable.nonzero()[:, 0].cpu().numpy()


def latent_vectors(
    dictionary: SparseAutoencoder, live: Int64[np.ndarray, " live"]
) -> tuple[Float[Tensor, "live d_in"], Float[Tensor, "live d_in"]]:
    """Encoder and decoder vectors of some latents, one row each, on the CPU."""
    latents = torch.from_numpy(live)
    return dictionary.W_enc.detach().cpu().T[latents], dictionary.W_dec.detach().cpu()[latents]


def projections(
    source: SparseAutoencoder,
    target: SparseAutoencoder,
    live_source: Int64[np.ndarray, " n_a"],
    live_target: Int64[np.ndarray, " n_b"],
) -> tuple[Float32[np.ndarray, "n_a n_b"], Float32[np.ndarray, "n_a n_b"]]:
    """C_enc and C_dec between the live latents of both sides."""
    encoders, decoders = zip(latent_vectors(source, live_source), latent_vectors(target, live_target), strict=True)
    return cosine(*encoders), cosine(*decoders)


def align(
    source: SparseAutoencoder,
    target: SparseAutoencoder,
    *,
    tau: float = 0.8,
    method: str = "hungarian_dual",
    alive_source: Bool[Tensor, " m_source"] | None = None,
    alive_target: Bool[Tensor, " m_target"] | None = None,
    source_name: str = "source",
    target_name: str = "target",
) -> Alignment:
    """Match the latents of two dictionaries by their weights.

    ``C_p = cos(W_p of source, W_p of target)`` for p in {enc, dec}, ``pi_p`` the matching of ``C_p``, and
    ``S = {i : pi_enc(i) = pi_dec(i), C_enc >= tau, C_dec >= tau}`` (paper, section 3.6). ``encoder_only`` asks for
    ``C_enc >= tau`` alone.

    Weight cosine means something only inside one activation space, and even there a common SAE seed alone gives a high
    share: fill in floor and ceiling (``with_figures``) before quoting ``shared_share``.

    Args:
        source: dictionary whose latents are matched.
        target: dictionary that they are matched to; may be wider or narrower.
        tau: least cosine, -1..1.
        method: name of one of ``alignment_methods("weights")``.
        alive_source: True where a source latent fires; the others are left out and counted.
        alive_target: the same of the target.
        source_name: cohort or model, for the record.
        target_name: the same of the target.

    Raises:
        ValueError: unknown method, tau out of range, dictionaries of different d_in, or a mask of another length.
    """
    row = alignment_method(method, "weights")
    if not -1 <= tau <= 1:
        raise ValueError(f"tau is {tau}; a cosine threshold must be in -1..1")
    live_source, live_target = live_latents(source, alive_source), live_latents(target, alive_target)
    encoders, decoders = zip(latent_vectors(source, live_source), latent_vectors(target, live_target), strict=True)
    # One projection after the other: both arrays at once are 3.2 GiB at m = 20,480.
    by_encoder, cosines = _matched(row, *encoders)
    matched = by_encoder >= 0
    rows, columns = matched.nonzero()[0], by_encoder[matched]
    similarity_enc = cosines[rows, columns]
    del cosines
    by_decoder, cosines = _matched(row, *decoders)
    similarity_dec = cosines[rows, columns]
    similarity = {"encoder": similarity_enc, "decoder": similarity_dec}
    shared = row.accept(PairEvidence(similarity, by_decoder[rows] == columns), tau)
    dec_columns = by_decoder[rows]
    dec_target = np.where(dec_columns >= 0, live_target[dec_columns], -1) if len(live_target) else dec_columns
    pairs = pl.DataFrame(
        {
            "source_latent": live_source[rows],
            "target_latent": live_target[columns],
            "target_dec": dec_target,
            "similarity_enc": similarity_enc,
            "similarity_dec": similarity_dec,
            "shared": shared,
        },
        schema=PAIR_COLUMNS,
    ).with_columns(pl.when(pl.col("target_dec") >= 0).then("target_dec").alias("target_dec"))
    return Alignment(
        source=source_name,
        target=target_name,
        pairs=pairs,
        n_source=source.n_latents,
        n_target=target.n_latents,
        dead_source=source.n_latents - len(live_source),
        dead_target=target.n_latents - len(live_target),
        tau=tau,
        method=method,
        unmatched_source=tuple(live_source[~matched].tolist()),
        unmatched_target=tuple(np.setdiff1d(live_target, live_target[columns]).tolist()),
    )


def _matched(
    method: AlignmentMethod, a: Float[Tensor, "n_a d_in"], b: Float[Tensor, "n_b d_in_too"]
) -> tuple[Match, Float32[np.ndarray, "n_a n_b"]]:
    """The matching of one projection, and the cosine of every pair."""
    require_memory(3 * 4 * len(a) * len(b), f"matching {len(a)} with {len(b)} latents by {method.name}")
    similarity = cosine(a, b)
    return method.match(similarity), similarity
