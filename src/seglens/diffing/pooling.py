"""Activations of several models at the same places: token grids of different sizes averaged to a common one."""

from collections.abc import Iterator, Mapping
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.store import ActivationStore
from seglens.diffing.functional import area_weights, common_grid
from seglens.shapes import Extent, TokenGrid, grid_of

SLICES_AT_ONCE = 32


def on_common_grid(stores: Mapping[str, ActivationStore]) -> dict[str, ActivationStore]:
    """The stores on the finest token grid that all can be averaged to.

    Raises:
        ValueError: fewer than two stores, or of different slices.
    """
    seen = {name: (store.slices_hash, store.n_slices) for name, store in stores.items()}
    if len(seen) < 2 or len(set(seen.values())) > 1:
        found = ", ".join(f"{name!r}: {n} slices of {of[:12] or 'no name'}" for name, (of, n) in seen.items())
        raise ValueError(
            f"a crosscoder needs two or more models on the same slices; got {found or 'none'}; extract all "
            "models' activations from one set of slices"
        )
    grid = reduce(common_grid, (store.grid for store in stores.values()))
    return {name: store if store.grid == grid else _pooled(store, grid) for name, store in stores.items()}


def pooled_grids(grids: TokenGrid, to_grid: Extent) -> Float[Tensor, "B z y x d_in"]:
    """Activations on a coarser token grid: the mean over the area of each coarse token."""
    depth, rows, columns = (
        torch.from_numpy(area_weights(n, to).toarray()).to(grids) for n, to in zip(grid_of(grids), to_grid, strict=True)
    )
    return torch.einsum("b d h w c, z d, y h, x w -> b z y x c", grids, depth, rows, columns)


def by_slices(store: ActivationStore) -> Iterator[TokenGrid]:
    """Whole slices in order, some at a time."""
    for rows in torch.arange(store.n_slices).split(SLICES_AT_ONCE):
        yield store.slice_tokens(rows)


def _pooled(store: ActivationStore, grid: Extent) -> ActivationStore:
    return ActivationStore.from_grids(
        torch.cat([pooled_grids(grids, grid) for grids in by_slices(store)]),
        hookpoint=store.hookpoint,
        segmenter_hash=store.segmenter_hash,
        slices_hash=store.slices_hash,
        index=store.index,
    )
