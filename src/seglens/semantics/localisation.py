"""Where in the brain a latent fires (paper, appendix C): the metrics that need its upsampled map.

Spatial entropy, centroid and edge angular coverage are not linear in the map, so they are measured on the top-K
exemplars only, sample by sample.
"""

from collections.abc import Sequence
from math import pi

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from seglens.cohorts.slice_set import Ends, SliceSet
from seglens.semantics.geometry import brain_depth, brain_places, edge_band, upsample
from seglens.shapes import extent_of

EPSILON = 1e-12
HIGH_SHARE = 0.5
"""A pixel is highly activated from this share of its map's peak on."""
ANGULAR_BINS = 36
"""Of 10 degrees each, around the brain's centroid."""
PIXELS_AT_ONCE = 2**18
"""Full-resolution maps of so many pixels together (1 MiB) stay in the cache; larger batches are slower."""
SLICES_AT_ONCE = 32

METRICS = ("entropy", "spread", "centroid_row", "centroid_column", "lateral_spread", "angular_coverage")
OF_VOLUMES = ("centroid_slice",)


def localise(
    maps: Float[Tensor, "e d h w"], rows: Int64[Tensor, " e"], slices: SliceSet
) -> dict[str, Float[Tensor, " e"]]:
    """Entropy, centroid and angular coverage of each map.

    Args:
        maps: codes on the token grid, >= 0, none of them all zero.
        rows: the sample of each map.
        slices: give the brains.

    Returns:
        float32 each: entropy (nats, ``-sum p log(p + eps)`` of the map as a distribution over pixels); spread
        (``exp(entropy)`` over the number of brain pixels: the share of the brain that the map covers); centroid_row and
        centroid_column (mean position of the highly activated pixels over the brain's extent: 0 anterior or patient's
        right, 1 posterior or left; outside 0..1 where they lie outside the brain); lateral_spread (mean distance of
        those pixels from the midline, same unit); angular_coverage (share of the angular bins around the brain's
        centroid, seen along the axis of slices, in which a highly activated pixel lies in the brain's edge band). Of
        volumes also centroid_slice (0 inferior, 1 superior). Of windows places are over the extent of the brain in the
        whole volume, NaN along an axis that is not the patient's.
    """
    out = {name: torch.zeros(len(maps)) for name in (*METRICS, *(OF_VOLUMES if slices.size[0] > 1 else ()))}
    order = rows.argsort(stable=True)
    used, counts = rows.unique(return_counts=True)
    of_each = iter(order.split(counts.tolist()))
    for wanted in used.split(SLICES_AT_ONCE):
        brains = slices.brains(wanted)
        depth = brain_depth(brains, slices.spacing_mm(wanted.tolist()))
        edges = edge_band(depth, brains)
        for row, brain, edge in zip(wanted.tolist(), brains, edges, strict=True):
            mine = next(of_each)
            for name, values in localise_in_slice(maps[mine], brain, edge, slices.ends(row)).items():
                out[name][mine] = values
    return out


def localise_in_slice(
    maps: Float[Tensor, "e d h w"],
    brain: Bool[Tensor, "D H W"],
    edge: Bool[Tensor, "D H W"],
    ends: Sequence[Ends] | None = None,
) -> dict[str, Float[Tensor, " e"]]:
    """The same for maps over one sample; where it has no brain the whole image stands for it.

    Args:
        maps: of the sample.
        brain: of the sample.
        edge: its band.
        ends: of a window, where the brain begins and ends along each axis; None: where it does in the sample.
    """
    if not brain.any():
        brain = torch.ones_like(brain)
    size = extent_of(brain)
    slice_place, row_place, column_place = (
        _extent(brain, axis, None if ends is None else ends[axis]) for axis in range(3)
    )
    over_rows = torch.stack([torch.ones(size[1]), row_place])
    over_columns = torch.stack([torch.ones(size[2]), column_place, (column_place - 0.5).abs()], dim=1)
    sectors = _sectors(brain, edge)
    n_brain = brain.sum()
    parts = []
    for part in maps.float().split(max(1, PIXELS_AT_ONCE // brain.numel())):
        full = upsample(part, size)
        total = full.sum((1, 2, 3))
        # -sum p log p with p = h / total, in two passes over the pixels; EPSILON only guards log 0
        logs = full.clamp_min(EPSILON * EPSILON).log_()
        entropy = total.log() - logs.mul_(full).sum((1, 2, 3)) / total
        high = full.ge_(HIGH_SHARE * full.amax((1, 2, 3), keepdim=True))  # in place: 1.0 and 0.0
        sums = over_rows @ high.sum(1) @ over_columns
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
            | ({"centroid_slice": high.sum((2, 3)) @ slice_place / pixels} if len(brain) > 1 else {})
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def angular_coverage(
    high: Bool[Tensor, "e D H W"], brain: Bool[Tensor, "D H W"], edge: Bool[Tensor, "D H W"], bins: int = ANGULAR_BINS
) -> Float[Tensor, " e"]:
    """Share of angular bins around the brain's centroid that hold a highly activated pixel of the edge band, 0..1."""
    return _coverage(high.float(), _sectors(brain, edge, bins))


def _sectors(
    brain: Bool[Tensor, "D H W"], edge: Bool[Tensor, "D H W"], bins: int = ANGULAR_BINS
) -> tuple[Int64[Tensor, " p"], Float[Tensor, "p bins"]]:
    """The edge band's pixels (as places in the flat sample) and which angular bin each lies in."""
    place = edge.nonzero()
    offset = place[:, 1:].float() - brain.nonzero()[:, 1:].float().mean(0)
    angle = torch.atan2(offset[:, 0], offset[:, 1])
    number = ((angle + pi) / (2 * pi) * bins).long().clamp(0, bins - 1)
    member = torch.zeros(len(place), bins).scatter_(1, number[:, None], 1.0)
    _, height, width = edge.shape
    return (place[:, 0] * height + place[:, 1]) * width + place[:, 2], member


def _coverage(
    high: Float[Tensor, "e D H W"], sectors: tuple[Int64[Tensor, " p"], Float[Tensor, "p bins"]]
) -> Float[Tensor, " e"]:
    hits = high.flatten(1).index_select(1, sectors[0]) @ sectors[1]
    return (hits > 0).float().mean(1)


def _extent(brain: Bool[Tensor, "D H W"], axis: int, ends: Ends | None) -> Float[Tensor, " pixels"]:
    """Position of each slice, row or column over the brain's bounding box, or between ends: 0 its first, 1 its last."""
    if ends is None:
        inside = brain_places(brain, axis)
        first, last = float(inside[0]), float(inside[-1])
    else:
        first, last = ends
    return (torch.arange(brain.shape[axis]) - first) / ((last - first) or 1)
