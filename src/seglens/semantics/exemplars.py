"""The slices that activate each latent most, kept while the slices stream by."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from seglens.dictionaries.codes import Codes
from seglens.shapes import Extent, extent_of

RankBy = Literal["mass", "peak"]


@dataclass(frozen=True)
class Exemplars:
    """Slices that activate each latent most, by latent and from the highest down.

    Attributes:
        latents: of each exemplar.
        rows: its slice.
        scores: what it is ranked by.
        maps: codes on the token grid.
        sums: of each map, mass in every region.
    """

    latents: Int64[Tensor, " e"]
    rows: Int64[Tensor, " e"]
    scores: Float64[Tensor, " e"]
    maps: Float[Tensor, "e d h w"]
    sums: Float64[Tensor, "e R"]

    @property
    def grid(self) -> Extent:
        """Slices, rows and columns of the tokens."""
        return extent_of(self.maps)

    def __add__(self, other: "Exemplars") -> "Exemplars":
        """These and then the other's."""
        return Exemplars(
            **{one.name: torch.cat([getattr(self, one.name), getattr(other, one.name)]) for one in fields(self)}
        )

    def taken(self, places: Int64[Tensor, " f"]) -> "Exemplars":
        """Those at these places."""
        return Exemplars(**{one.name: getattr(self, one.name)[places] for one in fields(self)})


class TopExemplars:
    """Top-K slices of every latent with their maps, in memory that does not grow with the slices.

    Ranked by activation mass (the sum of the latent's codes in the slice, the default: extended responses come first)
    or by peak (its largest code: outliers come first). Slices in which a latent is silent are no exemplars of it, so it
    may have fewer than K. Ties go to the earlier slice.

    Args:
        n_latents: m.
        top_k: K, at least 1.
        grid: slices, rows and columns of the tokens.
        n_regions: columns of the pooled regions that are summed for every exemplar.
        rank_by: mass or peak.

    Raises:
        ValueError: ``top_k`` below 1, or another ranking.
    """

    def __init__(self, n_latents: int, top_k: int, grid: Extent, n_regions: int, rank_by: RankBy = "mass"):
        if top_k < 1 or rank_by not in ("mass", "peak"):
            raise ValueError(f"top_k {top_k} must be at least 1 and rank_by {rank_by!r} 'mass' or 'peak'")
        self.grid = grid
        self.rank_by = rank_by
        self._scores = torch.zeros(n_latents, top_k, dtype=torch.float64)  # highest first
        self._places = torch.arange(n_latents * top_k).view(n_latents, top_k)  # of each in what follows
        self._rows = torch.full((n_latents * top_k,), -1)
        self._maps = torch.zeros(n_latents * top_k, prod(grid))
        self._sums = torch.zeros(n_latents * top_k, n_regions, dtype=torch.float64)

    def update(self, codes: Codes, rows: Sequence[int], pooled: Float[Tensor, "n R"]) -> None:
        """Take a batch of slices into account.

        Args:
            codes: of the batch's tokens, slice after slice.
            rows: the slices' row numbers, each seen only once.
            pooled: the slices' regions pooled at the tokens.
        """
        m, top_k = self._scores.shape
        tokens, batch = prod(self.grid), len(rows)
        of_slices = codes.latents.split(codes.offsets[::tokens].diff().tolist())
        lengths = torch.stack([torch.bincount(latents, minlength=m) for latents in of_slices], dim=1).flatten()
        columns = codes.columns()  # by latent and then by token: the entries of a latent in a slice lie together
        reduction = "sum" if self.rank_by == "mass" else "max"
        found = torch.segment_reduce(columns.values.double(), reduction, lengths=lengths, initial=0)
        new = torch.cat([self._scores, found.view(m, batch)], dim=1)
        scores, chosen = (part[:, :top_k] for part in new.sort(dim=1, descending=True, stable=True))
        entering = (chosen >= top_k) & (scores > 0)
        changed = entering.any(1).nonzero()[:, 0]
        if not len(changed):
            return
        chosen, entering = chosen[changed], entering[changed]
        self._scores[changed] = scores[changed]
        # who stays keeps its place; who enters takes the place of one who leaves
        places = self._places[changed].gather(1, chosen.clamp_max(top_k - 1))
        free = torch.ones(m * top_k, dtype=torch.bool)
        free[places[~entering]] = False
        own = self._places[changed].sort(dim=1).values
        places[entering] = own[free[own]]
        self._places[changed] = places

        entered = places[entering]
        segment = (changed[:, None] * batch + chosen - top_k)[entering]
        self._rows[entered] = torch.as_tensor(rows)[segment % batch]
        starts = (lengths.cumsum(0) - lengths)[segment]
        lengths = lengths[segment]
        entries = (starts - lengths.cumsum(0) + lengths).repeat_interleave(lengths)
        entries += torch.arange(len(entries))
        place = entered.repeat_interleave(lengths)
        token_rows, values = columns.tokens[entries].long(), columns.values[entries]
        self._maps[entered], self._sums[entered] = 0, 0
        self._maps[place, token_rows % tokens] = values
        self._sums.index_add_(0, place, values.double()[:, None] * pooled[token_rows].double())

    def result(self) -> Exemplars:
        """Kept exemplars."""
        latents, ranks = (self._scores > 0).nonzero(as_tuple=True)
        places = self._places[latents, ranks]
        maps = self._maps[places].view(-1, *self.grid)
        return Exemplars(latents, self._rows[places], self._scores[latents, ranks], maps, self._sums[places])


def best_of(parts: Sequence[Exemplars], top_k: int) -> Int64[Tensor, " f"]:
    """Places, in all parts one after the other, of the best exemplars of each latent; ties go to the earlier slice.

    Args:
        parts: of different slices.
        top_k: how many of each latent, at most.
    """
    latents, scores, rows = (
        torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("latents", "scores", "rows")
    )
    order = np.lexsort((rows, -scores, latents))
    ranks = np.arange(len(order)) - np.searchsorted(latents[order], latents[order])
    return torch.from_numpy(order[ranks < top_k])
