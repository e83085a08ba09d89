"""Activations of several segmenters of a study on the same slices, each computed once for any number of fits."""

from collections.abc import Iterator, Sequence
from functools import reduce
from math import prod

import polars as pl
import torch
from torch import Tensor

from seglens.activations.extraction import each_grid
from seglens.activations.store import ActivationStore
from seglens.artifacts import hash_of
from seglens.cohorts.patients import COHORT
from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.diffing.functional import common_grid
from seglens.diffing.pooling import pooled_grids
from seglens.shapes import Extent, TokenGrid, grid_of
from seglens.studies.stages import Study

BATCH = 16


class ActivationCache:
    """Activations of a study's segmenters, averaged to a token grid and kept in memory."""

    def __init__(self, study: Study):
        self._study = study
        self._cache: dict[tuple[str, str, Extent], Tensor] = {}
        self._grids: dict[str, Extent] = {}

    def cohorts(self, names: Sequence[str]) -> list[str]:
        """The cohorts that some segmenters were trained on, each once."""
        return list(dict.fromkeys(self._study.settings.segmenters[name].cohort for name in names))

    def grid(self, name: str) -> Extent:
        """Slices, rows and columns of a segmenter's tokens."""
        if name not in self._grids:
            first = next(self._batches(name, self._study.own_slices(name, "train").select([0])))
            self._grids[name] = grid_of(first)
        return self._grids[name]

    def common_grid(self, names: Sequence[str]) -> Extent:
        """The finest that the tokens of all these segmenters can be averaged to."""
        return reduce(common_grid, map(self.grid, names))

    def stores(
        self, names: Sequence[str], cohorts: Sequence[str], split: str, *, grid: Extent, most_tokens: int
    ) -> dict[str, ActivationStore]:
        """Segmenters' activations of slices of a split of some cohorts, one cohort after the other.

        Args:
            names: segmenters.
            cohorts: whose slices.
            split: of the cohorts.
            grid: not finer than the segmenters' own.
            most_tokens: of each cohort, at most; its slices are then evenly spaced.
        """
        most = max(1, most_tokens // prod(grid))
        sets = {cohort: self._slices(cohort, split, most) for cohort in cohorts}
        index = pl.concat(
            [
                slices.index.select("case", "patient").with_columns(pl.lit(name).alias(COHORT))
                for name, slices in sets.items()
            ]
        )
        return {
            name: ActivationStore.from_grids(
                torch.cat([self._pooled(name, slices, grid) for slices in sets.values()]),
                hookpoint=self._study.hookpoint(name),
                segmenter_hash=self._study.segmenter(name).hash,
                slices_hash=hash_of([slices.hash for slices in sets.values()]),
                index=index,
            )
            for name in names
        }

    def _slices(self, cohort: str, split: str, most: int) -> SliceSet:
        slices = self._study.slices(cohort).split(split)
        return slices.select(evenly_spaced(len(slices), most))

    def _pooled(self, name: str, slices: SliceSet, grid: Extent) -> Tensor:
        key = (name, slices.hash, grid)
        if key not in self._cache:
            self._cache[key] = torch.cat([pooled_grids(part, grid) for part in self._batches(name, slices)])
        return self._cache[key]

    def _batches(self, name: str, slices: SliceSet) -> Iterator[TokenGrid]:
        segmenter, hookpoint = self._study.segmenter(name), self._study.hookpoint(name)
        return (grid.cpu().float() for _, grid in each_grid(segmenter, slices, hookpoint, batch_size=BATCH))
