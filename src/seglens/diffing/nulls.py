"""Activations that have nothing in common with the original, or only what a named null leaves: what a method that
compares two models must not call shared.

Each takes a store and gives one of the same slices, grid and width, so that it can stand in the original's place. From
the easiest null to the hardest: white noise keeps only the energy; permuted tokens keep the distribution of a token;
another slice at the same position keeps the anatomy that all patients have in common. A random rotation, which keeps
all but the directions, is ``store.transformed(rotation)``.
"""

from collections.abc import Callable, Mapping

import torch

from seglens.activations.store import ActivationStore
from seglens.cohorts.patients import other_slice_rows
from seglens.shapes import TokenGrid


def permuted_tokens(store: ActivationStore, *, seed: int = 0) -> ActivationStore:
    """Every token in a random other place.

    Args:
        store: small enough for the memory.
        seed: of the permutation.
    """
    tokens = _grids(store).flatten(0, 3)
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    return _with_grids(store, tokens[order].view(store.n_slices, *store.grid, store.d_in))


def other_slices(store: ActivationStore, *, seed: int = 0) -> ActivationStore:
    """Every slice replaced by one of another patient of its cohort: the same position, another head.

    Args:
        store: small enough for the memory.
        seed: which.

    Raises:
        ValueError: a cohort whose patients cannot all be given slices of another.
    """
    return _with_grids(store, store.slice_tokens(other_slice_rows(store.index, seed=seed)))


def white_noise(store: ActivationStore, *, seed: int = 0) -> ActivationStore:
    """Independent normal numbers around the store's centre, of its energy E||h - centre||^2.

    Args:
        store: gives shape, centre and energy.
        seed: of the noise.
    """
    noise = torch.randn(store.n_slices, *store.grid, store.d_in, generator=torch.Generator().manual_seed(seed))
    return _with_grids(store, noise / store.scale + store.centre)


NULLS: Mapping[str, Callable[..., ActivationStore]] = {
    "permuted tokens": permuted_tokens,
    "another slice at the same position": other_slices,
    "white noise": white_noise,
}
"""By the name that results use."""


def _grids(store: ActivationStore) -> TokenGrid:
    return store.slice_tokens(torch.arange(store.n_slices))


def _with_grids(store: ActivationStore, grids: TokenGrid) -> ActivationStore:
    return ActivationStore.from_grids(
        grids,
        hookpoint=store.hookpoint,
        segmenter_hash=store.segmenter_hash,
        slices_hash=store.slices_hash,
        index=store.index,
    )
