"""Feature swap: latents of one dictionary take the codes of their partners in another (paper, section 5.3)."""

import math

import polars as pl
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from seglens.dictionaries.codes import Codes
from seglens.diffing.functional import pair_correlations


def swap_codes(
    source: Codes,
    target: Codes,
    source_latents: Int[Tensor, " p"],
    target_latents: Int[Tensor, " p_too"],
    *,
    factor: float,
) -> Codes:
    """Source codes in which each listed latent holds its partner's code instead of its own.

    The paper swaps the latents in S (``alignment.shared``) and, as a control, matched latents outside S. Decode the
    result with the source dictionary.

    Args:
        source: codes of some tokens by the source dictionary.
        target: codes of the same tokens by the target dictionary.
        source_latents: latents that are replaced, each once.
        target_latents: the partner of each.
        factor: from the target's units to the source's, ``source.scale / target.scale`` of the dictionaries, above 0.

    Returns:
        New codes of the source dictionary's width; ``source`` is not changed.

    Raises:
        ValueError: different numbers of tokens, lists of different length, a latent out of range, a source latent
            twice, or a factor that is not above 0.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"the factor between the dictionaries' units is {factor}; give source.scale / target.scale")
    if source.n != target.n:
        raise ValueError(f"codes of {source.n} and of {target.n} tokens; a swap needs the same tokens on both sides")
    if len(source_latents) != len(target_latents) or len(source_latents.unique()) != len(source_latents):
        raise ValueError(
            f"{len(source_latents)} source latents ({len(source_latents.unique())} different) and "
            f"{len(target_latents)} partners; give each source latent once, with one partner"
        )
    for side, latents, codes in (("source", source_latents, source), ("target", target_latents, target)):
        if len(latents) and not (int(latents.min()) >= 0 and int(latents.max()) < codes.n_latents):
            raise ValueError(
                f"{side} latents reach {int(latents.min())}..{int(latents.max())}; it has {codes.n_latents}"
            )
    replaced = torch.zeros(source.n_latents, dtype=torch.bool)
    replaced[source_latents.long()] = True
    kept = ~replaced[source.latents.long()]
    # A partner may serve several source latents: each taken column is read on its own.
    unique, place = target_latents.long().unique(return_inverse=True)
    taken = target.select_latents(unique)
    columns = taken.columns()
    counts = columns.offsets.diff()[place]
    starts = columns.offsets[:-1][place]
    first = counts.cumsum(0) - counts
    entries = (starts - first).repeat_interleave(counts) + torch.arange(int(counts.sum()))
    all_rows = torch.cat([source.token_rows()[kept], columns.tokens.long()[entries]])
    all_latents = torch.cat([source.latents[kept].long(), source_latents.long().repeat_interleave(counts)])
    all_values = torch.cat([source.values[kept], columns.values[entries] * factor])
    order = (all_rows * source.n_latents + all_latents).argsort()
    counts_by_row = torch.bincount(all_rows, minlength=source.n)
    offsets = torch.cat([counts_by_row.new_zeros(1), counts_by_row.cumsum(0)])
    return Codes(offsets, all_latents[order].int(), all_values[order], source.n_latents)


def swap_correlation(before: Codes, after: Codes, latents: Int[Tensor, " p"]) -> pl.DataFrame:
    """How far each swapped latent's map still looks like its own: the paper's spatial correlation (figures 4 and 14).

    Args:
        before: codes of the source dictionary.
        after: the same after ``swap_codes``.
        latents: the swapped ones.

    Returns:
        One row a latent: latent (Int32), correlation (Pearson over tokens, 0 where either never changes),
        active_before and active_after (tokens).
    """
    numbers: Int64[Tensor, " p"] = latents.long()
    active: list[Int64[Tensor, " p"]] = [codes.firing_counts()[numbers] for codes in (before, after)]
    return pl.DataFrame(
        {
            "latent": numbers.numpy(),
            "correlation": pair_correlations(before, after, numbers, numbers).numpy(),
            "active_before": active[0].numpy(),
            "active_after": active[1].numpy(),
        },
        schema={"latent": pl.Int32, "correlation": pl.Float64, "active_before": pl.Int64, "active_after": pl.Int64},
    )


def pairs_of(pairs: pl.DataFrame, *, shared: bool) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Source and target latents of an alignment's pairs inside S, or (``shared=False``) matched but outside S."""
    chosen: Bool[Tensor, " n"] = torch.tensor(pairs["shared"].to_list()).bool()
    kept = chosen if shared else ~chosen
    columns = [torch.tensor(pairs[name].to_list()).long() for name in ("source_latent", "target_latent")]
    return columns[0][kept], columns[1][kept]
