"""BatchTopK, forward and backward, through the active (token, latent) pairs only.

Dense training multiplies, sorts and copies arrays [n m] of which k in m entries matter. Here the one dense product is
the encoder's; all else touches n * k pairs, and the result is the same (the tests compare it with dense autograd).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from seglens.dictionaries.codes import Codes, weighted_rows
from seglens.processes import gather_over_ranks, rank_and_size, sum_over_ranks

CHUNK_ROWS = 256
CANDIDATE_MARGIN = 0.93
"""Candidates lie above this share of the last step's threshold: about 1.4 n*k of them, so a redo is rare."""
AUXILIARY_ELEMENTS = 2**22


class Weights(NamedTuple):
    """What is trained (or its gradients). The encoder is kept by latent, so that a latent's row is contiguous.

    Attributes:
        encoder: W_enc transposed, [m d_in].
        b_enc: [m].
        decoder: W_dec, [m d_in].
        b_dec: [d_in].
    """

    encoder: Float[Tensor, "m d_in"]
    b_enc: Float[Tensor, " m"]
    decoder: Float[Tensor, "m d_in"]
    b_dec: Float[Tensor, " d_in"]


@dataclass(frozen=True)
class Backward:
    """One batch's loss and gradients, over all processes.

    Attributes:
        loss: mean squared error over tokens and channels: 1 - explained variance where E||x||^2 = d_in.
        auxiliary: the auxiliary loss with its coefficient; 0 without dead latents.
        gradients: of ``loss + auxiliary``.
        fired: at how many tokens of the batch each latent was active.
    """

    loss: float
    auxiliary: float
    gradients: Weights
    fired: Int64[Tensor, " m"]


def batch_topk(pre: Float[Tensor, "n m"], k: int) -> Codes:
    """Keep the n*k largest positive pre-activations of a batch, fewer if fewer are positive.

    Equal values at the threshold: those of the lowest flat index stay, so that exactly n*k survive.
    (BatchTopK, arXiv 2412.06410, eq. 5.)

    Raises:
        ValueError: k is not in 1..m.
    """
    n, m = pre.shape
    _check_k(k, m)
    index, values = _above(pre.reshape(-1), 0.0)
    kept, _ = _keep_largest(values, n * k)
    return _codes(index[kept], values[kept], n, m)


