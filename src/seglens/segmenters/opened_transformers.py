"""A SegFormer's folder of Hugging Face transformers, opened: pictures in, masks on the pictures' own grid out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seglens.artifacts import hash_of
from seglens.cohorts.case import Case
from seglens.cohorts.case_reader import read_case
from seglens.cohorts.case_volume import CaseVolume
from seglens.cohorts.image2d import SUFFIXES, as_stored, oriented
from seglens.cohorts.label_names import BACKGROUND, FOREGROUND, spoken
from seglens.cohorts.network_volume import NetworkVolume
from seglens.cohorts.sequences import COLOURS
from seglens.cohorts.volumes import VolumeError
from seglens.documents import to_document
from seglens.foreign.tensors import WeightsError, read_weights
from seglens.foreign.transformers_config import WEIGHTS, PictureRule, SegformerPlan, module_names, read_segformer
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.architectures import architecture_named, build_network
from seglens.segmenters.opened import OpenedModel
from seglens.segmenters.segmenter import Segmenter, raw_logits
from seglens.segmenters.weights import fit_weights
from seglens.segmenters.windows import Placement, Precision, WindowPass, passing, refuse_infinite
from seglens.shapes import Extent

ARCHITECTURE = "segformer-b0"
"""The row whose settings every SegFormer is a choice of."""
USUAL_SIDE = 512
"""Of the pictures, where a folder does not resize them."""


@dataclass(frozen=True, eq=False)
class CasePicture(CaseVolume):
    """A colour picture as its file has it: ``values`` [3 1 H W], bytes as float32; millimetres mean nothing."""

    def in_file_order(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask [1 H W] as `OpenedModel.predict` gives it, [x y z]."""
        return mask.transpose(2, 1, 0)

    def axial(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask [1 H W] as the only slice of a `Stack` lies, for `write_mask`."""
        return oriented(mask[0].astype(np.float32), self.like.orientation)[None].astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ShownPicture:
    """A picture as the network is shown it; a `NetworkVolume` of one slice.

    Attributes:
        case: its id.
        values: [3 1 h w], resized and normalised.
        file_extent: one slice, rows and columns of the file.
    """

    case: str
    values: Float32[np.ndarray, "C d h w"]
    file_extent: Extent

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """1 along rows and columns: a picture has no millimetres."""
        return (1.0, 1.0)

    @property
    def extent(self) -> Extent:
        """One slice, rows and columns that the network is shown."""
        depth, rows, columns = self.values.shape[1:]
        return depth, rows, columns

    def crop_places(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where places [n 3] of the network's grid lie in the file's; centres of pixels are whole numbers."""
        return (places + 0.5) * (np.asarray(self.file_extent) / np.asarray(self.extent)) - 0.5

    def restored(self, head: Float[np.ndarray, "d h w"]) -> Float[np.ndarray, "D H W"]:
        """One output at the file's size: bilinear without aligned corners, as transformers' post-processing."""
        own = torch.from_numpy(np.ascontiguousarray(head))[None]
        return functional.interpolate(own, size=self.file_extent[1:], mode="bilinear", align_corners=False)[0].numpy()

    def on_file_grid(self, mask: UInt8[np.ndarray, "D H W"]) -> UInt8[np.ndarray, "D H W"]:
        """The mask itself: it was decided on the file's grid."""
        return mask


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenedTransformers(OpenedModel):
    """A semantic-segmentation model of transformers.

    Attributes:
        plan: what its folder says.
    """

    plan: SegformerPlan

    @property
    def codes(self) -> Mapping[int, int]:
        """Label to the value that is written for it: the number of the class, as its own post-processing gives."""
        return {label: label for label in self.labels}

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Empty: pictures have none."""
        return ()

    @property
    def precision(self) -> Precision:
        """Of its logits."""
        return "float32"

    @property
    def of_pictures(self) -> bool:
        """Whether it takes pictures, which have no place in space."""
        return True

    @cached_property
    def preparation(self) -> str:
        """Identity of colours, size and normalisation."""
        return hash_of({"channels": list(COLOURS), "picture": to_document(self.plan.picture)})

    def window(self, extent: Extent) -> Extent:
        """All of a picture."""
        return extent

    @cached_property
    def hash(self) -> str:
        """Identity of the network and of all that is done before and after it."""
        return hash_of({"network": self.segmenter.hash, "plan": to_document(self.plan)})

    def facts(self) -> dict[str, str]:
        """Description for people: a heading to a line."""
        rule = self.plan.picture
        size = "as they are" if rule.size is None else f"resized to {rule.size[0]} x {rule.size[1]}, bilinear"
        numbers = "; ".join(", ".join(f"{value:g}" for value in values) for values in (rule.mean, rule.std))
        facts = {
            "model": f"{self.folder.name} (transformers, SegFormer, 2-D, for colour pictures)",
            "prepared": f"{size}, times {rule.scale:.6g}, mean and std {numbers}",
        }
        if rule.reduced:
            facts["reduced"] = "class n is the value n + 1 of the masks that it was trained on; n is written"
        return facts

    def read(self, case: Case, *, with_mask: bool = False) -> CasePicture:
        """A case's picture as its file has it.

        Raises:
            VolumeError: a volume, intensities that are not bytes, or whatever is wrong with the file.
        """
        like = case.images[COLOURS[0]]
        if like.path.suffix.lower() not in SUFFIXES:
            raise VolumeError(
                like.path,
                "no_picture",
                "is a volume, the model takes colour pictures",
                "write the slices that you mean as pictures of the colours that it was trained on",
            )
        content = read_case(case, COLOURS, self.labels, with_mask=with_mask)
        planes = [as_stored(content.stacks[name].values[0], case.images[name].orientation) for name in COLOURS]
        values = np.stack(planes).astype(np.float32)[:, None]
        if values.min() < 0 or values.max() > 255 or (values != values.round()).any():
            raise VolumeError(
                like.path,
                "not_8_bit",
                f"has values up to {values.max():g}, the model takes bytes",
                "save 8-bit colours",
            )
        mask = None if content.mask is None else as_stored(content.mask[0], like.orientation)[None]
        return CasePicture(case, values, (1.0, 1.0, 1.0), np.eye(4), False, like, content.sha256, np.eye(4), mask)

    def prepare(self, volume: CaseVolume) -> ShownPicture:
        """A picture as the network is shown it.

        Raises:
            ValueError: a volume of several slices, or other channels.
        """
        channels, depth, rows, columns = volume.values.shape
        if (channels, depth) != (3, 1):
            raise ValueError(
                f"case {volume.case.id} has {channels} channels and {depth} slices; the model takes a picture of three "
                "colours; read it with OpenedTransformers.read"
            )
        shown = shown_picture(volume.values[:, 0].transpose(1, 2, 0).astype(np.uint8), self.plan.picture)
        return ShownPicture(volume.case.id, shown[:, None], (1, rows, columns))

    @torch.no_grad()
    def logits(
        self,
        prepared: NetworkVolume,
        *,
        mirror: bool = True,
        precision: Precision | None = None,
        progress: Progress = silent,
    ) -> Float[Tensor, "K d h w"]:
        """Logits as the network gives them, a quarter of the picture's rows and columns, on the CPU.

        Args:
            prepared: of this model.
            mirror: changes nothing: such models are not run turned round.
            precision: changes nothing: there is one window.
            progress: told when it has been run.

        Raises:
            ValueError: logits that are not finite.
        """
        whole = Placement(prepared.case, (0, 0, 0), prepared.extent, prepared.spacing_mm)
        images = torch.from_numpy(np.ascontiguousarray(prepared.values))[None].to(self.segmenter.device)
        with passing(WindowPass(whole, fold=next(iter(self.folds)))):
            logits = raw_logits(self.segmenter.network, images, 2)[0].float().cpu()
        refuse_infinite(logits, prepared.case, "float32")
        progress(1, 1)
        return logits


def shown_picture(pixels: UInt8[np.ndarray, "H W 3"], rule: PictureRule) -> Float32[np.ndarray, "3 h w"]:
    """A picture resized and normalised as transformers' processor does it, whose own numbers these are."""
    from PIL import Image

    if rule.size is not None and rule.size != pixels.shape[:2]:
        pixels = np.asarray(Image.fromarray(pixels).resize(rule.size[::-1], Image.Resampling.BILINEAR))
    scaled = (pixels.astype(np.float64) * rule.scale).astype(np.float32)
    normal = (scaled - np.asarray(rule.mean, np.float32)) / np.asarray(rule.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def open_transformers(folder: Path, *, checkpoint: str | None = None) -> OpenedTransformers:
    """Open a SegFormer's folder; nothing in it is run.

    Args:
        folder: with ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``.
        checkpoint: the file of weights in it; None: ``model.safetensors``.

    Raises:
        ValueError: a configuration that cannot be used, or weights that do not fit it.
    """
    plan = read_segformer(folder)
    path = folder / (checkpoint or WEIGHTS)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; save the weights beside {folder.name}'s config.json as {WEIGHTS}")
    weights = read_weights(path)
    row = architecture_named(ARCHITECTURE)
    description = row.describe(3, len(plan.classes), plan.settings)
    with torch.device("meta"):  # so that a configuration takes no memory before its weights have been seen to fit
        network = build_network(description)
    names = module_names(weights)
    real = {names[name]: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    fit_weights(network, real, str(path), assign=True)
    left = [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_meta]
    if left:
        raise WeightsError(f"{path}: it does not hold {', '.join(left[:5])}; save the whole model again")
    rows, columns = plan.picture.size or (USUAL_SIDE, USUAL_SIDE)
    segmenter = Segmenter(
        network.eval(),
        description,
        COLOURS,
        _labels(plan.classes),
        row.hookpoints(description["settings"]),
        (1, rows, columns),
        identity=hash_of(to_document(plan)),
    )
    return OpenedTransformers(folder, {"model": segmenter}, plan=plan)


def _labels(classes: tuple[str, ...]) -> dict[int, str]:
    """Names by number; those that two classes share, or that mean something else here, get their number."""
    often = Counter(spoken(name) for name in classes)
    kept = {number for number, name in enumerate(classes) if often[spoken(name)] == 1 and spoken(name) != FOREGROUND}
    kept -= {number for number, name in enumerate(classes) if number and spoken(name) == BACKGROUND}
    return {number: name if number in kept else f"{name}_{number}" for number, name in enumerate(classes)}
