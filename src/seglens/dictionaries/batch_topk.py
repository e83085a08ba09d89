"""BatchTopK: which (token, latent) pairs of a batch are active, without holding or sorting all n * m of them."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.dictionaries.codes import Codes, pair_dots
from seglens.runtime.devices import bf16_saves
from seglens.runtime.distributed import broadcast_from_main, gather_over_ranks, rank_and_size, sum_over_ranks

Screen = Literal["auto", "fp32", "bf16"]

FP32_ROWS, BF16_ROWS, SAMPLE_ROWS = 256, 1024, 256
CANDIDATE_MARGINS = (0.97, 0.8, 0.0)
"""Candidates lie above a share of the last threshold: about 1.1 n*k of them. Fewer than n*k: the next share."""
BF16_PRODUCT = 1.01 * 2.0**-7
"""|a . b - bf16(a) . bf16(b)| is at most this share of |a| |b|: 2^-8 for each side, and a little for their product."""
BF16_OFFSET = 2.0**-15
"""The same of an offset that is given as a sum of two bfloat16 numbers."""
BF16_RESULT = 1.01 * 2.0**-8
"""Rounding of that product when it is stored, a share of itself."""
ROUNDING = 1e-6
"""More than the relative rounding of one float32 sum."""
BF16_CHANNELS = 128
"""Below, a float32 product takes so little that screening does not pay."""
MAX_REFINED = 4
"""A screen that leaves more than this times n*k pairs is no gain."""


def batch_topk(pre: Float[Tensor, "n m"], k: int) -> Codes:
    """Keep the n*k largest positive pre-activations of a batch, fewer if fewer are positive.

    Equal values at the threshold: those of the lowest flat index stay, so that exactly n*k survive.
    (BatchTopK, arXiv 2412.06410, eq. 5.)

    Raises:
        ValueError: k is not in 1..m.
    """
    n, m = pre.shape
    _check_k(k, m)
    index = _above(pre, 0.0)
    values = _taken(pre, index)
    kept, _ = _keep_largest(values, n * k)
    return _codes(_taken(index, kept), _taken(values, kept), n, m)


class BatchTopK:
    """BatchTopK of an encoder's output, without holding the output or sorting it.

    Pre-activations are made in row chunks in one reused buffer (a fresh one costs more in page faults than the
    selection). Candidates are those above a bound just under the last threshold; the exact (n*k)-th value among them
    is the threshold. Too few candidates: the bound is lowered and the pass repeated. So the result is exact whatever
    the bound was. With several processes n counts all tokens of the global batch, and every process finds the same
    threshold.

    Where the processor multiplies bfloat16 matrices fast, such a product screens the pairs: those that cannot reach
    the bound, given the largest possible rounding, are left out, and the others are computed in float32. The result is
    the same but for the order in which a float32 dot product is added.

    Attributes:
        threshold: the smallest value kept last time; None before.
        screen: how candidates are found: ``"fp32"``, ``"bf16"`` (of float32 tokens; others take fp32), or ``"auto"``,
            bf16 for wide tokens on a CPU that is measured to save by it (see `bf16_saves`).
    """

    def __init__(self, k: int, threshold: float | None = None, screen: Screen = "auto"):
        self.k = k
        self.threshold = threshold
        self.screen = screen
        self._buffer: Tensor | None = None
        self._saves: bool | None = None

    def encode(
        self, x: Float[Tensor, "n d_in"], encoder: Float[Tensor, "m d_in"], offset: Float[Tensor, " m"]
    ) -> Codes:
        """Codes of this process's tokens: the n*k largest positive ``x @ encoder.T + offset`` of the global batch.

        Raises:
            ValueError: k is not in 1..m.
        """
        n, m = len(x), len(encoder)
        _check_k(self.k, m)
        total = torch.tensor([n], device=x.device)
        sum_over_ranks([total])
        wanted = int(total) * self.k
        last = self._estimate(x, encoder, offset) if self.threshold is None else self.threshold
        for margin in CANDIDATE_MARGINS:
            bound = margin * last
            index, values = self._candidates(x, encoder, offset, bound)
            found = torch.tensor([len(values)], device=x.device)
            sum_over_ranks([found])
            if int(found) >= wanted:
                break
        kept, self.threshold = _keep_largest(values, wanted)
        return _codes(_taken(index, kept), _taken(values, kept), n, m)

    def _by_bf16(self, x: Tensor) -> bool:
        """Whether candidates are found by a bfloat16 product: in all processes alike."""
        if self.screen != "auto":
            return self.screen == "bf16"
        if x.device.type != "cpu" or x.shape[1] < BF16_CHANNELS:
            return False
        if self._saves is None:
            self._saves = broadcast_from_main(bf16_saves)
        return self._saves

    def _estimate(self, x: Tensor, encoder: Tensor, offset: Tensor) -> float:
        """Roughly the threshold, from the first rows, the same in every process."""
        sample = torch.addmm(offset, x[:SAMPLE_ROWS], encoder.T).reshape(-1)
        count = min(len(x), SAMPLE_ROWS) * self.k
        bound = sample.topk(count).values[-1:] if count else sample.new_full((1,), torch.inf)
        return max(0.0, float(torch.cat(gather_over_ranks(bound)).nan_to_num(0.0).min()))

    def _candidates(self, x: Tensor, encoder: Tensor, offset: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        """Flat places, ascending, and values of all that is above the bound."""
        if self._by_bf16(x) and bound > 0 and x.dtype == torch.float32 and x.device.type == "cpu":
            screened = self._screened(x, encoder, offset, bound)
            if screened is not None:
                return screened
        m = len(encoder)
        # the offset is added to candidates only: a little lower, the limit misses none by rounding
        limit = (bound - offset) - ROUNDING * (bound + offset.abs())
        indices, products = [torch.zeros(0, dtype=torch.int64, device=x.device)], [x.new_zeros(0)]
        for start in range(0, len(x), FP32_ROWS):
            part = x[start : start + FP32_ROWS]
            product = torch.mm(part, encoder.T, out=self._rows(x, m, FP32_ROWS)[: len(part)])
            index = _above(product, limit)
            products.append(_taken(product, index))
            indices.append(index.add_(start * m))
        index = torch.cat(indices)
        values = torch.cat(products) + _taken(offset, index % m)
        above = _above(values, bound)
        return _taken(index, above), _taken(values, above)

    def _screened(self, x: Tensor, encoder: Tensor, offset: Tensor, bound: float) -> tuple[Tensor, Tensor] | None:
        """Candidates by way of a bfloat16 product; None where it would leave too much to be computed again."""
        n, m = len(x), len(encoder)
        largest_error = BF16_PRODUCT * x.norm(dim=1) * encoder.norm(dim=1).max() + BF16_OFFSET * offset.abs().max()
        lowest = (bound - largest_error) / (1 + BF16_RESULT)
        # positive bfloat16 numbers are ordered as the integers of their bits, which numpy compares fast; where the
        # error is as large as the bound, all of the row is taken
        bounds = torch.where(lowest > 0, lowest.bfloat16().view(torch.int16) - 1, torch.iinfo(torch.int16).min)
        tokens, latents = _with_offset(x, torch.ones(2)), _with_offset(encoder, _two_bf16(offset)).T
        allowed = MAX_REFINED * n * self.k
        places = []
        for start in range(0, n, BF16_ROWS):
            part = tokens[start : start + BF16_ROWS]
            products = torch.mm(part, latents, out=self._rows(part, m, BF16_ROWS)[: len(part)]).view(torch.int16)
            places.append(_above(products, bounds[start : start + BF16_ROWS, None]) + start * m)
            allowed -= len(places[-1])
            if allowed < 0:
                return None
        index = torch.cat(places)
        offsets, numbers = _by_token(index, n, m)
        values = pair_dots(x, encoder, offsets, numbers) + offset[numbers]
        above = _above(values, bound)
        return _taken(index, above), _taken(values, above)

    def _rows(self, like: Tensor, m: int, rows: int) -> Tensor:
        """The reused buffer [rows m], of the type and device of ``like``."""
        buffer = self._buffer
        if buffer is None or (buffer.shape, buffer.dtype, buffer.device) != ((rows, m), like.dtype, like.device):
            buffer = self._buffer = like.new_empty(rows, m)
        return buffer


def _check_k(k: int, m: int) -> None:
    if not 1 <= k <= m:
        raise ValueError(f"k is {k}; it must be from 1 to the number of latents, {m}")


def _above(array: Tensor, bound: Tensor | float) -> Tensor:
    """Flat places above a bound; on a CPU numpy compares whole numbers faster."""
    if array.device.type == "cpu":
        limit = bound.detach().numpy() if isinstance(bound, Tensor) else bound
        return torch.from_numpy(np.flatnonzero(array.detach().numpy() > limit))
    return _places(array > bound)


def _places(mask: Tensor) -> Tensor:
    """Flat places of what is true; on a CPU by numpy, in a quarter of torch's time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero()[:, 0]


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """Values at flat places; by numpy too."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.detach().numpy().take(places.numpy()))
    return values.reshape(-1)[places]


def _keep_largest(values: Tensor, count: int) -> tuple[Tensor, float]:
    """Mark which of this process's values are among the ``count`` largest of all processes'; the first of equals.

    Returns:
        Places in ``values``, ascending, and the smallest value kept (0 where nothing is).
    """
    parts = gather_over_ranks(values)
    everything = torch.cat(parts)
    if len(everything) <= count:
        least = float(everything.min()) if len(everything) else 0.0
        return torch.arange(len(values), device=values.device), least
    if values.device.type == "cpu":
        place = len(everything) - count
        threshold = torch.from_numpy(np.partition(everything.numpy(), place)[place : place + 1])
    else:
        threshold = everything.kthvalue(len(everything) - count + 1).values.reshape(1)
    kept = _places(values >= threshold)
    surplus = int((everything >= threshold).sum()) - count
    if surplus:
        ties = _places(values == threshold)
        # those of the last processes go first
        surplus -= sum(int((part == threshold).sum()) for part in parts[rank_and_size()[0] + 1 :])
        dropped = ties[max(len(ties) - max(surplus, 0), 0) :]
        kept = kept[~torch.isin(kept, dropped)]
    return kept, float(threshold)


def _codes(index: Tensor, values: Tensor, n: int, m: int) -> Codes:
    """Codes of flat places, which ascend."""
    offsets, latents = _by_token(index, n, m)
    return Codes(offsets, latents, values, m)


def _by_token(index: Tensor, n: int, m: int) -> tuple[Tensor, Tensor]:
    """Offsets and latents (compressed sparse rows) of flat places, which ascend."""
    starts = torch.arange(n + 1, device=index.device) * m
    offsets = torch.searchsorted(index, starts)
    return offsets, (index - starts[:-1].repeat_interleave(offsets.diff())).int()


def _with_offset(matrix: Tensor, columns: Tensor) -> Tensor:
    """A matrix in bfloat16 with more columns, given for each row or the same for all."""
    width = matrix.shape[1]
    wider = matrix.new_empty(len(matrix), width + columns.shape[-1], dtype=torch.bfloat16)
    wider[:, :width] = matrix
    wider[:, width:] = columns
    return wider


def _two_bf16(values: Tensor) -> Tensor:
    """Numbers as sums of two that bfloat16 can hold, [n 2]."""
    high = values.bfloat16().float()
    return torch.stack([high, values - high], 1)
