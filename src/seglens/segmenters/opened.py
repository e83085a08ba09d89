"""A model of others, opened: from a case's files to the mask that its own software would write, steered or not."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.case_volume import CaseVolume, read_case_volume
from seglens.cohorts.network_volume import NetworkVolume
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.segmenter import Segmenter, raw_logits
from seglens.segmenters.windows import (
    NNUNET,
    Placement,
    Precision,
    Tiling,
    refuse_infinite,
    require_sums,
    windowed_logits,
)
from seglens.shapes import Extent, Images, Logits

if TYPE_CHECKING:
    from seglens.segmenters.own_networks import BuildNetwork


@dataclass(frozen=True, eq=False)
class OpenedModel(ABC):
    """A model of others: its networks, what it does to images before, and how it decides after.

    While `logits` runs, `seglens.segmenters.windows.window_pass` says which window, mirror and fold a hook sees.

    Attributes:
        folder: that it was opened from.
        folds: name to network; several are an ensemble, their logits' mean counts.
        mirror_axes: axes of space that each window is turned round along.
    """

    folder: Path
    folds: Mapping[str, Segmenter]
    mirror_axes: tuple[int, ...] = ()

    @property
    def segmenter(self) -> Segmenter:
        """The network of the only fold, to be looked into.

        Raises:
            ValueError: several folds, each of which has hookpoints of its own.
        """
        if len(self.folds) > 1:
            raise ValueError(
                f"{self.folder.name} was opened with the folds {', '.join(self.folds)}, each a network of its own with "
                f"a dictionary of its own; open one: open_model(path, fold={next(iter(self.folds))})"
            )
        return next(iter(self.folds.values()))

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return next(iter(self.folds.values())).sequences

    @property
    def labels(self) -> Mapping[int, str]:
        """Label to class or region name."""
        return next(iter(self.folds.values())).labels

    @property
    @abstractmethod
    def codes(self) -> Mapping[int, int]:
        """Label to the value that is written for it."""

    @cached_property
    @abstractmethod
    def preparation(self) -> str:
        """Identity of all that is done to a case before a network sees windows of it, and of how these are laid."""

    @property
    def of_pictures(self) -> bool:
        """Whether it takes pictures, which have no place in space, and not volumes."""
        return False

    @property
    def regions(self) -> bool:
        """Whether its labels are regions, which overlap."""
        return next(iter(self.folds.values())).regions

    @property
    def patch(self) -> Extent:
        """Slices, rows and columns that the networks were made for, in their axes."""
        return next(iter(self.folds.values())).extent

    def window(self, _extent: Extent) -> Extent:
        """Slices, rows and columns of a window of a volume, in the network's axes."""
        return self.patch

    @property
    def tiling(self) -> Tiling:
        """How windows are laid over a volume and weighed."""
        return NNUNET

    @property
    def precision(self) -> Precision:
        """In which its own software adds windows up."""
        return "float16"

    @property
    def canonical(self) -> bool:
        """Whether images are read turned to RAS+, else in the file's own order of voxels."""
        return False

    @property
    @abstractmethod
    def spacing_mm(self) -> tuple[float, ...]:
        """Of the network's grid, as many as it has axes of space; empty where it is the file's."""

    @property
    def usual_extent(self) -> Extent | None:
        """Extent of the volumes that it was trained on, in the network's grid; None where it does not say."""
        return None

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Description for people: a heading to a line, the model first."""

    @cached_property
    @abstractmethod
    def hash(self) -> str:
        """Identity of the networks and of all that is done before and after them."""

    def to(self, device: str | torch.device) -> "OpenedModel":
        """Move the networks (in place) and return the model."""
        for segmenter in self.folds.values():
            segmenter.to(device)
        return self

    def read(self, case: Case, *, with_mask: bool = False) -> CaseVolume:
        """A case's channels in the order of voxels that the model takes.

        Args:
            case: of files.
            with_mask: read its mask too.

        Raises:
            VolumeError: whatever is wrong with the files.
        """
        return read_case_volume(case, self.sequences, self.labels, canonical=self.canonical, with_mask=with_mask)

    @abstractmethod
    def prepare(self, volume: CaseVolume) -> NetworkVolume:
        """A volume as the networks are shown it.

        Raises:
            ValueError: one that cannot be shown to them.
        """

    def logits(
        self,
        prepared: NetworkVolume,
        *,
        mirror: bool = True,
        precision: Precision | None = None,
        progress: Progress = silent,
    ) -> Float[Tensor, "K d h w"]:
        """Logits in the network's grid, on the CPU: the mean over folds of those of all windows and mirrors.

        Args:
            prepared: of this model.
            mirror: also run each window turned round, as the model was trained for.
            precision: in which windows and folds are added up; None: as the model's own software does it.
            progress: told after each window.

        Raises:
            InsufficientResourcesError: the memory does not hold the sums.
            ValueError: logits that are not finite, or too many windows.
        """
        precision = precision or self.precision
        window = self.window(prepared.extent)
        n_heads = len(self.labels) - self.regions
        require_sums(
            prepared.case,
            len(prepared.values),
            n_heads,
            prepared.extent,
            window,
            precision=precision,
            n_folds=len(self.folds),
            tiling=self.tiling,
        )
        whole = Placement(prepared.case, (0, 0, 0), prepared.extent, prepared.spacing_mm)
        volume = torch.from_numpy(np.ascontiguousarray(prepared.values))
        mean: Tensor | None = None
        for fold, segmenter in self.folds.items():
            logits = windowed_logits(
                partial(_run_network, segmenter),
                volume,
                whole,
                window,
                n_heads=n_heads,
                mirror_axes=self.mirror_axes if mirror else (),
                precision=precision,
                tiling=self.tiling,
                fold=fold,
                device=segmenter.device,
                progress=progress,
            )
            mean = logits if mean is None else mean.add_(logits)
        assert mean is not None
        if len(self.folds) > 1:
            refuse_infinite(mean, prepared.case, precision)  # each fold's are finite, their sum may not be
            mean.div_(len(self.folds))
        return mean

    def labels_on_file_grid(
        self, logits: Float[Tensor, "K d h w"], prepared: NetworkVolume
    ) -> UInt8[np.ndarray, "D H W"]:
        """Decide on the file's own grid, class by class: one class at a time is brought to its size.

        Args:
            logits: in the network's grid.
            prepared: the case that they are of.

        Returns:
            Labels, the axes as in the file, its slowest first.
        """
        first = prepared.restored(logits[0].numpy())
        mask = np.zeros(first.shape, np.uint8)
        largest = first.copy()
        for head, coarse in enumerate(logits):
            own = prepared.restored(coarse.numpy()) if head else first
            if self.regions:
                mask[(torch.from_numpy(own).float().sigmoid() > 0.5).numpy()] = head + 1
            else:
                above = own > largest
                mask[above] = head
                largest[above] = own[above]
        return prepared.on_file_grid(mask)

    def segment(
        self,
        volume: CaseVolume,
        *,
        mirror: bool = True,
        precision: Precision | None = None,
        progress: Progress = silent,
    ) -> UInt8[np.ndarray, "D H W"]:
        """Labels of a case on its file's grid, the slowest axis first; arguments as `logits`."""
        prepared = self.prepare(volume)
        logits = self.logits(prepared, mirror=mirror, precision=precision, progress=progress)
        return self.labels_on_file_grid(logits, prepared)

    def predict(
        self,
        images: Sequence[str | Path],
        *,
        mirror: bool = True,
        precision: Precision | None = None,
        progress: Progress = silent,
    ) -> NDArray[Any]:
        """Segment one case.

        Args:
            images: a NIfTI file a channel, in the order of `sequences`.
            mirror: also run each window turned round.
            precision: in which windows are added up; None: as the model's own software does it.
            progress: told after each window.

        Returns:
            The values that its own software would write [x y z], voxels in the first file's own order.

        Raises:
            ValueError: another number of files, or whatever is wrong with one.
        """
        if len(images) != len(self.sequences):
            raise ValueError(
                f"{len(images)} files; the model takes {len(self.sequences)}, one each for {', '.join(self.sequences)}"
            )
        paths = [Path(path) for path in images]
        name = paths[0].name.removesuffix(".gz").removesuffix(".nii")
        refs = {sequence: ImageRef(path) for sequence, path in zip(self.sequences, paths, strict=True)}
        volume = self.read(Case(name, name, name, name, refs, None, {}))
        labels = self.segment(volume, mirror=mirror, precision=precision, progress=progress)
        kind = np.uint8 if max(self.codes.values()) < 256 else np.uint16
        table = np.array([self.codes[label] for label in sorted(self.codes)], kind)
        return table[volume.in_file_order(labels)]


