"""Where in the brain a latent fires (paper, appendix C): the metrics that need its upsampled map.

Spatial entropy, centroid and edge angular coverage are not linear in the map, so they are measured on the top-K
exemplars only, slice by slice.
"""

from math import pi

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from seglens.cohorts.slices import SliceSet
from seglens.semantics.geometry import brain_depth, edge_band, spacing_of, upsample

EPSILON = 1e-12
HIGH_SHARE = 0.5
"""A pixel is highly activated from this share of its map's peak on."""
ANGULAR_BINS = 36
"""Of 10 degrees each, around the brain's centroid."""
MAPS_AT_ONCE = 256
SLICES_AT_ONCE = 32

METRICS = ("entropy", "spread", "centroid_row", "centroid_column", "lateral_spread", "angular_coverage")


def localise(
    maps: Float[Tensor, "e h w"], rows: Int64[Tensor, " e"], slices: SliceSet
) -> dict[str, Float[Tensor, " e"]]:
    """Entropy, centroid and angular coverage of each map.

    Args:
        maps: codes on the token grid, >= 0, none of them all zero.
        rows: the slice of each map.
        slices: give the brains.

    Returns:
        float32 each: entropy (nats, ``-sum p log(p + eps)`` of the map as a distribution over pixels); spread
        (``exp(entropy)`` over the number of brain pixels: the share of the brain that the map covers); centroid_row and
        centroid_column (mean position of the highly activated pixels over the brain's extent: 0 anterior or patient's
        right, 1 posterior or left; outside 0..1 where they lie outside the brain); lateral_spread (mean distance of
        those pixels from the midline, same unit); angular_coverage (share of the angular bins around the brain's
        centroid in which a highly activated pixel lies in the brain's edge band).
    """
    out = {name: torch.zeros(len(maps)) for name in METRICS}
    order = rows.argsort(stable=True)
    for wanted in rows.unique().split(SLICES_AT_ONCE):
        brains = slices.brains(wanted)
        depth = brain_depth(brains, spacing_of(slices, wanted.tolist()))
        edges = edge_band(depth, brains)
        for row, brain, edge in zip(wanted.tolist(), brains, edges, strict=True):
            mine = order[torch.searchsorted(rows[order], row) : torch.searchsorted(rows[order], row, right=True)]
            for part in mine.split(MAPS_AT_ONCE):
                for name, values in localise_in_slice(maps[part], brain, edge).items():
                    out[name][part] = values
    return out


def localise_in_slice(
    maps: Float[Tensor, "e h w"], brain: Bool[Tensor, "H W"], edge: Bool[Tensor, "H W"]
) -> dict[str, Float[Tensor, " e"]]:
    """The same for maps over one slice; where it has no brain the whole image stands for it."""
    if not brain.any():
        brain = torch.ones_like(brain)
    size = (brain.shape[0], brain.shape[1])
    full = upsample(maps.float(), size)
    share = full / full.sum((1, 2), keepdim=True)
    entropy = -(share * (share + EPSILON).log()).sum((1, 2))
    high = full >= HIGH_SHARE * full.amax((1, 2), keepdim=True)
    by_row, by_column = high.sum(2).float(), high.sum(1).float()
    pixels = by_row.sum(1)
    row_place, column_place = _extent(brain, 1), _extent(brain, 0)
    return {
        "entropy": entropy,
        "spread": entropy.exp() / brain.sum(),
        "centroid_row": by_row @ row_place / pixels,
        "centroid_column": by_column @ column_place / pixels,
        "lateral_spread": by_column @ (column_place - 0.5).abs() / pixels,
        "angular_coverage": angular_coverage(high, brain, edge),
    }


def angular_coverage(
    high: Bool[Tensor, "e H W"], brain: Bool[Tensor, "H W"], edge: Bool[Tensor, "H W"], bins: int = ANGULAR_BINS
) -> Float[Tensor, " e"]:
    """Share of angular bins around the brain's centroid that hold a highly activated pixel of the edge band, 0..1."""
    centre = brain.nonzero().float().mean(0)
    place = edge.nonzero()
    offset = place.float() - centre
    angle = torch.atan2(offset[:, 0], offset[:, 1])
    number = ((angle + pi) / (2 * pi) * bins).long().clamp(0, bins - 1)
    member = torch.zeros(len(place), bins).scatter_(1, number[:, None], 1.0)
    hits = rearrange(high, "e H W -> e (H W)")[:, edge.flatten()].float() @ member
    return (hits > 0).float().mean(1)


def _extent(brain: Bool[Tensor, "H W"], other_axis: int) -> Float[Tensor, " pixels"]:
    """Position of each row or column over the brain's bounding box: 0 its first, 1 its last."""
    inside = brain.any(other_axis).nonzero()[:, 0]
    first, last = int(inside[0]), int(inside[-1])
    return (torch.arange(brain.shape[1 - other_axis]) - first).float() / max(last - first, 1)
