"""Loss and gradients of a BatchTopK dictionary by hand, through the active (token, latent) pairs only.

Dense training multiplies, sorts and copies arrays [n m] of which k in m entries matter. Here the one dense product is
the encoder's; all else touches n * k pairs, and the result is the same (the tests compare it with dense autograd).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from seglens.dictionaries.codes import Codes, pair_dots, weighted_rows
from seglens.runtime.distributed import sum_over_ranks

AUXILIARY_ELEMENTS = 2**17
"""The dead latents' pre-activations are made in chunks that fit into a cache."""


class Weights(NamedTuple):
    """Parameters of a fit (or their gradients). The encoder is kept by latent, so that a latent's row is contiguous.

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


Through = Callable[[Tensor, Weights, Codes, float], tuple[Tensor, Weights]]
"""From centred tokens, weights, codes and a factor to the error, and to the gradients of its energy times
``factor / 2`` (or of another loss in its place) where the encoder's input does not move."""


def backward(
    x: Float[Tensor, "n d_in"],
    weights: Weights,
    codes: Codes,
    *,
    dead: Int64[Tensor, " n_dead"] | None = None,
    auxiliary_k: int = 0,
    auxiliary_coefficient: float = 1 / 32,
    through: Through | None = None,
) -> Backward:
    """Loss and gradients of one batch by hand, summed over all processes.

    The loss is ``sum((x_hat - x)^2) / (n d_in)`` with ``x_hat = z @ W_dec + b_dec`` and z the selected
    ``(x - b_dec) @ W_enc + b_enc``. The auxiliary loss (arXiv 2406.04093, section 2.4) asks the ``auxiliary_k`` largest
    dead latents of each token (and what equals the last of them) to reconstruct the error, which counts as constant; it
    is taken relative to the error's energy, as the paper's own code does: otherwise it fades as the fit gets good, just
    when dead latents need it.

    Args:
        x: this process's normalised tokens.
        weights: the dictionary.
        codes: their active pairs, from :class:`BatchTopK`.
        dead: latents that the auxiliary loss is for.
        auxiliary_k: how many of them a token may use.
        auxiliary_coefficient: weight of the auxiliary loss.
        through: another loss of the active pairs (`matryoshka.PrefixErrors`); None: the squared error, through the
            active pairs on a CPU and by dense products elsewhere.

    Returns:
        Loss, gradients and how often each latent fired.
    """
    total = torch.tensor([len(x)], device=x.device)
    sum_over_ranks([total])
    elements = max(int(total) * x.shape[1], 1)
    centred = x - weights.b_dec
    through = through or (_through_pairs if x.device.type == "cpu" else _through_all)
    error, gradients = through(centred, weights, codes, 2 / elements)
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
    fired = codes.firing_counts()
    sum_over_ranks([*gradients, auxiliary])
    sum_over_ranks([fired])
    # b_dec also enters the encoder: its gradient there follows from b_enc's, one dense product less
    gradients.b_dec.sub_(gradients.b_enc @ weights.encoder)
    return Backward(float(energy) / elements, float(auxiliary), gradients, fired)


def _through_pairs(centred: Tensor, weights: Weights, codes: Codes, factor: float) -> tuple[Tensor, Weights]:
    """The error, and the gradients of its energy times ``factor / 2`` where the encoder's input does not move."""
    error = weighted_rows(weights.decoder, codes.offsets, codes.latents, codes.values) - centred
    slopes = pair_dots(error, weights.decoder, codes.offsets, codes.latents).mul_(factor)
    order = codes.order_by_latent()
    fired = codes.firing_counts()
    offsets = torch.cat([fired.new_zeros(1), fired.cumsum(0)])
    tokens = codes.token_rows()[order]
    gradients = Weights(
        encoder=weighted_rows(centred, offsets, tokens, slopes[order]),
        b_enc=_sum_by(codes.latents, slopes, codes.n_latents),
        decoder=weighted_rows(error, offsets, tokens, codes.values[order] * factor),
        b_dec=error.sum(0) * factor,
    )
    return error, gradients


def _through_all(centred: Tensor, weights: Weights, codes: Codes, factor: float) -> tuple[Tensor, Weights]:
    """The same by dense products, which a GPU is made for (no GPU has been measured yet)."""
    z = codes.to_dense()
    error = z @ weights.decoder - centred
    slopes = (error @ weights.decoder.T).mul_(factor).mul_(z > 0)
    gradients = Weights(
        encoder=slopes.T @ centred, b_enc=slopes.sum(0), decoder=z.T @ error * factor, b_dec=error.sum(0) * factor
    )
    return error, gradients


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
        z = torch.addmm(b_enc, x, encoder.T).relu_()
        if k < len(dead):
            z.mul_(z >= _kth_largest(z, k))
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


def _kth_largest(rows: Tensor, k: int) -> Tensor:
    """The k-th largest of each row, [n 1]; on a CPU by numpy's partition, a quarter of the time of a topk."""
    if rows.device.type == "cpu":
        place = rows.shape[1] - k
        return torch.from_numpy(np.partition(rows.numpy(), place, axis=1)[:, place, None])
    return rows.topk(k, dim=1).values[:, -1:]


def _sum_by(groups: Tensor, values: Tensor, n_groups: int) -> Tensor:
    """Sum of values by group; in a fixed order on a CPU (bincount is serial there)."""
    if groups.device.type == "cpu":
        return torch.bincount(groups, weights=values.double(), minlength=n_groups).to(values.dtype)
    return values.new_zeros(n_groups).index_add_(0, groups.long(), values)