def _run_network(segmenter: Segmenter, images: Images) -> Logits:
    return segmenter.decision.ordered(raw_logits(segmenter.network, images, segmenter.spatial_dims))


def open_model(
    path: str | Path,
    *,
    fold: int | str | Sequence[int | str] | None = None,
    checkpoint: str | None = None,
    settings: Mapping[str, Any] | None = None,
    network: "BuildNetwork | None" = None,
) -> OpenedModel:
    """Open a model that others trained; nothing in its files is run.

    Args:
        path: a results folder of nnU-Net v2, ``TRAINER__PLANS__CONFIGURATION``, a data set's folder with one, the
            folder of a MONAI bundle, that of a SegFormer of Hugging Face transformers, or one with the weights of a
            network of your own and a description of it, ``seglens.json`` or ``seglens.yaml``.
        fold: of nnU-Net: one, such as 0 or ``"all"``, or several for an ensemble; None: every numbered fold that is
            there.
        checkpoint: the file's name in a fold's folder, or the file of weights in a bundle or folder of transformers.
        settings: of a bundle or a description: key of it to a value in its place, for what its author left to code.
        network: of a description that names no row of an installed package: the class or function that its
            ``settings`` are given to as keywords.

    Raises:
        ValueError: what cannot be opened, with the key or file, what is legal and what to do.
    """
    from seglens.foreign.bundles import bundle_config
    from seglens.foreign.own_models import own_description
    from seglens.foreign.transformers_config import is_transformers_folder

    folder = Path(path)
    if own_description(folder) is not None:
        from seglens.segmenters.opened_own import open_own

        if fold is not None:
            raise ValueError(f"{folder} holds one network of your own and has no folds; leave fold out")
        return open_own(folder, settings, checkpoint=checkpoint, network=network)
    if network is not None:
        raise ValueError(
            f"{folder} holds no description of a network of your own (seglens.json or seglens.yaml), and a function of "
            "networks is of such a one; leave it out, or write the description"
        )
    if bundle_config(folder) is not None:
        from seglens.segmenters.opened_bundle import open_bundle

        if fold is not None:
            raise ValueError(f"{folder} is a MONAI bundle and has no folds; leave fold out")
        return open_bundle(folder, settings, checkpoint=checkpoint)
    if is_transformers_folder(folder):
        from seglens.segmenters.opened_transformers import open_transformers

        if fold is not None or settings:
            raise ValueError(f"{folder} is of transformers and has neither folds nor settings; leave them out")
        return open_transformers(folder, checkpoint=checkpoint)
    from seglens.segmenters.opened_nnunet import open_nnunet

    if settings:
        raise ValueError(f"{folder} is no MONAI bundle, and settings are of a bundle or a description; leave them out")
    given = [fold] if isinstance(fold, int | str) else fold
    return open_nnunet(folder, None if given is None else [str(one) for one in given], checkpoint=checkpoint)
