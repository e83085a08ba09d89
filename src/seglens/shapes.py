"""Axis letters and the array types that cross a folder's border.

Letters: ``B`` batch of samples, ``C`` sequences (channels), ``K`` classes, ``D H W`` slices, rows and columns of a
sample, ``d h w`` its token grid, ``n`` tokens, ``d_in`` activation width, ``m`` latents. Space always has three axes: a
slice is a volume with ``D = 1``. Slices run from inferior to superior, rows from anterior to posterior, columns from
the patient's right to left (as a radiologist sees an axial slice).

What is two-dimensional by definition (a picture, a 2-D network) takes `plane_of` of a volume. On disk and in documents
the axis of depth is left out where it is 1 (`flat`), and `with_depth` puts it back.
"""

from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

Images = Float[Tensor, "B C D H W"]
"""Normalised samples, float32."""
Masks = UInt8[Tensor, "B D H W"]
"""Label values, 0 is background."""
BrainMasks = Bool[Tensor, "B D H W"]
"""True inside the brain (or, where nothing is stripped, inside the body)."""
Logits = Float[Tensor, "B K D H W"]
Tokens = Float[Tensor, "n d_in"]
TokenGrid = Float[Tensor, "B d h w d_in"]
"""The activation of a batch at a hookpoint, channels last whatever the layout inside the network."""
Rows = Int[Tensor, " B"]
"""Row numbers of samples in a SliceSet."""
Extent = tuple[int, int, int]
"""Slices, rows and columns: of a sample, or of its token grid."""


def extent_of(array: Tensor) -> Extent:
    """Slices, rows and columns of an array ``[... D H W]``."""
    depth, rows, columns = array.shape[-3:]
    return depth, rows, columns


def grid_of(tokens: Shaped[Tensor, "B d h w d_in"]) -> Extent:
    """Slices, rows and columns of a token grid."""
    return extent_of(tokens[..., 0])


def plane_of(volume: Tensor, axis: int = -3) -> Tensor:
    """The one slice of samples with ``D = 1``: a view without the axis of depth.

    Args:
        volume: ``[... D H W]``.
        axis: of depth.

    Raises:
        ValueError: samples of several slices.
    """
    if volume.shape[axis] != 1:
        raise ValueError(
            f"samples of {volume.shape[axis]} slices (axes {tuple(volume.shape)}) where one slice is needed; give "
            "slices, D = 1"
        )
    return volume.squeeze(axis)


def flat(volume: Tensor, axis: int = -3) -> Tensor:
    """The form on disk: without the axis of depth where it is 1, else as it is."""
    return volume.squeeze(axis)


def with_depth(stored: Tensor, n_axes: int, axis: int = -3) -> Tensor:
    """The inverse of `flat`: an array of ``n_axes`` axes, whether or not the axis of depth was left out.

    Raises:
        ValueError: neither as many axes nor one fewer.
    """
    if stored.ndim not in (n_axes - 1, n_axes):
        raise ValueError(f"an array {tuple(stored.shape)}; give one of {n_axes} axes, or of {n_axes - 1} without depth")
    return stored if stored.ndim == n_axes else stored.unsqueeze(axis)


def flat_extent(extent: Extent) -> list[int]:
    """The extent as documents have it: without the depth where it is 1."""
    return list(extent[1:] if extent[0] == 1 else extent)


def full_extent(stored: list[int]) -> Extent:
    """The inverse of `flat_extent`."""
    depth, rows, columns = stored if len(stored) == 3 else (1, *stored)
    return depth, rows, columns
