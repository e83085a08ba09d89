"""Batch normalisation over the whole batch when several processes share it; torch's own does that on GPUs only."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seglens.runtime.distributed import all_reduce, rank_and_size


@contextmanager
def pooled_batch_norm(network: nn.Module) -> Iterator[None]:
    """Inside, the training-mode statistics of every batch norm of the network are those of all processes' samples.

    In a single process nothing changes.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    changed = norms if rank_and_size()[1] > 1 else []
    for norm in changed:
        norm.forward = partial(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in changed:
            del norm.forward


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    others = [axis for axis in range(x.ndim) if axis != 1]
    along = [1, -1] + [1] * (x.ndim - 2)
    values = x.float()
    count = values.new_full((1,), values.numel() / values.shape[1])
    sums, n = all_reduce(torch.cat([values.sum(others), count])).split([values.shape[1], 1])
    mean = sums / n
    centred = values - mean.view(along)
    variance = all_reduce(centred.square().sum(others)) / n
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
            norm.running_var.lerp_((variance * n / (n - 1)).to(norm.running_var), momentum)
    result = centred * (variance + norm.eps).rsqrt().view(along)
    if norm.affine:
        result = result * norm.weight.view(along) + norm.bias.view(along)
    return result.to(x.dtype)
