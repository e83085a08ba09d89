"""The plane of a sample that a picture shows: a slice is its own, of a volume it is the one with most to see."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from seglens.cohorts.slice_set import SliceSet


class Planes(NamedTuple):
    """One plane of each of some samples."""

    images: Float[np.ndarray, "n C H W"]
    masks: UInt8[np.ndarray, "n H W"]
    brains: Bool[np.ndarray, "n H W"]


def planes_of(
    slices: SliceSet, rows: Sequence[int], numbers: Int64[Tensor, " n"] | None = None
) -> tuple[Planes, Int64[Tensor, " n"]]:
    """The planes of some samples, and their numbers in them.

    Args:
        slices: of the samples.
        rows: which.
        numbers: of the plane of each; None takes the one with the most labelled voxels, or of the most foreground.

    Returns:
        The planes (of a set without masks these are all background), and their numbers.
    """
    images, brains = slices.images(rows), slices.brains(rows)
    masks = slices.masks(rows) if slices.labelled else torch.zeros_like(brains, dtype=torch.uint8)
    if numbers is None:
        labelled, shown = ((part > 0).sum((2, 3)) for part in (masks, brains))
        numbers = torch.where(labelled.any(1), labelled.argmax(1), shown.argmax(1))
    parts = (plane_at(part, numbers).numpy() for part in (images.movedim(1, 2), masks, brains))
    return Planes(*parts), numbers


def plane_at(samples: Tensor, numbers: Int64[Tensor, " n"]) -> Tensor:
    """Planes ``[n ...]`` of samples ``[n D ...]`` by number."""
    return samples[torch.arange(len(samples)), numbers]


def strongest_planes(
    maps: Float[Tensor, "n d h w"], depth: int
) -> tuple[Float[np.ndarray, "n h w"], Int64[Tensor, " n"]]:
    """Of each map the plane of most activation, and the number of the sample's plane there.

    Args:
        maps: on a token grid.
        depth: planes of a sample.
    """
    strongest = maps.sum((2, 3)).argmax(1)
    middle = (strongest + 0.5) * depth / maps.shape[1] - 0.5
    return plane_at(maps.float(), strongest).numpy(), middle.round().long().clamp(0, depth - 1)


def token_planes(numbers: Int64[Tensor, " n"], depth: int, n_token_planes: int) -> Int64[Tensor, " n"]:
    """Plane of tokens in which each plane of a sample lies.

    Args:
        numbers: of planes of samples.
        depth: planes of a sample.
        n_token_planes: of its token grid.
    """
    return ((numbers + 0.5) * n_token_planes / depth).long().clamp_max(n_token_planes - 1)


def place_of(entry: Mapping[str, Any], number: int, slices: SliceSet) -> str:
    """Name of a sample's plane for people: ``case, slice 12``, or of a window its plane too.

    Args:
        entry: of the index.
        number: of the plane.
        slices: that the sample is of.
    """
    if slices.size[0] == 1:
        return f"{entry['case']}, slice {entry['position']}"
    return f"{entry['case']}, window {entry['position']}, its plane {number + 1} of {slices.size[0]}"
