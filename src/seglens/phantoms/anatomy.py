"""The template brain, its structures, and how a subject's head differs from it.

Points are in mm of MNI space: x to the right, y to the front, z up. A subject is the backward map from its own
space into the template's, so any set of points can be sampled at any resolution without building a volume.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.random import Generator
from torch import Tensor

REGIONS = ("ventricles", "caudate", "lentiform", "thalamus", "cerebellum", "brainstem")
BOX_LOW = (-105.0, -140.0, -95.0)
BOX_HIGH = (105.0, 110.0, 115.0)
CENTRE = (0.0, -17.0, 10.0)
"""Point about which a head is scaled and rotated: the middle of the template's brain."""

# Centres and semi-axes (cx, cy, cz, rx, ry, rz in mm) read off the ICBM152 2009a symmetric template, x as |x|. They
# only say where a structure lies; the tissue maps give it its outline.
ELLIPSOIDS: dict[str, tuple[tuple[float, float, float, float, float, float], ...]] = {
    "ventricles": (
        (8.0, 17.0, 10.0, 14.0, 24.0, 16.0),
        (14.0, -12.0, 20.0, 14.0, 30.0, 14.0),
        (24.0, -42.0, 10.0, 17.0, 22.0, 22.0),
        (0.0, -14.0, 2.0, 5.0, 20.0, 12.0),
        (32.0, -24.0, -12.0, 9.0, 24.0, 10.0),
        (0.0, -47.0, -33.0, 10.0, 9.0, 14.0),
    ),
    "caudate": ((13.5, 13.0, 7.0, 9.0, 14.0, 14.0), (17.0, -2.0, 19.0, 7.0, 16.0, 8.0)),
    "lentiform": ((25.0, 1.0, 1.0, 10.5, 19.0, 12.0),),
    "thalamus": ((12.0, -18.5, 8.0, 10.5, 14.5, 10.0),),
    "brainstem": (
        (0.0, -22.0, -14.0, 18.0, 15.0, 9.0),
        (0.0, -27.0, -34.0, 19.0, 16.0, 17.0),
        (0.0, -38.0, -55.0, 12.0, 11.0, 22.0),
    ),
}


@dataclass(frozen=True)
class Template:
    """ICBM152 2009a nonlinear symmetric (Fonov et al., NeuroImage 54, 2011) as sampling grids.

    Attributes:
        tissue: [1 3 D H W] shares of grey matter, white matter and fluid at 1 mm, 0 to 1; axes z, y, x.
        tissue_low: mm position of the first voxel (x, y, z).
        regions: [1 6 D H W] soft membership of `REGIONS` at 2 mm, over the box `BOX_LOW` to `BOX_HIGH`.
    """

    tissue: Tensor
    tissue_low: tuple[float, float, float]
    regions: Tensor

    @property
    def tissue_high(self) -> tuple[float, ...]:
        """Position (mm) of the last voxel (x, y, z)."""
        sides = reversed(self.tissue.shape[2:])
        return tuple(low + side - 1.0 for low, side in zip(self.tissue_low, sides, strict=True))


@dataclass(frozen=True)
class Anatomy:
    """Tissue shares of a set of points.

    Attributes:
        grey: share of grey matter, 0 to 1.
        white: share of white matter.
        fluid: share of cerebrospinal fluid.
        regions: soft membership of each of `REGIONS`.
    """

    grey: Float[Tensor, " n"]
    white: Float[Tensor, " n"]
    fluid: Float[Tensor, " n"]
    regions: Float[Tensor, "6 n"]

    @property
    def brain(self) -> Float[Tensor, " n"]:
        """Share of the point that lies in the brain."""
        return self.grey + self.white + self.fluid

    def region(self, name: str) -> Float[Tensor, " n"]:
        """Soft membership of one structure, 0 to 1."""
        return self.regions[REGIONS.index(name)]


@dataclass(frozen=True)
class SmoothField:
    """A smooth random field over the box, from Gaussian knots joined by Catmull-Rom splines.

    Attributes:
        values: [1 channels D H W] on a regular lattice over the box.
    """

    values: Tensor

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "channels n"]:
        """Values at points (mm), trilinear between lattice points."""
        return _sample(self.values, points, BOX_LOW, BOX_HIGH)


