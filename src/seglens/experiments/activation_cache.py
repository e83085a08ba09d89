"""Activations of segmenters of a study, and of controls, on the same slices, each computed once for all fits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.hooks import activations
from seglens.activations.sensitivity import class_gradients
from seglens.activations.store import ActivationStore
from seglens.artifacts import hash_of
from seglens.cohorts.patients import COHORT
from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.dictionaries.controls import PIXELS, pixel_grid
from seglens.diffing.functional import common_grid
from seglens.diffing.pooling import pooled_grids
from seglens.segmenters.inference import each_batch
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Extent, Images, TokenGrid, grid_of
from seglens.studies.stages import Study
from seglens.studies.untrained import untrained_segmenter

BATCH = 16


@dataclass(frozen=True)
class ModelSide:
    """A model, or what stands in its place.

    Attributes:
        name: in tables.
        segmenter: that is run, or whose slices are looked at.
        hookpoint: where; `PIXELS` reads the images themselves.
        grid: of the pixels' tokens; None reads the network's own.
    """

    name: str
    segmenter: Segmenter
    hookpoint: str
    grid: Extent | None = None

    @property
    def hash(self) -> str:
        """Hash of the network, or of what the pixels are described by."""
        return self.segmenter.hash if self.grid is None else hash_of({PIXELS: list(self.grid)})

    def tokens(self, images: Images) -> TokenGrid:
        """From images on the segmenter's device to tokens."""
        if self.grid is not None:
            return pixel_grid(images, self.grid)
        return activations(self.segmenter, self.hookpoint, images)


class ActivationCache:
    """Activations of a study's segmenters and of controls, averaged to a token grid and kept in memory."""

    def __init__(self, study: Study):
        self._study = study
        self._cache: dict[tuple[str, str, Extent], Tensor] = {}
        self._grids: dict[str, Extent] = {}

    def side(self, name: str) -> ModelSide:
        """A segmenter of the study at its first hookpoint."""
        return ModelSide(name, self._study.segmenter(name), self._study.hookpoint(name))

    def untrained(self, name: str, number: int) -> ModelSide:
        """The network of a segmenter with random weights, at the same hookpoint."""
        return ModelSide(
            f"untrained {name} {number}", untrained_segmenter(self._study, name, number), self._study.hookpoint(name)
        )

    def pixels(self, name: str) -> ModelSide:
        """Statistics of the pixels on a segmenter's token grid."""
        return ModelSide(f"{PIXELS} of {name}", self._study.segmenter(name), PIXELS, self.grid(name))

    def cohorts(self, names: Sequence[str]) -> list[str]:
        """The cohorts that some segmenters were trained on, each once."""
        return list(dict.fromkeys(self._study.settings.segmenters[name].cohort for name in names))

    def grid(self, name: str) -> Extent:
        """Slices, rows and columns of a segmenter's tokens."""
        if name not in self._grids:
            first = self._study.own_slices(name, "train").select([0])
            (grids,) = self._batches(self.side(name), first)
            self._grids[name] = grid_of(grids)
        return self._grids[name]

    def common_grid(self, names: Sequence[str]) -> Extent:
        """The finest that the tokens of all these segmenters can be averaged to."""
        return reduce(common_grid, map(self.grid, names))

    def stores(
        self, sides: Sequence[ModelSide], cohorts: Sequence[str], split: str, *, grid: Extent, most_tokens: int
    ) -> dict[str, ActivationStore]:
        """Activations of slices of a split of some cohorts, one cohort after the other, by the sides' names.

        Args:
            sides: models, or what stands in their place.
            cohorts: whose slices.
            split: of the cohorts.
            grid: not finer than the sides' own.
            most_tokens: of each cohort, at most; its slices are then evenly spaced.
        """
        sets = self._sets(cohorts, split, grid, most_tokens)
        index = pl.concat(
            [
                slices.index.select("case", "patient").with_columns(pl.lit(name).alias(COHORT))
                for name, slices in sets.items()
            ]
        )
        return {
            side.name: ActivationStore.from_grids(
                torch.cat([self._pooled(side, slices, grid) for slices in sets.values()]),
                hookpoint=side.hookpoint,
                segmenter_hash=side.hash,
                slices_hash=hash_of([slices.hash for slices in sets.values()]),
                index=index,
            )
            for side in sides
        }

    def gradients(
        self,
        side: ModelSide,
        values: Sequence[int | None],
        cohorts: Sequence[str],
        split: str,
        *,
        grid: Extent,
        most_tokens: int,
    ) -> list[TokenGrid]:
        """Gradients of a model's classes (`class_gradients`) on the slices that `stores` gives for these arguments.

        Args:
            side: a model.
            values: its labels; None is the whole foreground.
            cohorts: as in `stores`.
            split: as there.
            grid: as there.
            most_tokens: as there.

        Returns:
            One grid of all slices a label, up to a factor that is the same everywhere.
        """

        def pooled(images: Images) -> Float[Tensor, "classes B d h w d_in"]:
            _, found = class_gradients(side.segmenter, side.hookpoint, images, values)
            return torch.stack([pooled_grids(gradient, grid) for gradient in found])

        sets = self._sets(cohorts, split, grid, most_tokens)
        parts = [part for slices in sets.values() for part in self._each(side, slices, pooled)]
        return list(torch.cat(parts, dim=1))

    def _sets(self, cohorts: Sequence[str], split: str, grid: Extent, most_tokens: int) -> dict[str, SliceSet]:
        most = max(1, most_tokens // prod(grid))
        whole = {cohort: self._study.slices(cohort).split(split) for cohort in cohorts}
        return {cohort: slices.select(evenly_spaced(len(slices), most)) for cohort, slices in whole.items()}

    def _pooled(self, side: ModelSide, slices: SliceSet, grid: Extent) -> Tensor:
        key = (side.name, slices.hash, grid)
        if key not in self._cache:
            self._cache[key] = torch.cat([pooled_grids(part, grid) for part in self._batches(side, slices)])
        return self._cache[key]

    def _batches(self, side: ModelSide, slices: SliceSet) -> Iterator[TokenGrid]:
        return self._each(side, slices, side.tokens)

    @staticmethod
    def _each(side: ModelSide, slices: SliceSet, work: Callable[[Images], Tensor]) -> Iterator[Tensor]:
        side.segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing)
        batches = each_batch(
            lambda _rows, images: work(images), side.segmenter, slices, batch_size=BATCH, what="activations"
        )
        return (grid.cpu().float() for _, grid in batches)
