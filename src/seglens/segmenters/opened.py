"""A model of others, opened: from a case's files to the mask that its own software would write, steered or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from seglens.artifacts import hash_of
from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.case_volume import CaseVolume, read_case_volume
from seglens.cohorts.spline_resampling import resample
from seglens.cohorts.volume_preprocessing import PreparedVolume, prepare_volume
from seglens.documents import to_document
from seglens.foreign.plans import ModelPlan
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.nnunet import CHECKPOINT, codes_of, open_folder
from seglens.segmenters.segmenter import Segmenter, raw_logits
from seglens.segmenters.windows import Placement, Precision, refuse_infinite, require_sums, windowed_logits
from seglens.shapes import Extent, Images, Logits


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model of others: its networks, what it does to images before, and how it decides after.

    While `logits` runs, `seglens.segmenters.windows.window_pass` says which window, mirror and fold a hook sees.

    Attributes:
        folder: that it was opened from.
        plan: what it expects, does and says.
        folds: name to network; several are an ensemble, their logits' mean counts.
        mirror_axes: axes of space that each window is turned round along.
        trainer: what trained it.
    """

    folder: Path
    plan: ModelPlan
    folds: Mapping[str, Segmenter]
    mirror_axes: tuple[int, ...]
    trainer: str = ""

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
    def codes(self) -> Mapping[int, int]:
        """Label to the value that is written for it."""
        return codes_of(self.plan)

    @property
    def patch(self) -> Extent:
        """Slices, rows and columns of a window, in the network's axes."""
        return next(iter(self.folds.values())).extent

    @cached_property
    def hash(self) -> str:
        """Identity of the networks and of all that is done before and after them."""
        networks = {name: segmenter.hash for name, segmenter in self.folds.items()}
        return hash_of({"networks": networks, "plan": to_document(self.plan), "mirrors": list(self.mirror_axes)})

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
        return read_case_volume(case, self.sequences, self.labels, canonical=self.plan.canonical, with_mask=with_mask)

    def prepare(self, volume: CaseVolume) -> PreparedVolume:
        """A volume as the networks are shown it.

        Raises:
            ValueError: as `prepare_volume`.
        """
        return prepare_volume(volume, self.plan)

    def logits(
        self,
        prepared: PreparedVolume,
        *,
        mirror: bool = True,
        precision: Precision = "float16",
        progress: Progress = silent,
    ) -> Float[Tensor, "K d h w"]:
        """Logits in the network's grid, on the CPU: the mean over folds of those of all windows and mirrors.

        Args:
            prepared: of this model.
            mirror: also run each window turned round, as the model was trained for.
            precision: in which windows and folds are added up; nnU-Net itself adds float16.
            progress: told after each window.

        Raises:
            InsufficientResourcesError: the memory does not hold the sums.
            ValueError: logits that are not finite, or too many windows.
        """
        require_sums(
            prepared.case,
            len(prepared.values),
            len(self.plan.heads),
            prepared.extent,
            self.patch,
            precision=precision,
            n_folds=len(self.folds),
        )
        whole = Placement(prepared.case, (0, 0, 0), prepared.extent, prepared.spacing_mm)
        volume = torch.from_numpy(np.ascontiguousarray(prepared.values))
        mean: Tensor | None = None
        for fold, segmenter in self.folds.items():
            logits = windowed_logits(
                partial(_run_network, segmenter),
                volume,
                whole,
                self.patch,
                n_heads=len(self.plan.heads),
                mirror_axes=self.mirror_axes if mirror else (),
                precision=precision,
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
        self, logits: Float[Tensor, "K d h w"], prepared: PreparedVolume
    ) -> UInt8[np.ndarray, "D H W"]:
        """Decide on the file's own grid, class by class: one class at a time is brought to its size.

        Args:
            logits: in the network's grid.
            prepared: the case that they are of.

        Returns:
            Labels, the axes as in the file, its slowest first.
        """
        mask = np.zeros(prepared.crop, np.uint8)
        largest: NDArray[np.floating] | None = None
        for head, coarse in enumerate(logits):
            own = resample(
                coarse.numpy(), prepared.crop, prepared.spacing_mm, prepared.crop_spacing_mm, self.plan.logits
            )
            if self.plan.class_order is not None:
                mask[(torch.from_numpy(own).float().sigmoid() > 0.5).numpy()] = head + 1
            elif largest is None:
                largest = own.copy()
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
        precision: Precision = "float16",
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
        precision: Precision = "float16",
        progress: Progress = silent,
    ) -> NDArray[Any]:
        """Segment one case.

        Args:
            images: a NIfTI file a channel, in the order of `sequences`.
            mirror: also run each window turned round.
            precision: in which windows are added up.
            progress: told after each window.

        Returns:
            The values that nnU-Net itself would write [x y z], voxels in the first file's own order.

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
    return raw_logits(segmenter.network, images, segmenter.spatial_dims)


def open_model(
    path: str | Path, *, fold: int | str | Sequence[int | str] | None = None, checkpoint: str = CHECKPOINT
) -> OpenedModel:
    """Open a model that others trained; nothing in its files is run.

    Args:
        path: a results folder of nnU-Net v2, ``TRAINER__PLANS__CONFIGURATION``, or a data set's folder with one.
        fold: one, such as 0 or ``"all"``, or several for an ensemble; None: every numbered fold that is there.
        checkpoint: the file's name in a fold's folder.

    Raises:
        ValueError: what cannot be opened, with the key or file, what is legal and what to do.
    """
    given = [fold] if isinstance(fold, int | str) else fold
    folds = None if given is None else [str(one) for one in given]
    opened = open_folder(Path(path), folds, checkpoint=checkpoint)
    return OpenedModel(opened.folder, opened.plan, opened.folds, opened.mirror_axes, opened.trainer)
