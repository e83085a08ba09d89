"""The slices that activate each latent most, kept while the slices stream by."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from seglens.dictionaries.codes import Codes

RankBy = Literal["mass", "peak"]


class TopExemplars:
    """Top-K slices of every latent with their maps, in memory that does not grow with the slices.

    Ranked by activation mass (the sum of the latent's codes in the slice, the default: extended responses come first)
    or by peak (its largest code: outliers come first). Slices in which a latent is silent are no exemplars of it, so it
    may have fewer than K. Ties go to the earlier slice.

    Args:
        n_latents: m.
        top_k: K, at least 1.
        grid: (h, w) of the tokens.
        n_regions: columns of the pooled regions that are summed for every exemplar.
        rank_by: mass or peak.

    Raises:
        ValueError: ``top_k`` below 1, or another ranking.
    """

    def __init__(self, n_latents: int, top_k: int, grid: tuple[int, int], n_regions: int, rank_by: RankBy = "mass"):
        if top_k < 1 or rank_by not in ("mass", "peak"):
            raise ValueError(f"top_k {top_k} must be at least 1 and rank_by {rank_by!r} 'mass' or 'peak'")
        self.grid = grid
        self.rank_by = rank_by
        self._scores = torch.zeros(n_latents, top_k, dtype=torch.float64)
        self._rows = torch.full((n_latents, top_k), -1)
        self._maps = torch.zeros(n_latents, top_k, grid[0] * grid[1])
        self._sums = torch.zeros(n_latents, top_k, n_regions, dtype=torch.float64)

    def update(self, codes: Codes, rows: Sequence[int], pooled: Float[Tensor, "n R"]) -> None:
        """Take a batch of slices into account.

        Args:
            codes: of the batch's tokens, slice after slice.
            rows: the slices' row numbers, each seen only once.
            pooled: the slices' regions pooled at the tokens.
        """
        m, top_k = self._scores.shape
        tokens, batch = self.grid[0] * self.grid[1], len(rows)
        token_rows, latents = codes.token_rows(), codes.latents.long()
        key = latents * batch + token_rows // tokens
        new = torch.cat([self._scores, self._score(key, codes.values, m * batch).view(m, batch)], dim=1)
        scores, chosen = (part[:, :top_k] for part in new.sort(dim=1, descending=True, stable=True))
        changed = ((chosen >= top_k) & (scores > 0)).any(1).nonzero()[:, 0]
        if not len(changed):
            return
        order, entering = chosen[changed], chosen[changed] >= top_k
        old = order.clamp_max(top_k - 1)
        numbers = torch.as_tensor(rows)[(order - top_k).clamp_min(0)]
        for state in (self._rows, self._maps, self._sums):
            index = old.view(*old.shape, *(1,) * (state.dim() - 2)).expand(-1, -1, *state.shape[2:])
            state[changed] = state[changed].gather(1, index)
        self._scores[changed] = scores[changed]
        self._rows[changed] = torch.where(entering, numbers, self._rows[changed])
        places = (changed[:, None] * top_k + torch.arange(top_k))[entering]
        lookup = torch.full((m * batch,), -1)
        lookup[(changed[:, None] * batch + order - top_k)[entering]] = places
        place = lookup[key]
        kept = place >= 0
        place, token_rows, values = place[kept], token_rows[kept], codes.values[kept]
        maps, sums = self._maps.view(m * top_k, tokens), self._sums.view(m * top_k, -1)
        maps[places], sums[places] = 0, 0
        maps[place, token_rows % tokens] = values
        sums.index_add_(0, place, values.double()[:, None] * pooled[token_rows].double())

    def result(
        self,
    ) -> tuple[Int64[Tensor, "e 3"], Float[Tensor, " e"], Float[Tensor, "e h w"], Float[Tensor, "e R"]]:
        """What was kept, by latent and then from the highest: (latent, rank, row), scores, maps, sums over regions."""
        latents, ranks = (self._scores > 0).nonzero(as_tuple=True)
        places = torch.stack([latents, ranks, self._rows[latents, ranks]], dim=1)
        maps = self._maps[latents, ranks].view(-1, *self.grid)
        return places, self._scores[latents, ranks], maps, self._sums[latents, ranks]

    def _score(self, key: Int64[Tensor, " nnz"], values: Float[Tensor, " nnz"], n: int) -> Float[Tensor, " n"]:
        if self.rank_by == "mass":
            return torch.bincount(key, weights=values.double(), minlength=n).double()  # integers where nothing fires
        return torch.zeros(n, dtype=torch.float64).scatter_reduce_(0, key, values.double(), "amax")
