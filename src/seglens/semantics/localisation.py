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
PIXELS_AT_ONCE = 2**18
"""Full-resolution maps of so many pixels together (1 MiB) stay in the cache; larger batches are slower."""
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
    used, counts = rows.unique(return_counts=True)
    of_each = iter(order.split(counts.tolist()))
    for wanted in used.split(SLICES_AT_ONCE):
        brains = slices.brains(wanted)
        depth = brain_depth(brains, spacing_of(slices, wanted.tolist()))
        edges = edge_band(depth, brains)
        for brain, edge in zip(brains, edges, strict=True):
            mine = next(of_each)
            for name, values in localise_in_slice(maps[mine], brain, edge).items():
                out[name][mine] = values
    return out


def localise_in_slice(
    maps: Float[Tensor, "e h w"], brain: Bool[Tensor, "H W"], edge: Bool[Tensor, "H W"]
) -> dict[str, Float[Tensor, " e"]]:
    """The same for maps over one slice; where it has no brain the whole image stands for it."""
    if not brain.any():
        brain = torch.ones_like(brain)
    size = (brain.shape[0], brain.shape[1])
    row_place, column_place = _extent(brain, 1), _extent(brain, 0)
    over_rows = torch.stack([torch.ones(size[0]), row_place])
    over_columns = torch.stack([torch.ones(size[1]), column_place, (column_place - 0.5).abs()], dim=1)
    sectors = _sectors(brain, edge)
    n_brain = brain.sum()
    parts = []
    for part in maps.float().split(max(1, PIXELS_AT_ONCE // brain.numel())):
        full = upsample(part, size)
        total = full.sum((1, 2))
        # -sum p log p with p = h / total, in two passes over the pixels; EPSILON only guards log 0
        logs = full.clamp_min(EPSILON * EPSILON).log_()
        entropy = total.log() - logs.mul_(full).sum((1, 2)) / total
        high = full.ge_(HIGH_SHARE * full.amax((1, 2), keepdim=True))  # in place: 1.0 and 0.0
        sums = over_rows @ high @ over_columns
        pixels, columns, distances = sums[:, 0].unbind(1)
        parts.append(
            {
                "entropy": entropy,
                "spread": entropy.exp() / n_brain,
                "centroid_row": sums[:, 1, 0] / pixels,
                "centroid_column": columns / pixels,
                "lateral_spread": distances / pixels,
                "angular_coverage": _coverage(high, sectors),
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in METRICS}


def angular_coverage(
    high: Bool[Tensor, "e H W"], brain: Bool[Tensor, "H W"], edge: Bool[Tensor, "H W"], bins: int = ANGULAR_BINS
) -> Float[Tensor, " e"]:
    """Share of angular bins around the brain's centroid that hold a highly activated pixel of the edge band, 0..1."""
    return _coverage(high.float(), _sectors(brain, edge, bins))


def _sectors(
    brain: Bool[Tensor, "H W"], edge: Bool[Tensor, "H W"], bins: int = ANGULAR_BINS
) -> tuple[Int64[Tensor, " p"], Float[Tensor, "p bins"]]:
    """The edge band's pixels (as places in the flat slice) and which angular bin each lies in."""
    place = edge.nonzero()
    offset = place.float() - brain.nonzero().float().mean(0)
    angle = torch.atan2(offset[:, 0], offset[:, 1])
    number = ((angle + pi) / (2 * pi) * bins).long().clamp(0, bins - 1)
    member = torch.zeros(len(place), bins).scatter_(1, number[:, None], 1.0)
    return place[:, 0] * edge.shape[1] + place[:, 1], member


def _coverage(
    high: Float[Tensor, "e H W"], sectors: tuple[Int64[Tensor, " p"], Float[Tensor, "p bins"]]
) -> Float[Tensor, " e"]:
    hits = rearrange(high, "e H W -> e (H W)").index_select(1, sectors[0]) @ sectors[1]
    return (hits > 0).float().mean(1)


def _extent(brain: Bool[Tensor, "H W"], other_axis: int) -> Float[Tensor, " pixels"]:
    """Position of each row or column over the brain's bounding box: 0 its first, 1 its last."""
    inside = brain.any(other_axis).nonzero()[:, 0]
    first, last = int(inside[0]), int(inside[-1])
    return (torch.arange(brain.shape[1 - other_axis]) - first).float() / max(last - first, 1)