class BatchTopK:
    """BatchTopK of an encoder's output, without holding the output or sorting it.

    Pre-activations are made in row chunks in one reused buffer (a fresh one costs more in page faults than the
    selection). Candidates are those above a bound just under the last threshold; the exact (n*k)-th value among them
    is the threshold. Too few candidates: the bound is lowered and the pass repeated. So the result is exact whatever
    the bound was. With several processes n counts all tokens of the global batch, and every process finds the same
    threshold.

    Attributes:
        threshold: the smallest value kept last time; None before.
    """

    def __init__(self, k: int, threshold: float | None = None):
        self.k = k
        self.threshold = threshold
        self._buffer: Tensor | None = None

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
        bounds = [0.0]
        if self.threshold is None:
            bounds.insert(0, self._estimate(x, encoder, offset))
        else:
            bounds[:0] = [CANDIDATE_MARGIN * self.threshold, 0.7 * self.threshold]
        index, values = self._candidates(x, encoder, offset, bounds[0])
        for lower in bounds[1:]:
            found = torch.tensor([len(values)], device=x.device)
            sum_over_ranks([found])
            if int(found) >= wanted:
                break
            index, values = self._candidates(x, encoder, offset, lower)
        kept, self.threshold = _keep_largest(values, wanted)
        return _codes(index[kept], values[kept], n, m)

    def _estimate(self, x: Tensor, encoder: Tensor, offset: Tensor) -> float:
        """A bound from the first rows, the same in every process."""
        sample = torch.addmm(offset, x[:CHUNK_ROWS], encoder.T).reshape(-1)
        count = min(len(x), CHUNK_ROWS) * self.k
        bound = sample.topk(count).values[-1:] if count else sample.new_full((1,), torch.inf)
        return max(0.0, 0.9 * float(torch.cat(gather_over_ranks(bound)).nan_to_num(0.0).min()))

    def _candidates(self, x: Tensor, encoder: Tensor, offset: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        m = len(encoder)
        if self._buffer is None or self._buffer.shape[1] != m or self._buffer.device != x.device:
            self._buffer = x.new_empty(CHUNK_ROWS, m)
        indices, values = [torch.zeros(0, dtype=torch.int64, device=x.device)], [x.new_zeros(0)]
        for start in range(0, len(x), CHUNK_ROWS):
            part = x[start : start + CHUNK_ROWS]
            pre = torch.addmm(offset, part, encoder.T, out=self._buffer[: len(part)]).reshape(-1)
            index, value = _above(pre, bound)
            indices.append(index + start * m)
            values.append(value)
        return torch.cat(indices), torch.cat(values)


def backward(
    x: Float[Tensor, "n d_in"],
    weights: Weights,
    codes: Codes,
    *,
    dead: Int64[Tensor, " n_dead"] | None = None,
    auxiliary_k: int = 0,
    auxiliary_coefficient: float = 1 / 32,
) -> Backward:
    """Loss and gradients of one batch by hand, summed over all processes.

    The loss is ``sum((x_hat - x)^2) / (n d_in)`` with ``x_hat = z @ W_dec + b_dec`` and z the selected
    ``(x - b_dec) @ W_enc + b_enc``. The auxiliary loss (arXiv 2406.04093, section 2.4) asks the ``auxiliary_k`` largest
    dead latents of each token to reconstruct the error, which counts as constant; it is taken relative to the error's
    energy, as the paper's own code does: otherwise it fades as the fit gets good, just when dead latents need it.

    Args:
        x: this process's normalised tokens.
        weights: the dictionary.
        codes: their active pairs, from :class:`BatchTopK`.
        dead: latents that the auxiliary loss is for.
        auxiliary_k: how many of them a token may use.
        auxiliary_coefficient: weight of the auxiliary loss.

    Returns:
        Loss, gradients and how often each latent fired.
    """
    total = torch.tensor([len(x)], device=x.device)
    sum_over_ranks([total])
    elements = max(int(total) * x.shape[1], 1)
    centred = x - weights.b_dec
    values = codes.values.clone().requires_grad_()
    with torch.enable_grad():
        reconstruction = weighted_rows(weights.decoder, codes.offsets, codes.latents, values)
    error = reconstruction.detach() - centred
    slope = error * (2 / elements)
    # embedding_bag's own backward is a dot product per active pair, ten times as fast as gathering both sides
    pair_slopes = torch.autograd.grad(reconstruction, values, slope)[0] if codes.nnz else values.detach()
    sorting_key = codes.latents.short() if codes.n_latents < 2**15 else codes.latents
    order = sorting_key.sort(stable=True).indices
    fired = codes.firing_counts()
    offsets = torch.cat([fired.new_zeros(1), fired.cumsum(0)])
    tokens = codes.token_rows()[order]
    gradients = Weights(
        encoder=weighted_rows(centred, offsets, tokens, pair_slopes[order]),
        b_enc=_sum_by(codes.latents, pair_slopes, codes.n_latents),
        decoder=weighted_rows(slope, offsets, tokens, codes.values[order]),
        b_dec=slope.sum(0),
    )
    auxiliary = x.new_zeros(1)
    energy = error.square().sum().reshape(1)
    sum_over_ranks([energy])
    if dead is not None and len(dead) and auxiliary_k:
        auxiliary += _add_auxiliary(
            centred,
            error,
            weights,
            gradients,
            dead=dead,
            k=min(auxiliary_k, len(dead)),
            factor=auxiliary_coefficient / max(float(energy), 1e-30),
        )
    sum_over_ranks([*gradients, auxiliary])
    sum_over_ranks([fired])
    # b_dec also enters the encoder: its gradient there follows from b_enc's, one dense product less
    gradients.b_dec.sub_(gradients.b_enc @ weights.encoder)
    return Backward(float(energy) / elements, float(auxiliary), gradients, fired)


def project_decoder_gradient(gradient: Float[Tensor, "m d_in"], decoder: Float[Tensor, "m d_in"]) -> None:
    """Remove, in place, the part that only changes the length of the unit decoder rows."""
    along = (gradient * decoder).sum(1, keepdim=True)
    gradient.addcmul_(along, decoder, value=-1)


def _add_auxiliary(
    centred: Tensor, error: Tensor, weights: Weights, gradients: Weights, *, dead: Tensor, k: int, factor: float
) -> Tensor:
    """Add the dead latents' gradients in place; returns the auxiliary loss of this process."""
    encoder, b_enc, decoder = weights.encoder[dead], weights.b_enc[dead], weights.decoder[dead]
    into_encoder, into_decoder = torch.zeros_like(encoder), torch.zeros_like(decoder)
    into_b_enc = torch.zeros_like(b_enc)
    loss = centred.new_zeros(1)
    chunk = max(1, AUXILIARY_ELEMENTS // len(dead))
    for start in range(0, len(centred), chunk):
        x, residual = centred[start : start + chunk], error[start : start + chunk]
        pre = torch.addmm(b_enc, x, encoder.T)
        if k < len(dead):
            top, places = pre.topk(k, dim=1, sorted=False)
            pre = torch.zeros_like(pre).scatter_(1, places, top)
        z = pre.relu_()
        # the target is minus the error, so their difference is a sum
        difference = torch.addmm(residual, z, decoder)
        loss += difference.square().sum() * factor
        difference *= 2 * factor
        into_decoder.addmm_(z.T, difference)
        slopes = (difference @ decoder.T).mul_(z > 0)
        into_b_enc += slopes.sum(0)
        into_encoder.addmm_(slopes.T, x)
    gradients.encoder[dead] += into_encoder
    gradients.b_enc[dead] += into_b_enc
    gradients.decoder[dead] += into_decoder
    return loss


def _check_k(k: int, m: int) -> None:
    if not 1 <= k <= m:
        raise ValueError(f"k is {k}; it must be from 1 to the number of latents, {m}")


def _above(flat: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Places and values above a bound. On a CPU by numpy, whose nonzero takes a quarter of the time of torch's."""
    if flat.device.type == "cpu":
        array = flat.detach().numpy()
        places = np.flatnonzero(array > bound)
        return torch.from_numpy(places), torch.from_numpy(array[places])
    index = (flat > bound).nonzero()[:, 0]
    return index, flat[index]


def _keep_largest(values: Tensor, count: int) -> tuple[Tensor, float]:
    """Which of this process's values are among the ``count`` largest of all processes'; the first of equals.

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
    ties_allowed = count - int((everything > threshold).sum())
    rank = rank_and_size()[0]
    ties_allowed -= sum(int((part == threshold).sum()) for part in parts[:rank])
    ties = (values == threshold).nonzero()[:, 0]
    kept = values >= threshold
    kept[ties[max(ties_allowed, 0) :]] = False
    return kept.nonzero()[:, 0], float(threshold)


def _codes(index: Tensor, values: Tensor, n: int, m: int) -> Codes:
    rows = index // m
    counts = torch.bincount(rows, minlength=n)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Codes(offsets, (index - rows * m).int(), values, m)


def _sum_by(groups: Tensor, values: Tensor, n_groups: int) -> Tensor:
    """Sum of values by group; in a fixed order on a CPU (bincount is serial there)."""
    if groups.device.type == "cpu":
        return torch.bincount(groups, weights=values.double(), minlength=n_groups).to(values.dtype)
    return values.new_zeros(n_groups).index_add_(0, groups.long(), values)