@dataclass(frozen=True)
class Head:
    """The backward map from a subject's space to the template.

    Attributes:
        matrix: [3 3] subject mm (about `CENTRE`) to template mm.
        displacement: smooth elastic part, channels x y z, in units of ``amplitude_mm``.
        amplitude_mm: size of the elastic part.
    """

    matrix: Tensor
    displacement: SmoothField
    amplitude_mm: float

    def to_template(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Template positions (mm) of points of the subject's space (mm)."""
        return self._turned(points) + self.amplitude_mm * self.displacement(points).T

    def _turned(self, points: Tensor) -> Tensor:
        centre = torch.tensor(CENTRE)
        moved = points - centre
        # an explicit sum, not a matrix product: the same bits whatever the number of points
        return sum((moved[:, j : j + 1] * self.matrix[:, j] for j in range(3)), torch.zeros(3)) + centre

    def may_reach(
        self, points: Float[Tensor, "n 3"], low: tuple[float, ...], high: tuple[float, ...]
    ) -> Bool[Tensor, " n"]:
        """Mark points (mm) that may go into a box of the template (corners, mm); the others certainly do not."""
        # a displacement is a mean of lattice values, so none is larger than the largest of them
        reach = self.amplitude_mm * float(self.displacement.values.abs().max()) + 1e-3
        turned = self._turned(points)
        return ((turned > torch.tensor(low) - reach) & (turned < torch.tensor(high) + reach)).all(dim=1)

    def from_template(self, point: tuple[float, float, float]) -> Float[Tensor, " 3"]:
        """Position in the subject's space of a template point, by fixed-point iteration."""
        target = torch.tensor(point)
        guess = target.clone()
        for _ in range(20):
            guess = guess + target - self.to_template(guess[None])[0]
        return guess


def smooth_field(generator: Generator, *, channels: int, knot_mm: float) -> SmoothField:
    """Draw a smooth random field.

    Args:
        generator: where the knots come from.
        channels: how many independent fields.
        knot_mm: distance between knots, about the length over which the field changes.

    Returns:
        A field with zero mean and a standard deviation of about 0.7.
    """
    extent = [high - low for low, high in zip(BOX_LOW, BOX_HIGH, strict=True)]
    knots = [max(4, round(length / knot_mm) + 1) for length in reversed(extent)]
    draws = generator.standard_normal((channels, *knots), dtype=np.float32)
    values = torch.from_numpy(draws)
    for axis, count in enumerate(knots, start=1):
        values = torch.tensordot(_refine(count), values, dims=([1], [axis])).movedim(0, axis)
    return SmoothField(values.contiguous()[None])


@lru_cache(maxsize=64)
def _refine(knots: int, times: int = 3) -> Tensor:
    """[(knots - 1) * times + 1, knots] weights of Catmull-Rom splines through equally spaced knots, ends repeated."""
    position = np.arange((knots - 1) * times + 1) / times
    left = np.minimum(position.astype(int), knots - 2)
    t = position - left
    weights = np.zeros((len(position), knots), dtype=np.float32)
    cubic = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
    for shift, weight in zip((-1, 0, 1, 2), cubic, strict=True):
        np.add.at(weights, (np.arange(len(position)), np.clip(left + shift, 0, knots - 1)), weight / 2)
    return torch.from_numpy(weights)


def rotation(degrees: tuple[float, ...]) -> Float[Tensor, "3 3"]:
    """Rotation matrix: about x, then y, then z."""
    x, y, z = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return torch.from_numpy((about_z @ about_y @ about_x).astype(np.float32))


def make_head(
    *,
    scale: float,
    proportions: tuple[float, ...],
    degrees: tuple[float, ...],
    displacement: SmoothField,
    amplitude_mm: float,
) -> Head:
    """A head from its size and shape.

    Args:
        scale: size against the template.
        proportions: further factors along x, y and z.
        degrees: rotation about x, y and z.
        displacement: three channels; the elastic part in units of ``amplitude_mm``.
        amplitude_mm: size of the elastic part.

    Returns:
        The backward map.
    """
    matrix = torch.diag(1 / (scale * torch.tensor(proportions))) @ rotation(degrees).T
    return Head(matrix=matrix, displacement=displacement, amplitude_mm=amplitude_mm)


def sample_anatomy(template: Template, points: Float[Tensor, "n 3"]) -> Anatomy:
    """Anatomy at template positions.

    Args:
        template: the brain.
        points: positions in template mm.

    Returns:
        Tissue shares and structure memberships at each point; zero outside the brain.
    """
    tissue = _sample(template.tissue, points, template.tissue_low, template.tissue_high)
    return Anatomy(tissue[0], tissue[1], tissue[2], _sample(template.regions, points, BOX_LOW, BOX_HIGH))


def sample_brain(
    template: Template, head: Head, points: Float[Tensor, "n 3"], *, least: float
) -> tuple[Bool[Tensor, " n"], Anatomy]:
    """The points of a subject that lie in the brain, and what they are made of.

    The same bits as `sample_anatomy` at all points, without sampling what is then thrown away.

    Args:
        template: the brain.
        head: the subject's.
        points: subject mm.
        least: a point is kept where its share of brain is more than this, 0 to 1.

    Returns:
        Which points are kept, and their anatomy.
    """
    # one voxel beyond the grid a point still gets a share of the last voxel
    low, high = [v - 1 for v in template.tissue_low], [v + 1 for v in template.tissue_high]
    near = head.may_reach(points, tuple(low), tuple(high))
    places = head.to_template(points[near])
    grey, white, fluid = _sample(template.tissue, places, template.tissue_low, template.tissue_high)
    inside = grey + white + fluid > least
    regions = _sample(template.regions, places[inside], BOX_LOW, BOX_HIGH)
    return near.masked_scatter(near, inside), Anatomy(grey[inside], white[inside], fluid[inside], regions)


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the ICBM152 template that ships with the package, once a process (how it was made: `icbm152/LICENCE.txt`).

    Returns:
        The template on its sampling grids.
    """
    import nibabel

    image: Any = nibabel.load(Path(__file__).parent / "icbm152" / "tissue.nii.gz")
    right = np.asarray(image.dataobj).transpose(3, 2, 1, 0)  # from the midline on; the left is its mirror image
    grey, white, brain = np.concatenate([right[..., :0:-1], right], axis=3).astype(np.float32)
    grey, white = grey / 255, white / 255
    total = np.maximum(grey + white, 1)
    tissue = np.stack([grey / total, white / total, np.clip(brain - grey - white, 0, 1)])
    x, y, z = (float(value) for value in image.affine[:3, 3])
    return Template(
        tissue=torch.from_numpy(tissue)[None],
        tissue_low=(x - (right.shape[3] - 1), y, z),
        regions=torch.from_numpy(_region_maps())[None],
    )


def _region_maps(step_mm: float = 2.0) -> np.ndarray:
    """Soft membership of each structure on a lattice over the box, 1 inside and 0 outside over about 2 mm."""
    axes = [
        np.arange(low, high + step_mm / 2, step_mm, dtype=np.float32)
        for low, high in zip(BOX_LOW, BOX_HIGH, strict=True)
    ]
    z, y, x = np.meshgrid(*reversed(axes), indexing="ij")
    x = np.abs(x)

    def soft(distance_mm: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(np.clip(2 * distance_mm, -30, 30))), dtype=np.float32)

    maps = {}
    for name, parts in ELLIPSOIDS.items():
        distance = np.full_like(x, np.inf)
        for cx, cy, cz, rx, ry, rz in parts:
            radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2)
            distance = np.minimum(distance, (radius - 1) * min(rx, ry, rz))
        maps[name] = soft(distance)
    # the tentorium: a roof high over the vermis, falling to the sides and to the back
    roof = -11 + 14 * np.exp(-((x / 11) ** 2)) - 0.3 * np.maximum(-y - 60, 0) - 0.2 * np.maximum(x - 15, 0)
    front = -46 + 0.65 * np.minimum(x, 20)
    maps["cerebellum"] = soft(np.maximum(z - roof, y - front)) * (1 - maps["brainstem"])
    return np.stack([maps[name] for name in REGIONS])


def _sample(
    grid: Tensor, points: Tensor, low: tuple[float, ...], high: tuple[float, ...]
) -> Float[Tensor, "channels n"]:
    first, last = torch.tensor(low), torch.tensor(high)
    unit = (points - first) / (last - first) * 2 - 1
    values = torch.nn.functional.grid_sample(
        grid, unit[None, None, None], mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return values[0, :, 0, 0]
