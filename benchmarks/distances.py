"""HD95 of mask pairs: seglens, MONAI and DeepMind's surface-distance.

MONAI's definition is ours. surface-distance puts its surface between the pixels and weights its elements by their
length, so its values differ a little; it answers the same question.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.framework import Benchmark, Repeat, Subject, Unavailable

if TYPE_CHECKING:
    import numpy as np

SPACING_MM = (0.9375, 1.2)


def seglens(case: Mapping[str, Any]) -> Repeat:
    """One pair after the other."""
    import torch

    from seglens.segmenters.surface import hd95

    pairs = [(torch.from_numpy(one), torch.from_numpy(other)) for one, other in mask_pairs(case)]
    return lambda: [hd95(one, other, SPACING_MM) for one, other in pairs]


def monai(case: Mapping[str, Any]) -> Repeat:
    """All pairs as one batch."""
    import torch
    from monai.metrics import compute_hausdorff_distance

    predicted, truth = (torch.from_numpy(masks).unsqueeze(1) for masks in batches(case))
    return lambda: compute_hausdorff_distance(
        predicted, truth, include_background=True, percentile=95, spacing=list(SPACING_MM)
    )


def surface_distance(case: Mapping[str, Any]) -> Repeat:
    """One pair after the other."""
    try:
        from surface_distance import compute_robust_hausdorff, compute_surface_distances
    except ImportError as fault:
        raise Unavailable(f"surface-distance does not import: {fault}") from None

    pairs = mask_pairs(case)
    return lambda: [
        compute_robust_hausdorff(compute_surface_distances(other, one, SPACING_MM), 95) for one, other in pairs
    ]


def mask_pairs(case: Mapping[str, Any]) -> "list[tuple[np.ndarray, np.ndarray]]":
    """Lobed lesions somewhere in the slice, and the same ones a little larger and moved."""
    import numpy as np

    generator, size, radius = np.random.default_rng(0), case["size"], case["radius"]
    rows, columns = np.mgrid[:size, :size]

    def lesion(centre: "np.ndarray", radius: float, phase: float) -> "np.ndarray":
        angles = np.arctan2(rows - centre[0], columns - centre[1])
        lobes = 1 + 0.2 * np.sin(3 * angles + phase) + 0.1 * np.sin(7 * angles)
        return np.hypot(rows - centre[0], columns - centre[1]) < radius * lobes

    pairs = []
    for phase in range(case["pairs"]):
        centre = generator.uniform(1.4 * radius, size - 1.4 * radius, 2)
        moved = centre + generator.uniform(-radius / 3, radius / 3, 2)
        pairs.append((lesion(centre, radius, phase), lesion(moved, 1.1 * radius, phase + 0.5)))
    return pairs


def batches(case: Mapping[str, Any]) -> "tuple[np.ndarray, np.ndarray]":
    """All first masks, and all second ones, [B H W]."""
    import numpy as np

    predicted, truth = zip(*mask_pairs(case), strict=True)
    return np.stack(predicted), np.stack(truth)


def _case(size: int, radius: int, pairs: int = 64) -> dict[str, Any]:
    return {"size": size, "radius": radius, "pairs": pairs}


BENCHMARK = Benchmark(
    name="distances",
    title="HD95 of 64 pairs of masks",
    cases={
        "128 px, radius 5": _case(128, 5),
        "128 px, radius 15": _case(128, 15),
        "256 px, radius 30": _case(256, 30),
        "256 px, radius 70": _case(256, 70),
        **{f"128 px, {n} pairs": _case(128, 15, n) for n in (32, 64, 128, 256)},
    },
    subjects=[
        Subject("seglens", "ours", seglens),
        Subject("monai", "peer", monai),
        Subject("surface-distance", "peer", surface_distance, environment="surface-distance"),
    ],
    growth={"mask pairs": [f"128 px, {n} pairs" for n in (32, 64, 128, 256)]},
)
