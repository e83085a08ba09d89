"""Codes of a few latents at one activation, computed once and shared by all edits of that activation.

The difference that most edits make is linear in their value, so edits that differ only in alpha share one product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.shapes import TokenGrid, Tokens

KEPT_BYTES = 64 * 2**20
"""About how much is kept of one activation; past that the oldest is computed again when it is wanted."""


@dataclass(frozen=True)
class Contribution:
    """Contribution of some latents to an activation.

    Attributes:
        grid: their codes through the decoder, in the activation's scale and memory layout.
        fires: tokens at which any of them fires.
    """

    grid: TokenGrid
    fires: Bool[Tensor, "B d h w 1"]


class SharedCodes:
    """Codes of the activation that was asked about last.

    An activation counts as the same while it is the same memory and nothing has been written into it. It is held here,
    so that its memory cannot be given to another one meanwhile.

    Args:
        dictionary: of the activation's hookpoint; not changed meanwhile.
    """

    def __init__(self, dictionary: SparseAutoencoder):
        self.dictionary = dictionary
        self._grid: Tensor | None = None
        self._version = 0
        self._kept: dict[object, Any] = {}

    def tokens(self, grid: TokenGrid) -> Tokens:
        """The activation as tokens [n d_in], in the dictionary's precision."""
        width = grid.shape[-1]
        tokens: Tensor = self._once(grid, "tokens", lambda: grid.reshape(-1, width).to(self.dictionary.W_enc.dtype))
        return tokens

    def codes(self, grid: TokenGrid, latents: Sequence[int]) -> Float[Tensor, "n s"]:
        """Codes of a few latents, in the order given."""
        key = "codes", tuple(latents)
        codes: Tensor = self._once(grid, key, lambda: codes_of(self.dictionary, self.tokens(grid), latents))
        return codes

    def all_codes(self, grid: TokenGrid) -> Codes:
        """Codes of all latents."""
        codes: Codes = self._once(grid, "all", lambda: self.dictionary.encode(self.tokens(grid)))
        return codes

    def part(self, grid: TokenGrid, latents: Sequence[int]) -> Contribution | None:
        """Contribution of some latents; None where none of them fires."""

        def computed() -> Contribution | None:
            codes = self.codes(grid, latents)
            return _part(grid, codes @ self.rows(latents) / self.dictionary.scale, (codes > 0).any(dim=1))

        part: Contribution | None = self._once(grid, ("part", tuple(latents)), computed)
        return part

    def slice_part(self, grid: TokenGrid, latents: Int[Tensor, "B s"]) -> Contribution | None:
        """Contribution of latents of its own to each slice; None where none of them fires."""

        def computed() -> Contribution | None:
            dictionary = self.dictionary
            tokens = dictionary.normalise(self.tokens(grid)).view(len(grid), -1, grid.shape[-1])
            columns = dictionary.W_enc.T[latents]  # [B s d_in]
            offset = dictionary.b_enc[latents] - columns @ dictionary.b_dec
            pre = torch.baddbmm(offset[:, None, :], tokens, columns.mT)
            codes = torch.where(pre > dictionary.theta, pre, 0.0)
            return _part(grid, codes @ dictionary.W_dec[latents] / dictionary.scale, (codes > 0).any(dim=2))

        part: Contribution | None = self._once(grid, ("slices", tuple(map(tuple, latents.tolist()))), computed)
        return part

    def rows(self, latents: Sequence[int]) -> Float[Tensor, "s d_in"]:
        """The latents' rows of the decoder."""
        return self.dictionary.W_dec[torch.tensor(latents, dtype=torch.int64, device=self.dictionary.W_dec.device)]

    def _once(self, grid: Tensor, key: object, computed: Callable[[], Any]) -> Any:
        if torch.is_grad_enabled() and grid.requires_grad:
            return computed()  # a graph serves one backward pass only
        if self._grid is None or not grid.is_set_to(self._grid) or grid._version != self._version:
            self._grid, self._version, self._kept = grid, grid._version, {}
        if key not in self._kept:
            value = computed()
            while len(self._kept) > KEPT_BYTES // grid.nbytes:  # what is kept is each about as large as the activation
                del self._kept[next(iter(self._kept))]
            self._kept[key] = value
        return self._kept[key]


def codes_of(dictionary: SparseAutoencoder, tokens: Tokens, latents: Sequence[int]) -> Float[Tensor, "n s"]:
    """Codes of a few latents only: no other column of the encoder is multiplied."""
    pre = _pre_activations(dictionary, tokens, latents)
    return torch.where(pre > dictionary.theta, pre, 0.0)


def active_codes(dictionary: SparseAutoencoder, tokens: Tokens, latents: Sequence[int]) -> Codes:
    """The same without what is 0; latents are numbered as they are given. Gradients go through active pairs only."""
    pre = _pre_activations(dictionary, tokens, latents)
    active = (pre.detach() > dictionary.theta).nonzero()
    counts = torch.bincount(active[:, 0], minlength=len(pre))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    places = active[:, 0] * len(latents) + active[:, 1]
    return Codes(offsets, active[:, 1].int(), pre.flatten().index_select(0, places), len(latents))


def _pre_activations(dictionary: SparseAutoencoder, tokens: Tokens, latents: Sequence[int]) -> Float[Tensor, "n s"]:
    chosen = torch.tensor(latents, dtype=torch.int64, device=dictionary.W_enc.device)
    columns = dictionary.W_enc[:, chosen]
    offset = dictionary.b_enc[chosen] - dictionary.b_dec @ columns
    return torch.addmm(offset, dictionary.normalise(tokens.to(columns.dtype)), columns)


def _part(grid: TokenGrid, tokens: Tensor, fires: Tensor) -> Contribution | None:
    if not bool(fires.any()):
        return None
    # empty_like keeps the layout of the network's own tensor: what is added to it is not transposed once an edit
    own = torch.empty_like(grid, dtype=tokens.dtype).copy_(tokens.view(grid.shape))
    return Contribution(own, fires.view(*grid.shape[:-1], 1))
