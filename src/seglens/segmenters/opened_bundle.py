"""A MONAI bundle, opened: its network, its preprocessing, and its windows as MONAI's inferers lay them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from seglens.artifacts import hash_of
from seglens.cohorts.bundle_preprocessing import BundlePreprocessing, BundleVolume
from seglens.cohorts.case_volume import CaseVolume
from seglens.cohorts.label_names import BACKGROUND, FOREGROUND, spoken
from seglens.cohorts.network_volume import NetworkVolume
from seglens.cohorts.sequences import canonical_sequence
from seglens.documents import to_document
from seglens.foreign.bundle_steps import Call, WindowPlan
from seglens.foreign.bundles import WEIGHTS, BundlePlan, read_bundle
from seglens.foreign.tensors import read_weights
from seglens.segmenters.architectures import architecture_named
from seglens.segmenters.bundle_networks import bundle_network, places_of
from seglens.segmenters.decision import Decision
from seglens.segmenters.opened import OpenedModel
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.windows import Precision, Tiling, margins_of
from seglens.shapes import Extent, extent_of

USUAL_SIDE = 96
"""Of a window, where a bundle runs its network on whole images and says nothing of their size."""


@dataclass(frozen=True)
class MonaiTiling(Tiling):
    """Windows as MONAI's `SlidingWindowInferer` and `SliceInferer` lay them.

    Attributes:
        plan: of the windows.
    """

    plan: WindowPlan

    def starts(self, axis: int, n: int, side: int) -> list[int]:
        """First voxels of the windows along an axis: a fixed step, the last one moved back to the edge."""
        if axis == 0 and side == 1 and self.plan.slice_axis is not None:
            return list(range(n))
        if n == side:
            return [0]
        shares = self.plan.overlap
        share = shares[0] if len(shares) == 1 else shares[axis - 3 + len(shares)]
        step = max(int(side * (1 - share)), 1)
        return [min(first, n - side) for first in range(0, n - side + step, step)]

    def count(self, axis: int, n: int, side: int) -> int:
        """Number of these."""
        return len(self.starts(axis, n, side))

    def weights(self, patch: Extent, precision: Precision) -> Float[Tensor, "D H W"]:
        """Weight of each voxel of a window."""
        return _importance(patch, self.plan.gaussian, self.plan.sigma).to(getattr(torch, precision))

    def padded(self, volume: Float[Tensor, "C d h w"], patch: Extent) -> Float[Tensor, "C D H W"]:
        """A volume filled up where it is smaller than the patch."""
        margins = margins_of(extent_of(volume), patch)
        if not any(margins):
            return volume
        if self.plan.padding == "constant":
            return functional.pad(volume, margins, value=self.plan.value)
        try:
            return functional.pad(volume[None], margins, mode=self.plan.padding)[0]
        except RuntimeError:
            raise ValueError(
                f"a volume of {' x '.join(map(str, volume.shape[1:]))} voxels cannot be filled up to windows of "
                f"{' x '.join(map(str, patch))} by padding_mode {self.plan.padding}; give another by settings"
            ) from None


@lru_cache(maxsize=8)
def _importance(patch: Extent, gaussian: bool, sigma: float) -> Float[Tensor, "D H W"]:
    from monai.data.utils import compute_importance_map

    made = compute_importance_map(patch, mode="gaussian" if gaussian else "constant", sigma_scale=sigma)
    return made.reshape(patch).float()


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenedBundle(OpenedModel):
    """A MONAI bundle of others.

    Attributes:
        plan: what it expects, does and says.
        dropped: arguments of the network that its class no longer has, which were left out.
    """

    plan: BundlePlan
    dropped: tuple[str, ...] = ()
    _preprocessing: BundlePreprocessing = field(repr=False)

    @property
    def codes(self) -> Mapping[int, int]:
        """Label to the value that is written for it."""
        return {0: 0} | dict(enumerate(self.plan.codes, int(self.plan.regions)))

    @property
    def tiling(self) -> Tiling:
        """As the bundle's inferer lays windows."""
        return MonaiTiling(self.plan.windows)

    @property
    def precision(self) -> Precision:
        """MONAI adds up in float32."""
        return "float32"

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """That images are resampled to; empty where they are not."""
        pixdim = next((call.arguments.get("pixdim") for call in self.plan.transforms if call.name == "Spacingd"), None)
        given = pixdim if isinstance(pixdim, list) else [] if pixdim is None else [pixdim] * 3
        sliced = self.plan.windows.slice_axis
        if len(given) == 3 and self.plan.spatial_dims == 2:
            return tuple(size for axis, size in enumerate(given) if axis != (2 if sliced is None else sliced))
        return tuple(given) if len(given) == 3 else ()

    @cached_property
    def hash(self) -> str:
        """Identity of the network and of all that is done before and after it."""
        return hash_of({"network": self.segmenter.hash, "plan": to_document(self.plan)})

    @cached_property
    def preparation(self) -> str:
        """Identity of channels, transforms and windows."""
        plan = self.plan
        steps = [to_document(plan.transforms, tuple[Call, ...]), to_document(plan.windows), list(self.patch)]
        return hash_of({"channels": list(plan.channels), "steps": steps})

    def facts(self) -> dict[str, str]:
        """Description for people: a heading to a line."""
        plan = self.plan
        version = f", version {plan.version}" if plan.version else ""
        steps = [" ".join([call.name, *map(str, call.arguments.get("pixdim", ()) or ())]) for call in plan.transforms]
        facts = {
            "model": f"{plan.name} (MONAI bundle, {plan.network.name}, {plan.spatial_dims}-D{version})",
            "prepared": ", ".join(steps) or "not at all",
        }
        if self.dropped:
            facts["dropped"] = f"{', '.join(self.dropped)}: {plan.network.name} no longer has them"
        if plan.export.left_out:
            facts["not done"] = f"{', '.join(plan.export.left_out)} of the postprocessing"
        return facts

    def window(self, extent: Extent) -> Extent:
        """Slices, rows and columns of a window of a volume; all of it along axes that the bundle leaves free."""
        sides = self.plan.windows.sides
        own = (0,) * 3 if not sides else (1, *sides) if len(sides) == 2 else sides
        free = (1, *extent[1:]) if self.plan.spatial_dims == 2 else extent
        depth, rows, columns = (side or n for side, n in zip(own, free, strict=True))
        return depth, rows, columns

    def prepare(self, volume: CaseVolume) -> BundleVolume:
        """A volume as the network is shown it; errors as `BundlePreprocessing.prepare`."""
        return self._preprocessing.prepare(volume)

    def labels_on_file_grid(
        self, logits: Float[Tensor, "K d h w"], prepared: NetworkVolume
    ) -> UInt8[np.ndarray, "D H W"]:
        """Decide on the file's own grid, or before it where the bundle does.

        Args:
            logits: in the network's grid; probabilities are put in their place.
            prepared: the case that they are of.

        Returns:
            Labels, the axes as in the file, its slowest first.
        """
        interpolated = self.plan.export.interpolated
        if interpolated == "logits":
            return super().labels_on_file_grid(logits, prepared)
        if interpolated == "labels":
            labels = self.segmenter.decision.labels(logits[None])[0].numpy().astype(np.float32)
            return prepared.restored(labels).round().astype(np.uint8)
        for plane in range(logits.shape[1]):  # of all classes at once there is no room for a copy
            own = logits[:, plane].float()
            logits[:, plane] = own.sigmoid() if self.regions else own.softmax(0)
        first = prepared.restored(logits[0].numpy())
        mask, largest = np.zeros(first.shape, np.uint8), first.copy()
        for head, coarse in enumerate(logits):
            found = prepared.restored(coarse.numpy()) if head else first
            above = found >= 0.5 if self.regions else found > largest  # as MONAI's AsDiscrete has it
            mask[above] = head + self.regions
            if not self.regions:
                largest[above] = found[above]
        return mask


