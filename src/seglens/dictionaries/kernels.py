"""The products through active (token, latent) pairs that a dictionary step consists of.

In torch alone, or, where numba is installed (``pip install 'med-seglens[fast]'``) and the arrays are on a CPU, by a
compiled loop that keeps a token's decoder rows in the cache between decoding and its gradient. Both give the same
numbers but for rounding, and each is the same whatever the number of threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from inspect import unwrap
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from seglens.dictionaries.codes import Codes, weighted_rows

Kernel = Literal["auto", "torch", "numba", "dense"]


def chosen_kernel(kernel: Kernel, like: Tensor) -> Literal["torch", "numba", "dense"]:
    """The kernel for such arrays; ``"auto"`` takes dense products on a GPU and numba where it is installed and fits.

    Raises:
        ValueError: numba is asked for where it is not installed, or for arrays that it is not for.
    """
    usable = like.device.type == "cpu" and like.dtype in {torch.float32, torch.float64}
    if kernel == "auto" and like.device.type != "cpu":
        return "dense"
    if kernel == "auto":
        return "numba" if usable and find_spec("numba") is not None else "torch"
    if kernel == "numba" and find_spec("numba") is None:
        raise ValueError("kernel 'numba': numba is not installed; pip install 'med-seglens[fast]', or take 'torch'")
    if kernel == "numba" and not usable:
        raise ValueError(f"kernel 'numba' works on float32 or float64 on a CPU, not on {like.dtype} on {like.device}")
    return kernel


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


def errors_and_slopes(
    centred: Float[Tensor, "n d"], decoder: Float[Tensor, "m d"], codes: Codes, kernel: Kernel = "auto"
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " nnz"]]:
    """``z @ decoder - centred``, and of each token's row of it the product with the decoder rows of its active latents.

    Args:
        centred: what is to be reconstructed.
        decoder: one row a latent.
        codes: z.
        kernel: how to compute it.
    """
    if chosen_kernel(kernel, centred) != "numba":
        errors = weighted_rows(decoder, codes.offsets, codes.latents, codes.values) - centred
        return errors, pair_dots(errors, decoder, codes.offsets, codes.latents)
    errors, slopes = torch.empty_like(centred), torch.empty_like(codes.values)
    arrays = [part.detach().contiguous().numpy() for part in (centred, decoder, codes.offsets, codes.latents)]
    values = codes.values.detach().contiguous().numpy()

    def rows(start: int, stop: int) -> None:
        _compiled()(*arrays, values, errors.numpy(), slopes.numpy(), start, stop)

    threads = torch.get_num_threads()
    bounds = np.linspace(0, len(centred), threads + 1).astype(int)
    if threads == 1:
        rows(0, len(centred))
    else:
        list(_pool(threads).map(rows, bounds[:-1].tolist(), bounds[1:].tolist()))
    return errors, slopes


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "seglens-kernel")


@cache
def _compiled() -> Callable[..., Any]:
    import numba

    bare = unwrap(_errors_and_slopes_of_rows)  # of what a type checker of the tests puts around it
    compiled: Callable[..., Any] = numba.njit(nogil=True, fastmath=True, cache=True)(bare)
    return compiled


def _errors_and_slopes_of_rows(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    centred, decoder, offsets, latents, values, errors, slopes, start, stop
):
    width = centred.shape[1]
    for token in range(start, stop):
        error = errors[token]
        for channel in range(width):
            error[channel] = -centred[token, channel]
        for pair in range(offsets[token], offsets[token + 1]):
            value, row = values[pair], decoder[latents[pair]]
            for channel in range(width):
                error[channel] += value * row[channel]
        for pair in range(offsets[token], offsets[token + 1]):
            row = decoder[latents[pair]]
            dot = error[0] * row[0]
            for channel in range(1, width):
                dot += error[channel] * row[channel]
            slopes[pair] = dot
