"""Activations of made-up models: sparse factors, some in every model, some in one only."""

from collections.abc import Mapping
from math import prod

import torch

from seglens.activations.store import ActivationStore

GRID = (1, 8, 8)


def store(grids, *, name="model", slices="slices", index=None):
    return ActivationStore.from_grids(grids, hookpoint="stage2", segmenter_hash=name, slices_hash=slices, index=index)


def planted_models(
    widths: Mapping[str, int], *, shared=24, own=8, n_slices=80, seed=0, transform: Mapping[str, torch.Tensor] = {}
):
    """Models on the same slices.

    Args:
        widths: model to its width.
        shared: factors that every model holds, each in a direction of its own.
        own: factors of each model alone.
        n_slices: of 64 tokens.
        seed: of the factors' strengths; the directions are always the same.
        transform: model to a matrix applied to its activations.

    Returns:
        The stores by model, the strengths of all factors [n factors], and in which models each is [factors models].
    """
    strengths_of = torch.Generator().manual_seed(seed)
    n = n_slices * prod(GRID)

    def strengths(count):
        on = torch.rand(n, count, generator=strengths_of) < 0.05
        return on * (0.5 + torch.rand(n, count, generator=strengths_of))

    common, stores, factors = strengths(shared), {}, []
    inside = [torch.ones(shared, len(widths), dtype=torch.bool)]
    for number, (name, width) in enumerate(widths.items()):
        directions = torch.randn(shared + own, width, generator=torch.Generator().manual_seed(100 + number))
        directions /= directions.norm(dim=1, keepdim=True)
        alone = strengths(own)
        tokens = torch.cat([common, alone], 1) @ directions
        tokens += 0.02 * torch.randn(tokens.shape, generator=strengths_of) + 3
        tokens = tokens @ transform.get(name, torch.eye(width))
        stores[name] = store(tokens.view(n_slices, *GRID, width), name=name, slices=f"slices {seed}")
        factors.append(alone)
        inside.append(torch.arange(len(widths)).eq(number).expand(own, -1))
    return stores, torch.cat([common, *factors], 1), torch.cat(inside)


def latent_of(codes, factors):
    """For each factor the latent whose code is most correlated with its strength, and the correlation."""
    z = codes.to_dense()
    z = (z - z.mean(0)) / z.std(0).clamp_min(1e-9)
    f = (factors - factors.mean(0)) / factors.std(0)
    best = (f.T @ z / len(z)).max(1)
    return best.indices, best.values
