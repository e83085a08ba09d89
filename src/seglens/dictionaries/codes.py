"""Sparse codes: which latents are active at each token, and how strongly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_PAIRS_INT32 = 2**31 - 1
MAX_INT16 = 2**15 - 1


class CodeColumns(NamedTuple):
    """Codes by latent (compressed sparse columns): latent ``j`` owns entries ``offsets[j]:offsets[j + 1]``.

    Attributes:
        offsets: int64 [m+1].
        tokens: int32 [nnz], the token row of each entry, ascending within a latent.
        values: [nnz].
    """

    offsets: Int64[Tensor, " m_plus_1"]
    tokens: Int32[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]


@dataclass(frozen=True)
class Codes:
    """Codes of n tokens (compressed sparse rows); what is not listed is zero.

    Attributes:
        offsets: int64 [n+1]; token ``i`` owns entries ``offsets[i]:offsets[i + 1]``.
        latents: int32 [nnz], ascending within a token.
        values: [nnz], float32 from a dictionary; positive from an encoder, of either sign where codes are differences.
        n_latents: m, the width of the dictionary.
    """

    offsets: Int64[Tensor, " n_plus_1"]
    latents: Int32[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    n_latents: int

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        if int(self.offsets[-1]) != len(self.latents):
            raise ValueError(
                f"these codes' offsets end at {int(self.offsets[-1])}, but there are {len(self.latents)} latents; "
                "give offsets [n+1] that start at 0 and end at the number of entries"
            )

    @property
    def n(self) -> int:
        """How many tokens."""
        return len(self.offsets) - 1

    @property
    def nnz(self) -> int:
        """How many active (token, latent) pairs."""
        return len(self.latents)

    @property
    def l0(self) -> float:
        """Mean number of active latents a token; NaN for no tokens."""
        return self.nnz / self.n if self.n else float("nan")

    def counts(self) -> Int64[Tensor, " n"]:
        """Active latents of each token."""
        return self.offsets.diff()

    def token_rows(self) -> Int64[Tensor, " nnz"]:
        """The token of each entry."""
        return torch.arange(self.n, device=self.offsets.device).repeat_interleave(self.counts())

    def to_dense(self) -> Float[Tensor, "n m"]:
        """The array [n m]; for small n only, it is mostly zeros."""
        dense = self.values.new_zeros(self.n, self.n_latents)
        dense[self.token_rows(), self.latents.long()] = self.values
        return dense

    def to_scipy(self) -> "csr_matrix":
        """The codes (on a CPU) as a sparse matrix [n m] of scipy, which shares their memory where it can."""
        from scipy.sparse import csr_matrix

        parts = (self.values.numpy(), self.latents.numpy(), self.offsets.numpy())
        return csr_matrix(parts, shape=(self.n, self.n_latents))

    def rows(self, rows: Int[Tensor, " r"] | Sequence[int] | slice) -> "Codes":
        """The codes of these tokens, in the order given; like ``dense[rows]``."""
        if isinstance(rows, slice):
            index = torch.arange(self.n, device=self.offsets.device)[rows]
        else:
            index = torch.as_tensor(rows, dtype=torch.int64, device=self.offsets.device)
        counts = self.counts()[index]
        offsets = _offsets(counts)
        entries = (self.offsets[index] - offsets[:-1]).repeat_interleave(counts)
        entries += torch.arange(len(entries), device=entries.device)
        return Codes(offsets, self.latents[entries], self.values[entries], self.n_latents)

    def columns(self) -> CodeColumns:
        """The same entries by latent."""
        if self.values.device.type == "cpu" and not self.values.requires_grad:
            matrix = self.to_scipy().tocsc()  # a counting sort, 4 to 10 x as fast as a sort
            offsets, tokens = torch.from_numpy(matrix.indptr).long(), torch.from_numpy(matrix.indices).int()
            return CodeColumns(offsets, tokens, torch.from_numpy(matrix.data))
        order = self.order_by_latent()
        return CodeColumns(_offsets(self.firing_counts()), self.token_rows()[order].int(), self.values[order])

    def order_by_latent(self) -> Int64[Tensor, " nnz"]:
        """The entries sorted by latent, and within one by token."""
        key = self.latents.short() if self.n_latents <= MAX_INT16 else self.latents  # a radix sort of 2 bytes
        return key.sort(stable=True).indices

    def firing_counts(self) -> Int64[Tensor, " m"]:
        """At how many tokens each latent is listed."""
        return torch.bincount(self.latents, minlength=self.n_latents)

    def select_latents(self, latents: Int[Tensor, " s"] | Sequence[int]) -> "Codes":
        """Only these latents, renumbered 0..s-1 in the order given; like ``dense[:, latents]``.

        Raises:
            ValueError: a latent twice, or outside 0..m-1.
        """
        chosen = torch.as_tensor(latents, dtype=torch.int64, device=self.latents.device)
        bad = chosen[(chosen < 0) | (chosen >= self.n_latents)]
        if len(bad) or len(chosen.unique()) != len(chosen):
            raise ValueError(
                f"latents must be different numbers in 0..{self.n_latents - 1}; got {chosen.tolist()[:20]}"
                f"{' with ' + str(bad.tolist()[:5]) + ' outside' if len(bad) else ''}"
            )
        number = torch.full((self.n_latents,), -1, dtype=torch.int32, device=chosen.device)
        number[chosen] = torch.arange(len(chosen), dtype=torch.int32, device=chosen.device)
        new = number[self.latents]
        kept = new >= 0
        rows, new, values = self.token_rows()[kept], new[kept], self.values[kept]
        if bool((chosen.diff() < 0).any()):
            order = (rows * max(len(chosen), 1) + new).argsort()
            new, values = new[order], values[order]
        return Codes(_offsets(torch.bincount(rows, minlength=self.n)), new, values, len(chosen))

    def with_values(self, values: Float[Tensor, " nnz"]) -> "Codes":
        """The same active pairs with other values."""
        return Codes(self.offsets, self.latents, values, self.n_latents)

    def to(self, device: torch.device | str) -> "Codes":
        """The same codes on another device."""
        return Codes(self.offsets.to(device), self.latents.to(device), self.values.to(device), self.n_latents)

    @classmethod
    def from_dense(cls, dense: Float[Tensor, "n m"]) -> "Codes":
        """Keep what is not zero."""
        rows, latents = dense.nonzero(as_tuple=True)
        offsets = _offsets(torch.bincount(rows, minlength=len(dense)))
        return cls(offsets, latents.int(), dense[rows, latents], dense.shape[1])

    @classmethod
    def concatenate(cls, parts: "Sequence[Codes]") -> "Codes":
        """Tokens of all parts, one after the other.

        Raises:
            ValueError: no parts, or parts of different dictionaries.
        """
        widths = {part.n_latents for part in parts}
        if len(widths) != 1:
            raise ValueError(f"codes to join must be of one width; got {sorted(widths) or 'no parts'}")
        return cls(
            _offsets(torch.cat([part.counts() for part in parts])),
            torch.cat([part.latents for part in parts]),
            torch.cat([part.values for part in parts]),
            widths.pop(),
        )


def weighted_rows(
    matrix: Float[Tensor, "m d"], offsets: Int64[Tensor, " n_plus_1"], rows: Int[Tensor, " nnz"], values: Tensor
) -> Float[Tensor, "n d"]:
    """For each bag the sum of ``values * matrix[rows]``: a sparse times dense product.

    ``embedding_bag`` does it 2.5 times as fast as a torch sparse matrix, and adds in a fixed order whatever the
    number of threads.
    """
    if len(rows) == 0:
        return matrix.new_zeros(len(offsets) - 1, matrix.shape[1])
    index_type = torch.int32 if len(rows) <= MAX_PAIRS_INT32 else torch.int64
    return torch.nn.functional.embedding_bag(
        rows.to(index_type),
        matrix,
        offsets.to(index_type),
        mode="sum",
        per_sample_weights=values.to(matrix.dtype),
        include_last_offset=True,
    )


def pair_dots(
    tokens: Float[Tensor, "n d"], latents: Float[Tensor, "m d"], offsets: Int[Tensor, " n_plus_1"], pairs: Tensor
) -> Float[Tensor, " nnz"]:
    """``tokens[i] . latents[j]`` for the pairs (i, j) of codes in compressed sparse rows.

    The gradient of ``embedding_bag`` by its weights is just that, and takes a tenth of the time of gathering both
    sides and a quarter of ``torch.sparse.sampled_addmm``'s.
    """
    if not len(pairs):
        return tokens.new_zeros(0)
    counts = offsets.diff()
    owners = torch.arange(len(counts), dtype=torch.int32, device=pairs.device).repeat_interleave(counts)
    dots: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        tokens.contiguous(), latents, pairs.int(), offsets[:-1].int(), owners, 0
    )
    return dots


def _offsets(counts: Int64[Tensor, " n"]) -> Int64[Tensor, " n_plus_1"]:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
