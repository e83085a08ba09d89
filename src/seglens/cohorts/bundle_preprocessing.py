"""From a case's volume to what the network of a MONAI bundle is shown, and back, by MONAI's own transforms."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray

from seglens.cohorts.case_volume import CaseVolume
from seglens.foreign.bundle_steps import Call
from seglens.foreign.bundles import BundlePlan
from seglens.shapes import Extent

MAX_VOXELS = 2**31
"""Of a volume in the network's grid, all channels together."""
KEY = "image"


@dataclass(frozen=True, eq=False)
class BundleVolume:
    """A case in the grid of a bundle's network.

    Attributes:
        case: its id.
        values: what the network is shown, before it is padded.
        spacing_mm: of the network's grid.
        axes: of the image (x, y, z of what MONAI's transforms made), in the order of the network's.
        affine: [4 4] from the image's axes to mm.
        file_affine: [4 4] from the file's axes to mm.
        nearest: the way back takes the nearest voxel.
    """

    case: str
    values: Float32[np.ndarray, "C d h w"]
    spacing_mm: tuple[float, ...]
    axes: tuple[int, int, int]
    affine: NDArray[np.float64]
    file_affine: NDArray[np.float64]
    nearest: bool
    _steps: tuple[Any, ...] = field(repr=False)
    _image: Any = field(repr=False)

    @property
    def extent(self) -> Extent:
        """Slices, rows and columns of the network's grid."""
        depth, rows, columns = self.values.shape[1:]
        return depth, rows, columns

    def crop_places(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where places ``[n 3]`` of the network's grid lie in the file's array, its slowest axis first."""
        own = np.zeros_like(places)
        own[:, list(self.axes)] = places
        mm = own @ self.affine[:3, :3].T + self.affine[:3, 3]
        back = np.linalg.inv(self.file_affine)
        return (mm @ back[:3, :3].T + back[:3, 3])[:, ::-1]

    def restored(self, head: Float[np.ndarray, "d h w"]) -> Float[np.ndarray, "D H W"]:
        """One output for every voxel of the file, by the inverses of what was done before, the last one first."""
        from monai.data import MetaTensor
        from monai.transforms import InvertibleTransform, SqueezeDimd
        from monai.transforms.utils import convert_applied_interp_mode

        own = np.ascontiguousarray(head, np.float32).transpose(np.argsort(self.axes))
        flat = self._image.ndim == 3
        image = MetaTensor(torch.from_numpy(own[..., 0] if flat else own)[None], meta=dict(self._image.meta))
        done = deepcopy(self._image.applied_operations)  # inverses write into it
        image.applied_operations = convert_applied_interp_mode(done, mode="nearest") if self.nearest else done
        for step in reversed(self._steps):
            if isinstance(step, SqueezeDimd):
                image = image.unsqueeze(-1)
            elif isinstance(step, InvertibleTransform):
                image = step.inverse({KEY: image})[KEY]
        values = image[0].numpy()
        return (values[..., None] if values.ndim == 2 else values).transpose(2, 1, 0)

    def on_file_grid(self, mask: UInt8[np.ndarray, "D H W"]) -> UInt8[np.ndarray, "D H W"]:
        """The same mask: `restored` is of all of the file."""
        return mask


@dataclass(frozen=True)
class BundlePreprocessing:
    """Steps that a bundle does to an image before its network sees it.

    Attributes:
        plan: of the bundle.
    """

    plan: BundlePlan

    @cached_property
    def steps(self) -> tuple[Any, ...]:
        """MONAI's transforms, of the fixed table.

        Raises:
            ValueError: one that cannot be built of its arguments.
        """
        return tuple(self._built(call) for call in self.plan.transforms)

    def prepare(self, volume: CaseVolume) -> BundleVolume:
        """Do to a volume what the bundle does.

        Args:
            volume: of the bundle's channels, in the file's own order of voxels.

        Raises:
            ValueError: other channels, a grid that would be larger than `MAX_VOXELS`, a transform that fails, or a
                volume for a network of planes.
        """
        from monai.data import MetaTensor

        plan, case = self.plan, volume.case.id
        if len(volume.values) != len(plan.channels):
            raise ValueError(
                f"case {case}: {len(volume.values)} channels; the model expects {len(plan.channels)}: "
                f"{', '.join(plan.channels)}; read it with OpenedModel.read, from a case of these sequences"
            )
        values = np.ascontiguousarray(volume.values.transpose(0, 3, 2, 1))
        if plan.spatial_dims == 2 and values.shape[-1] == 1 and self._takes_pictures:
            values = values[..., 0]
        image = MetaTensor(torch.from_numpy(values), affine=torch.from_numpy(volume.affine))
        for call, step in zip(plan.transforms, self.steps, strict=True):
            _refuse_absurd(case, call, image)
            try:
                image = step({KEY: image})[KEY]
            except Exception as fault:  # each transform has its own ways to fail
                reason = (str(fault) or type(fault).__name__).splitlines()[0][:300]
                raise ValueError(
                    f"case {case}: the bundle's {call.name} cannot be done to it ({reason}); check the file, or give "
                    "another preprocessing by settings"
                ) from None
        axes = self._axes(case, image)
        array = image.numpy().astype(np.float32, copy=False)
        array = array[..., None] if array.ndim == 3 else array
        array = np.ascontiguousarray(array.transpose(0, *(axis + 1 for axis in axes)))
        if not np.isfinite(array).all():
            raise ValueError(f"case {case}: its intensities are not finite after the bundle's preprocessing; check it")
        affine = np.asarray(image.affine, np.float64)
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        return BundleVolume(
            case,
            array,
            tuple(float(sizes[axis]) for axis in axes),
            axes,
            affine,
            volume.affine,
            plan.export.nearest,
            self.steps,
            image,
        )

    @property
    def _takes_pictures(self) -> bool:
        """Whether images are planes from the start: not slices of volumes, nor made so by a step."""
        return self.plan.windows.slice_axis is None and all(call.name != "SqueezeDimd" for call in self.plan.transforms)

    def _axes(self, case: str, image: Any) -> tuple[int, int, int]:
        """Axes of the image in the order of the network's: of planes the one along which they lie comes first."""
        n_axes, wanted = image.ndim - 1, self.plan.spatial_dims
        if wanted == 3 and n_axes == 3:
            return 0, 1, 2
        sliced = self.plan.windows.slice_axis
        if wanted == 2 and n_axes == 3 and sliced is not None:
            first, second = (axis for axis in range(3) if axis != sliced)
            return sliced, first, second
        if wanted == 2 and (n_axes == 2 or image.shape[-1] == 1):
            return 2, 0, 1
        raise ValueError(
            f"case {case}: a network of {wanted} axes of space and an image of {' x '.join(map(str, image.shape[1:]))} "
            "after the bundle's preprocessing; legal: planes for a network of planes, volumes for one of volumes; for "
            'planes of a volume give settings={"inferer": {"_target_": "SliceInferer", "roi_size": [ROWS, COLUMNS], '
            '"spatial_dim": 2}}'
        )

    def _built(self, call: Call) -> Any:
        import monai.transforms

        own: dict[str, Any] = {"source_key": KEY} if call.name == "CropForegroundd" else {}
        if call.name == "Orientationd":
            own["labels"] = (("L", "R"), ("P", "A"), ("I", "S"))  # axes of the affine, which are RAS+ here
        try:
            return getattr(monai.transforms, call.name)(keys=KEY, **(dict(call.arguments) | own))
        except Exception as fault:
            reason = (str(fault) or type(fault).__name__).splitlines()[0][:300]
            raise ValueError(
                f"{self.plan.name}: MONAI's {call.name} cannot be built of {call.arguments} ({reason}); correct the "
                "preprocessing by settings"
            ) from None


def _refuse_absurd(case: str, call: Call, image: Any) -> None:
    """Refuse a step that would make a volume that no memory holds, before it is done."""
    sides: Sequence[float] = image.shape[1:]
    if call.name == "Spacingd":
        wanted = _three(call.arguments["pixdim"]) if "pixdim" in call.arguments else _three(1)
        sizes = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
        sides = [n * old / new for n, old, new in zip(sides, sizes, wanted, strict=False)]
    elif call.name in ("Resized", "SpatialPadd"):
        sides = [max(n, new) for n, new in zip(sides, _three(call.arguments.get("spatial_size", 0)), strict=False)]
    elif call.name in ("DivisiblePadd", "CropForegroundd"):
        multiple = _three(call.arguments.get("k") or call.arguments.get("k_divisible") or 1)
        margin = _three(call.arguments.get("margin", 0))
        sides = [max(n, k) + 2 * more + k for n, k, more in zip(sides, multiple, margin, strict=False)]
    if math.prod(sides) * image.shape[0] > MAX_VOXELS:
        raise ValueError(
            f"case {case}: the bundle's {call.name} {call.arguments} makes {' x '.join(f'{n:.0f}' for n in sides)} "
            f"voxels of it; legal are at most {MAX_VOXELS} in {image.shape[0]} channels; correct the spacing in the "
            "file's header, or cut the volume smaller"
        )


def _three(value: Any) -> tuple[float, ...]:
    given = tuple(float(one) for one in value) if isinstance(value, list | tuple) else (float(value),) * 3
    return given + given[-1:] * (3 - len(given))
