"""Gliomas: a front that runs fast along white matter, cut into necrosis, enhancing rim and edema.

The front's arrival time is a shortest path over a coarse lattice, where a step costs its length over the speed of the
tissue (the eikonal limit of the reaction-diffusion model of Swanson et al., Cell Prolif 33, 2000, and of Konukoglu et
al., IEEE TMI 29, 2010). Arrival times are turned into equivalent radii (of a ball as large as what the front has
reached), so that a compartment has the size that its prior says, whatever the tissue around it.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.phantoms.anatomy import Anatomy, Head, SmoothField, Template, sample_anatomy

STEP_MM = 3.0
SPEED_WHITE, SPEED_GREY, SPEED_FLUID, SPEED_OUTSIDE = 1.0, 0.5, 0.12, 0.02
EDEMA_SPEED_GREY, EDEMA_SPEED_FLUID = 0.18, 0.05
IRREGULARITY = 0.45
"""Standard deviation of the logarithm of the front's speed from place to place."""


@dataclass(frozen=True)
class Lesion:
    """A grown tumour on its lattice.

    Attributes:
        grid: [1 3 D H W]: equivalent radius of the core front and of the edema front (mm), and uptake pattern (a
            quantile of the core, 0 to 1).
        low: mm position of the lattice's first point.
        high: mm position of its last point.
        seed: where the tumour started, subject mm.
        core_mm: equivalent radius of the core.
        necrosis_mm: equivalent radius of the necrosis.
        whole_mm: equivalent radius with edema.
        coverage: share of the viable core that enhances.
    """

    grid: Tensor
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    seed: tuple[float, float, float]
    core_mm: float
    necrosis_mm: float
    whole_mm: float
    coverage: float

    def heights_mm(self) -> tuple[float, float]:
        """Lowest and highest z that the lesion reaches with more than a sliver."""
        levels = np.linspace(self.low[2], self.high[2], self.grid.shape[2])
        area = (self.grid[0, 1] <= self.whole_mm).flatten(1).sum(1).numpy()
        covered = levels[area > 0.08 * area.max()]
        return float(covered[0]), float(covered[-1])

    def truth(self) -> dict[str, Any]:
        """Planted truth, JSON-able."""
        names = ("seed", "core_mm", "necrosis_mm", "whole_mm", "coverage")
        return {"seed_mm" if name == "seed" else name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Compartments:
    """Shares of a point's volume that a lesion takes, 0 to 1."""

    necrosis: Float[Tensor, " n"]
    solid: Float[Tensor, " n"]
    enhancing: Float[Tensor, " n"]
    edema: Float[Tensor, " n"]


def grow(
    template: Template,
    head: Head,
    place: tuple[float, float, float],
    *,
    core_mm: float,
    necrosis_share: float,
    edema_mm: float,
    coverage: float,
    irregularity: SmoothField,
    pattern: SmoothField,
) -> Lesion:
    """Grow a tumour.

    Args:
        template: the brain.
        head: the subject's head.
        place: where it starts, template mm.
        core_mm: equivalent radius of the core.
        necrosis_share: radius of the necrosis over the core's.
        edema_mm: how much larger the equivalent radius is with edema.
        coverage: share of the viable core that enhances.
        irregularity: one channel; makes the front faster here and slower there.
        pattern: one channel; which parts of the core enhance first.

    Returns:
        The tumour on its lattice.
    """
    seed = head.from_template(place)
    whole_mm = core_mm + edema_mm
    reach = 1.9 * whole_mm
    half = int(np.ceil(reach / STEP_MM))
    offsets = torch.arange(-half, half + 1, dtype=torch.float32) * STEP_MM
    z, y, x = torch.meshgrid(offsets, offsets, offsets, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3) + seed
    anatomy = sample_anatomy(template, head.to_template(points))
    n = 2 * half + 1
    rough = torch.exp(IRREGULARITY * irregularity(points)[0])

    def speed(grey: float, fluid: float) -> np.ndarray:
        tissue = SPEED_WHITE * anatomy.white + grey * anatomy.grey + fluid * anatomy.fluid
        return (
            ((tissue + SPEED_OUTSIDE * (1 - anatomy.brain)).clamp_min(SPEED_OUTSIDE) * rough)
            .double()
            .numpy()
            .reshape(n, n, n)
        )

    start = n**3 // 2
    core_radius = equivalent_radius(arrival_time(speed(SPEED_GREY, SPEED_FLUID), [start]))
    core = np.flatnonzero(core_radius.reshape(-1) <= core_mm)
    outer = arrival_time(speed(EDEMA_SPEED_GREY, EDEMA_SPEED_FLUID), core)
    # inside the core the order of the first front is kept, so that the radius runs on smoothly across its border
    outer.reshape(-1)[core] = core_radius.reshape(-1)[core] / core_mm - 2
    edema_radius = equivalent_radius(outer)
    viable = np.flatnonzero((core_radius <= core_mm * 1.15).reshape(-1))
    uptake = pattern(points)[0].double().numpy()
    quantile = np.searchsorted(np.sort(uptake[viable]), uptake) / len(viable)
    grid = np.stack([core_radius, edema_radius, quantile.reshape(n, n, n)]).astype(np.float32)
    low, high = seed + offsets[0], seed + offsets[-1]
    return Lesion(
        grid=torch.from_numpy(grid)[None],
        low=(float(low[0]), float(low[1]), float(low[2])),
        high=(float(high[0]), float(high[1]), float(high[2])),
        seed=(float(seed[0]), float(seed[1]), float(seed[2])),
        core_mm=core_mm,
        necrosis_mm=core_mm * necrosis_share,
        whole_mm=whole_mm,
        coverage=coverage,
    )


def arrival_time(speed: np.ndarray, sources: np.ndarray | list[int]) -> np.ndarray:
    """When a front reaches each point of a lattice: shortest paths over the 26 neighbours.

    Args:
        speed: [D H W] > 0, in lattice steps per unit of time.
        sources: flat positions where the front starts at time 0.

    Returns:
        [D H W] arrival times.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    depth, height, width = speed.shape
    steps = [step for step in product((-1, 0, 1), repeat=3) if any(step)]
    slowness = 1 / speed
    # what lies outside is never entered: every point can have 26 neighbours, and the graph's rows are all alike
    around = np.pad(slowness, 1, constant_values=np.inf)
    costs = np.empty((len(steps), *speed.shape))
    for cost, (z, y, x) in zip(costs, steps, strict=True):
        there = around[1 + z : 1 + z + depth, 1 + y : 1 + y + height, 1 + x : 1 + x + width]
        np.multiply(slowness + there, np.sqrt(z * z + y * y + x * x) / 2, out=cost)
    offsets = np.array([(z * height + y) * width + x for z, y, x in steps], dtype=np.int32)
    neighbours = np.clip(np.arange(speed.size, dtype=np.int32)[:, None] + offsets, 0, speed.size - 1)
    starts = np.arange(0, neighbours.size + 1, len(steps), dtype=np.int32)
    graph = csr_matrix(
        (costs.reshape(len(steps), -1).T.ravel(), neighbours.ravel(), starts), shape=(speed.size, speed.size)
    )
    times = dijkstra(graph, indices=np.asarray(sources), min_only=True)
    return np.asarray(times).reshape(speed.shape)


def equivalent_radius(times: np.ndarray) -> np.ndarray:
    """Radius (mm) of a ball as large as the volume that the front has reached when it reaches each point."""
    order = np.argsort(times, axis=None)
    sorted_times = times.reshape(-1)[order]
    if (sorted_times[1:] == sorted_times[:-1]).any():  # ties go by position; they are rare, and a stable sort is slow
        order = np.argsort(times, axis=None, kind="stable")
    rank = np.empty(times.size)
    rank[order] = np.arange(times.size) + 0.5
    return np.cbrt(3 / (4 * np.pi) * STEP_MM**3 * rank).reshape(times.shape)


def compartments(lesion: Lesion, points: Float[Tensor, "n 3"], anatomy: Anatomy) -> Compartments:
    """Compartments of a lesion at points of the brain.

    Args:
        lesion: the tumour.
        points: subject mm.
        anatomy: what was there before it came.

    Returns:
        Shares of necrosis, solid tumour that does not enhance, enhancing tumour and edema.
    """
    first, last = torch.tensor(lesion.low), torch.tensor(lesion.high)
    unit = (points - first) / (last - first) * 2 - 1
    inside = (unit.abs() < 1).all(dim=1)
    radii = torch.nn.functional.grid_sample(
        lesion.grid, unit[inside][None, None, None], mode="bilinear", padding_mode="border", align_corners=True
    )[0, :, 0, 0]

    def below(value: Tensor, limit: float, width: float) -> Tensor:
        return torch.sigmoid((limit - value) / width)

    core = below(radii[0], lesion.core_mm, 0.5)
    dead = below(radii[0], lesion.necrosis_mm, 0.5) * core
    uptake = below(radii[2], lesion.coverage, 0.03) if lesion.coverage < 1 else torch.ones_like(core)
    viable = core - dead
    # edema is water between fibres: none in fluid, little in compact cortex
    room = anatomy.white[inside] + 0.7 * anatomy.grey[inside]
    spread = below(radii[1], lesion.whole_mm, 0.8) * (1 - core) * room
    brain = anatomy.brain[inside]

    def full(values: Tensor) -> Tensor:
        return torch.zeros(len(points)).masked_scatter(inside, values * brain)

    return Compartments(full(dead), full(viable * (1 - uptake)), full(viable * uptake), full(spread))
