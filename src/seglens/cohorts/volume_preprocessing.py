"""From a case's volume to what an nnU-Net is shown, and back: crop, normalise, resample, in its own order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray

from seglens.cohorts.case_volume import CaseVolume
from seglens.cohorts.spline_resampling import resample, resampled_shape
from seglens.foreign.plans import Interpolation, ModelPlan, Normalisation
from seglens.shapes import Extent

MAX_VOXELS = 2**31
"""Of a resampled volume, all channels together."""
MIN_SPREAD = 1e-8


@dataclass(frozen=True, eq=False)
class PreparedVolume:
    """A case in the grid of a network, and the way back to its file.

    Attributes:
        case: its id.
        values: what the network is shown, before it is padded.
        spacing_mm: of the network's grid; the distance between slices is the file's where the network sees planes.
        file_extent: of the file's array, its axes as the network's.
        start: of the crop in it.
        crop: extent of the crop.
        crop_spacing_mm: the file's spacing, its axes as the network's.
        transpose_backward: from the network's axes to the file's.
        interpolation: of logits, on their way back.
    """

    case: str
    values: Float32[np.ndarray, "C D H W"]
    spacing_mm: tuple[float, ...]
    file_extent: Extent
    start: Extent
    crop: Extent
    crop_spacing_mm: tuple[float, ...]
    transpose_backward: tuple[int, int, int]
    interpolation: Interpolation

    @property
    def extent(self) -> Extent:
        """Slices, rows and columns of the network's grid."""
        depth, rows, columns = self.values.shape[1:]
        return depth, rows, columns

    def restored(self, head: Float[np.ndarray, "d h w"]) -> Float[np.ndarray, "D H W"]:
        """One logit of every voxel, brought to the size of the crop."""
        return resample(head, self.crop, self.spacing_mm, self.crop_spacing_mm, self.interpolation)

    def on_file_grid(self, mask: UInt8[np.ndarray, "d h w"]) -> UInt8[np.ndarray, "D H W"]:
        """A mask of the crop on the file's whole grid, its axes as in the file; 0 outside of the crop."""
        whole = np.zeros(self.file_extent, np.uint8)
        whole[_box(self.start, self.crop)] = mask
        return whole.transpose(self.transpose_backward)

    def crop_places(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where places of the network's grid lie in the file's array.

        Args:
            places: [n 3] voxels of the network's grid, slices first; centres are whole numbers.

        Returns:
            [n 3], voxels of the file's array, its slowest axis first.
        """
        scale = np.divide(self.crop, self.extent)
        own = (places + 0.5) * scale - 0.5 + np.asarray(self.start)
        return own[:, list(self.transpose_backward)]


def prepare_volume(volume: CaseVolume, plan: ModelPlan) -> PreparedVolume:
    """Do to a volume what nnU-Net's own preprocessing does: transpose, crop to what is not zero, normalise, resample.

    Args:
        volume: of the plan's channels, in the order of voxels that the plan asks for.
        plan: of the model.

    Raises:
        ValueError: other channels than the plan's, intensities that a colour rule cannot take, or a grid that would be
            larger than `MAX_VOXELS`.
    """
    if len(volume.values) != len(plan.channels):
        raise ValueError(
            f"case {volume.case.id}: {len(volume.values)} channels; the model expects {len(plan.channels)}: "
            f"{', '.join(plan.channels)}; read it with OpenedModel.read, from a case of these sequences"
        )
    forward = plan.transpose_forward
    # a view of the file's order to the end: in which order numbers are added up decides a mean's last bits
    values = volume.values.copy().transpose(0, *(axis + 1 for axis in forward))
    spacing = tuple(volume.spacing_mm[axis] for axis in forward)
    depth, height, width = values.shape[1:]
    inside = _filled(values)
    start, extent = _bounds(inside)
    inside = inside[_box(start, extent)]
    values = values[(slice(None), *_box(start, extent))]
    wanted = spacing[: 3 - len(plan.spacing)] + plan.spacing
    shape = resampled_shape(extent, spacing, wanted)
    if min(shape) < 1 or math.prod(shape) * len(values) > MAX_VOXELS:
        raise ValueError(
            f"case {volume.case.id}: the model's spacing {_listed(wanted)} mm makes {' x '.join(map(str, shape))} "
            f"voxels of {' x '.join(map(str, extent))} of {_listed(spacing)} mm; legal are 1 to {MAX_VOXELS} in "
            f"{len(values)} channels; correct the spacing in the file's header, or cut the volume smaller"
        )
    for channel, rule in zip(values, plan.normalisation, strict=True):
        _normalise(channel, rule, inside, volume.case.id)
    resampled = np.stack([resample(channel, shape, spacing, wanted, plan.images) for channel in values])
    return PreparedVolume(
        volume.case.id,
        resampled,
        wanted,
        (depth, height, width),
        start,
        extent,
        spacing,
        plan.transpose_backward,
        plan.logits,
    )


def _filled(values: Float32[np.ndarray, "C D H W"]) -> NDArray[np.bool_]:
    """Voxels that are not zero in some channel, with the holes among them."""
    from scipy import ndimage

    inside = values[0] != 0
    for channel in values[1:]:
        inside |= channel != 0
    return ndimage.binary_fill_holes(inside)


def _bounds(inside: NDArray[np.bool_]) -> tuple[Extent, Extent]:
    """Start and extent of the smallest box around what is inside; all of it where nothing is."""
    if not inside.any():
        depth, rows, columns = inside.shape
        return (0, 0, 0), (depth, rows, columns)
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(inside.any(axis=others))
        spans.append((int(places[0]), int(places[-1]) + 1 - int(places[0])))
    (z, depth), (y, rows), (x, columns) = spans
    return (z, y, x), (depth, rows, columns)


def _box(start: Sequence[int], extent: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + n) for first, n in zip(start, extent, strict=True))


def _normalise(channel: NDArray[np.float32], rule: Normalisation, inside: NDArray[np.bool_], case: str) -> None:
    """Normalise a channel in its place, with statistics in float32 as nnU-Net has them."""
    if rule.scheme == "zscore" and rule.masked:
        values = channel[inside]
        channel[inside] = (values - values.mean()) / max(values.std(), MIN_SPREAD)
    elif rule.scheme == "zscore":
        mean, spread = channel.mean(), channel.std()
        channel -= mean
        channel /= max(spread, MIN_SPREAD)
    elif rule.scheme == "ct":
        np.clip(channel, rule.low, rule.high, out=channel)
        channel -= rule.mean
        channel /= max(rule.spread, MIN_SPREAD)
    elif rule.scheme == "zero_to_one":
        channel -= channel.min()
        channel /= max(channel.max(), MIN_SPREAD)
    elif rule.scheme == "rgb":
        if channel.min() < 0 or channel.max() > 255:
            raise ValueError(
                f"case {case}: intensities from {channel.min():g} to {channel.max():g}; RGBTo01Normalization of the "
                "model takes 0 to 255: give images as they were stored"
            )
        channel /= 255


def _listed(spacing: Sequence[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in spacing)
