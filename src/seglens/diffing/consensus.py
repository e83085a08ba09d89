"""Consensus: a latent counts if it comes back in dictionaries that were fitted to the same activations by other seeds.

Seeds give other directions to what fires together (science.md: no pair above a cosine of 0.8, correlations up to .5),
so latents are looked for by function.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.functional import functional_alignment


def recurring_latents(codes: Sequence[Codes], *, correlation: float = 0.5) -> pl.DataFrame:
    """In how many of the other dictionaries each latent of the first comes back.

    Args:
        codes: of the same tokens by each dictionary, the first the one whose latents are counted.
        correlation: from which two latents that are matched (one to one, largest total) count as the same.

    Returns:
        A row a latent of the first dictionary: latent, returns (of ``len(codes) - 1``), correlation (mean over the
        other dictionaries, 0 where it has no partner).

    Raises:
        ValueError: fewer than two dictionaries, or codes of different tokens.
    """
    if len(codes) < 2:
        raise ValueError(f"{len(codes)} dictionaries; a latent can come back in a second one at the earliest")
    found = np.zeros((len(codes) - 1, codes[0].n_latents))
    for row, other in zip(found, codes[1:], strict=True):
        pairs = functional_alignment(codes[0], other).pairs
        row[pairs["source_latent"].to_numpy()] = pairs["correlation"].to_numpy()
    return pl.DataFrame(
        {
            "latent": np.arange(codes[0].n_latents),
            "returns": (found >= correlation).sum(axis=0),
            "correlation": found.mean(axis=0),
        },
        schema={"latent": pl.Int32, "returns": pl.Int32, "correlation": pl.Float64},
    )


def consensus_latents(recurring: pl.DataFrame, *, least: int) -> list[int]:
    """The latents that come back in at least so many of the other dictionaries."""
    return recurring.filter(pl.col("returns") >= least)["latent"].to_list()


def only_latents(dictionary: SparseAutoencoder, latents: Sequence[int]) -> SparseAutoencoder:
    """A dictionary of some latents of another, renumbered in the order given; codes are those of the whole.

    Raises:
        ValueError: no latents.
    """
    if not latents:
        raise ValueError("no latents are left; ask for fewer returns or a smaller correlation")
    chosen = torch.as_tensor(latents)
    kept = SparseAutoencoder(
        dictionary.d_in,
        len(latents),
        k=min(dictionary.k, len(latents)),
        seed=dictionary.seed,
        hookpoint=dictionary.hookpoint,
        segmenter_hash=dictionary.segmenter_hash,
        store_hash=dictionary.store_hash,
    )
    kept.load_state_dict(
        dictionary.state_dict()
        | {
            "W_enc": dictionary.W_enc[:, chosen],
            "b_enc": dictionary.b_enc[chosen],
            "W_dec": dictionary.W_dec[chosen],
        }
    )
    return kept