def open_bundle(
    folder: Path, settings: Mapping[str, Any] | None = None, *, checkpoint: str | None = None
) -> OpenedBundle:
    """Open a MONAI bundle; nothing in it is run.

    Args:
        folder: with ``configs`` and ``models``.
        settings: key of its configuration to a value in its place.
        checkpoint: the file of weights in the folder; None: ``models/model.pt``.

    Raises:
        ValueError: a configuration or weights that cannot be used, or weights that do not fit it.
    """
    plan = read_bundle(folder, settings)
    path = folder / (checkpoint or WEIGHTS)
    if not path.is_file():
        raise ValueError(
            f"{path} is not a file; the weights of a bundle are downloaded beside it (monai.bundle download), or give "
            "the name of another file: open_model(path, checkpoint=...)"
        )
    network, dropped = bundle_network(plan, read_weights(path), str(path))
    extent = usual_window(plan)
    names = sequences_of(plan)
    labels = labels_of(plan)
    architecture = {"network": plan.network.name, "arguments": dict(plan.network.arguments), "window": list(extent)}
    segmenter = Segmenter(
        network,
        architecture_named("monai").describe(len(names), len(labels), architecture),
        names,
        labels,
        places_of(network, plan.network.name, extent),
        extent,
        decision=decision_of(plan),
        identity=hash_of(to_document(plan)),
    )
    preprocessing = BundlePreprocessing(plan)
    assert len(preprocessing.steps) == len(plan.transforms)  # built now, so that what cannot be is refused now
    return OpenedBundle(folder, {"model": segmenter}, plan=plan, dropped=dropped, _preprocessing=preprocessing)


def sequences_of(plan: BundlePlan) -> tuple[str, ...]:
    """Names of its channels as cohorts have them, each different."""
    names = [canonical_sequence(name) for name in plan.channels]
    return tuple(name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names))


def usual_window(plan: BundlePlan) -> Extent:
    """Slices, rows and columns that the network is shown: of a window, or of an image as the bundle speaks of it."""
    n = plan.spatial_dims
    sizes = next((call.arguments.get("spatial_size") for call in plan.transforms if call.name == "Resized"), None)
    resized = [sizes] * n if isinstance(sizes, int) else sizes or []
    usual = -(-USUAL_SIDE // plan.multiple) * plan.multiple
    own = [usual] * n
    for given in (plan.shape, resized, plan.windows.sides):  # the last one that says a side counts
        if len(given) == n:
            own = [side if side > 0 else before for side, before in zip(given, own, strict=True)]
    depth, rows, columns = (1, *own) if n == 2 else own
    return depth, rows, columns


def decision_of(plan: BundlePlan) -> Decision:
    """From its outputs to labels."""
    n = len(plan.order)
    members = tuple(tuple(range(label, n + 1)) for label in range(1, n + 1)) if plan.nested else ()
    return Decision(plan.regions, () if plan.order == tuple(range(n)) else plan.order, members)


def labels_of(plan: BundlePlan) -> dict[int, str]:
    """Labels numbered from 0, the background: classes, or regions from the lowest to the top."""
    names = [plan.heads[head] for head in plan.order]
    names = [BACKGROUND, *names] if plan.regions else names
    return {
        number: f"{name}_{number}" if number and spoken(name) in (FOREGROUND, BACKGROUND) else name
        for number, name in enumerate(names)
    }
