"""A segmentation network together with what it expects, what its classes mean and where it can be opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from seglens.artifacts import Artifact, Draft, hash_of, hash_tensors, new_artifact, read_artifact
from seglens.cohorts.foreground import AUTO, RULES
from seglens.cohorts.label_names import refuse_labels
from seglens.cohorts.preprocessing import Preprocessing
from seglens.runtime.suggestions import did_you_mean
from seglens.segmenters.decision import CLASSES, Decision
from seglens.segmenters.weights import fit_weights
from seglens.shapes import Extent, Images, Logits, Masks, extent_of, full_extent, plane_of

KIND = "segmenter"
Layout = Literal["BCHW", "BHWC", "BNC", "BCDHW", "BDHWC"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(frozen=True)
class Hookpoint:
    """A place inside a network whose output is read as tokens.

    Attributes:
        module: dotted path of the module inside the network, such as ``"segformer.stages.2"``.
        layout: axes of its output: ``B`` batch, ``C`` channels, ``H W`` or ``D H W`` the grid, ``N`` a grid slice by
            slice and row by row.
        item: which element holds the activation, where the module returns a tuple or list.
        grid: of ``BNC``: slices, rows and columns; None: one slice, as many rows as columns.
    """

    module: str
    layout: Layout = "BCHW"
    item: int | None = None
    grid: Extent | None = None


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network from samples (slices, or volumes) to class logits.

    Samples, logits and tokens have three axes of space whatever the network: `raw_logits` is the one door at which a
    two-dimensional network is shown a plane.

    Attributes:
        network: any module from images ``[B C H W]``, or ``[B C D H W]`` where it is three-dimensional, to logits of
            the same axes, which may be coarser (tensor, or object with ``.logits``).
        architecture: what :func:`~seglens.segmenters.architectures.build_network` rebuilds it from; None when wrapped.
        sequences: the MR sequences that it expects, in channel order.
        labels: label value to class name; values 0..K-1, the channels of its logits.
        hookpoints: name to place.
        size: of what it was made for: the side of square slices (pixels) of a two-dimensional network, or one slice,
            rows and columns; slices, rows and columns of a three-dimensional one.
        preprocessing: how what it was trained on was made of files, and how files are prepared for it; None: not known.
        decision: from its logits to labels.
        identity: of all else that decides what the network is shown and says, such as a hash of the plans of a model of
            others; it is part of the hash. "" for none.
    """

    network: nn.Module
    architecture: Mapping[str, Any] | None
    sequences: tuple[str, ...]
    labels: Mapping[int, str]
    hookpoints: Mapping[str, Hookpoint]
    size: int | Extent
    preprocessing: Preprocessing | None = None
    decision: Decision = CLASSES
    identity: str = ""

    def __post_init__(self) -> None:
        if sorted(self.labels) != list(range(len(self.labels))) or len(self.labels) < 2:
            raise ValueError(
                f"labels {dict(self.labels)} must be numbered 0 (background), 1, 2, ... without a gap; "
                "map the values in the files to such labels when the cohort is read"
            )
        refuse_labels("the segmenter", self.labels)
        if not self.sequences:
            raise ValueError("sequences is empty; name the sequence of each channel, such as ('T1c', 'FLAIR')")
        own = self.preprocessing
        if own is not None and (own.sequences, own.size) != (self.sequences, self.size):
            raise ValueError(
                f"preprocessing has the sequences {own.sequences} and the size {own.size}, the segmenter "
                f"{self.sequences} and {self.size}; give both the same"
            )
        if own is not None and own.foreground == AUTO:
            raise ValueError(
                f"preprocessing says foreground {AUTO}, which is settled when slices are prepared; name the rule that "
                f"the network was trained with: {', '.join(RULES)}"
            )
        for name, hookpoint in self.hookpoints.items():
            if self.spatial_dims == 3 and hookpoint.layout == "BNC" and hookpoint.grid is None:
                raise ValueError(
                    f"hookpoint {name!r}: how many slices, rows and columns the tokens of a volume are cannot be seen "
                    "in BNC; declare them with Hookpoint(grid=(slices, rows, columns))"
                )
            try:
                self.network.get_submodule(hookpoint.module)
            except AttributeError:
                paths = [path for path, _ in self.network.named_modules() if path]
                near = ", ".join(get_close_matches(hookpoint.module, paths, n=5, cutoff=0.3)) or ", ".join(paths[:5])
                raise ValueError(
                    f"hookpoint {name!r}: the network has no module {hookpoint.module!r}; near it are {near}"
                ) from None

    @cached_property
    def hash(self) -> str:
        """Identity (sha256) of weights, architecture and ``identity``, computed once: do not train it after that."""
        own = {"weights": hash_tensors(self.network.state_dict()), "architecture": self.architecture}
        return hash_of(own | ({"identity": self.identity} if self.identity else {}))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def regions(self) -> bool:
        """Whether its logits are of the labels from 1 on, each a region of its own."""
        return self.decision.regions

    @property
    def n_classes(self) -> int:
        """Number of classes K, background included."""
        return len(self.labels)

    @property
    def spatial_dims(self) -> Literal[2, 3]:
        """2 for a network that sees planes, 3 for one that sees volumes."""
        return 2 if self.extent[0] == 1 else 3

    @property
    def channels_first(self) -> Layout:
        """The layout of most modules' outputs."""
        return "BCHW" if self.spatial_dims == 2 else "BCDHW"

    @property
    def extent(self) -> Extent:
        """Slices, rows and columns of the samples that it was made for."""
        return (1, self.size, self.size) if isinstance(self.size, int) else self.size

    def to(self, device: str | torch.device) -> "Segmenter":
        """Move the network (in place) and return the segmenter."""
        self.network.to(device)
        return self

    def logits(self, images: Images) -> Logits:
        """Class logits at image size; gradients flow.

        Args:
            images: normalised samples ``[B C D H W]`` on the network's device, channels in the order of ``sequences``.

        Returns:
            ``[B K D H W]``; smaller network output is resized linearly (``align_corners=False``).

        Raises:
            ValueError: other channels than ``sequences``, other logits than ``labels``, or volumes for a
                two-dimensional network.
        """
        if images.shape[1] != len(self.sequences):
            raise ValueError(
                f"images have {images.shape[1]} channels; this segmenter expects {len(self.sequences)}: "
                f"{', '.join(self.sequences)}"
            )
        logits = self.decision.ordered(raw_logits(self.network, images, self.spatial_dims))
        n_named = self.n_classes - self.regions
        if logits.shape[1] != n_named:
            raise ValueError(
                f"the network gives {logits.shape[1]} {'regions' if self.regions else 'classes'}, labels name "
                f"{n_named}; give one label for each channel of its output"
            )
        return resized(logits, extent_of(images))

    def predict(self, images: Images) -> Masks:
        """The label of each pixel ``[B D H W]``, without gradients: the most likely, or the last region that holds."""
        with torch.no_grad():
            return self.decision.labels(self.logits(images))

    def place(self, hookpoint: str) -> Hookpoint:
        """The :class:`Hookpoint` of that name.

        Raises:
            ValueError: no such hookpoint; the message gives the nearest names.
        """
        if hookpoint not in self.hookpoints:
            raise ValueError(
                f"no hookpoint {hookpoint!r}; {did_you_mean(hookpoint, self.hookpoints)}this segmenter has "
                f"{', '.join(self.hookpoints) or 'none'}"
            )
        return self.hookpoints[hookpoint]

    def module_at(self, hookpoint: str) -> nn.Module:
        """The module whose output is the activation at ``hookpoint``.

        Raises:
            ValueError: no such hookpoint; the message gives the nearest names.
        """
        return self.network.get_submodule(self.place(hookpoint).module)

    def check_data(
        self,
        name: str,
        sequences: Sequence[str],
        labels: Mapping[int, str] | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        regions: bool = False,
    ) -> None:
        """Refuse slices that this network was not made for, before the first batch.

        Args:
            name: what the data is called in the message.
            sequences: the data's channels.
            labels: the data's labels; None where the masks are not used.
            preprocessing: how the data was made of files; None where that is not known.
            regions: the caller knows models of regions.

        Raises:
            ValueError: other sequences, another order of them, other labels, or slices prepared otherwise than those
                that the network was trained on.
        """
        faults = []
        if tuple(sequences) != self.sequences:
            faults.append(f"its sequences are {', '.join(sequences)}, the segmenter's {', '.join(self.sequences)}")
        if labels is not None and dict(labels) != dict(self.labels):
            faults.append(f"its labels are {dict(labels)}, the segmenter's {dict(self.labels)}")
        if self.regions and not regions:
            faults.append("the segmenter says regions, which overlap, and this analysis is of classes only")
        fix = "Prepare them with the same names and order"
        if not faults and self.preprocessing is not None and preprocessing is not None:
            faults = self.preprocessing.differences(preprocessing)
            fix = "Prepare them as the network's training slices were: prepare_slices(cohort, segmenter.preprocessing)"
        if faults:
            raise ValueError(f"slices {name!r} do not fit: {'; '.join(faults)}. {fix}")

    @classmethod
    def wrap(
        cls,
        network: nn.Module,
        *,
        sequences: Sequence[str],
        labels: Mapping[int, str],
        hookpoints: Mapping[str, Hookpoint | str],
        size: int | Extent,
        preprocessing: Preprocessing | None = None,
    ) -> "Segmenter":
        """Use any network; it is put into evaluation mode.

        Args:
            network: images ``[B C H W]``, or ``[B C D H W]`` of a three-dimensional one, to logits of the same axes,
                a tensor or an object with ``.logits``.
            sequences: its channels.
            labels: label value (0..K-1) to class name.
            hookpoints: name to place; a bare string is a module path with channels first (``BCHW`` or ``BCDHW``).
            size: side of the slices (pixels) of a two-dimensional network; slices, rows and columns of the samples of a
                three-dimensional one.
            preprocessing: how what it was trained on was made of files, of the same sequences and size, with a named
                foreground rule; None: not known, and `predict_cohort` refuses it.

        Raises:
            ValueError: labels with gaps, no sequences, a hookpoint that is not in the network, or a preprocessing that
                does not fit.
        """
        first: Layout = "BCHW" if isinstance(size, int) or size[0] == 1 else "BCDHW"
        places = {
            name: Hookpoint(place, first) if isinstance(place, str) else place for name, place in hookpoints.items()
        }
        return cls(network.eval(), None, tuple(sequences), dict(labels), places, size, preprocessing)

    def write(self, draft: Draft) -> None:
        """Write ``model.safetensors`` and ``segmenter.json``."""
        # clones: safetensors refuses tensors that share memory, such as tied weights
        draft.save_tensors("model", {name: value.clone() for name, value in self.network.state_dict().items()})
        draft.save_document(
            "segmenter",
            {
                "architecture": None if self.architecture is None else dict(self.architecture),
                "sequences": list(self.sequences),
                "labels": {str(value): name for value, name in self.labels.items()},
                "hookpoints": [
                    {"name": name, "module": place.module, "layout": place.layout, "item": place.item}
                    | ({"grid": place.grid} if place.grid else {})
                    for name, place in self.hookpoints.items()
                ],
                "size": self.size,
                "preprocessing": self.preprocessing and self.preprocessing.to_json(),
            }
            | ({"regions": True} if self.regions else {})
            | ({"order": list(self.decision.order)} if self.decision.order else {})
            | ({"members": [list(own) for own in self.decision.members]} if self.decision.members else {})
            | ({"identity": self.identity} if self.identity else {}),
        )

    @classmethod
    def read(cls, artifact: Artifact, network: nn.Module | None = None) -> "Segmenter":
        """Rebuild what :meth:`write` wrote, in evaluation mode on the CPU.

        Args:
            artifact: the opened folder.
            network: for a wrapped segmenter: a module of the same architecture; its weights are replaced.

        Raises:
            ValueError: a wrapped segmenter without ``network``, or weights that do not fit.
        """
        document = artifact.document("segmenter")
        if network is None:
            if document["architecture"] is None:
                raise ValueError(
                    f"{artifact.path} holds the weights of a wrapped network; give network=, a module of its kind"
                )
            from seglens.segmenters.architectures import build_network

            network = build_network(document["architecture"])
        fit_weights(network, artifact.tensors("model"), str(artifact.path))
        return cls(
            network.eval(),
            document["architecture"],
            tuple(document["sequences"]),
            {int(value): name for value, name in document["labels"].items()},
            {
                place["name"]: Hookpoint(
                    place["module"],
                    place["layout"],
                    place["item"],
                    full_extent(place["grid"]) if "grid" in place else None,
                )
                for place in document["hookpoints"]
            },
            size if isinstance(size := document["size"], int) else full_extent(size),
            Preprocessing.from_json(document["preprocessing"]),
            Decision(
                document.get("regions", False),
                tuple(document.get("order", ())),
                tuple(tuple(own) for own in document.get("members", ())),
            ),
            document.get("identity", ""),
        )

    def save(self, path: Path) -> Path:
        """Write an artifact of kind ``"segmenter"`` at ``path``, which must not exist."""
        with new_artifact(path, kind=KIND, inputs={"segmenter": self.hash}) as draft:
            self.write(draft)
        return path

    @classmethod
    def load(cls, path: Path, network: nn.Module | None = None) -> "Segmenter":
        """Read what :meth:`save` wrote; ``network`` as in :meth:`read`."""
        return cls.read(read_artifact(path, KIND), network)


def stored_architecture(path: Path) -> Mapping[str, Any]:
    """Architecture of a segmenter that `Segmenter.write` wrote: ``name`` and ``settings``; no weights are read.

    Raises:
        ValueError: no such artifact, or one of a wrapped network, which only its own module can rebuild.
    """
    architecture: Mapping[str, Any] | None = read_artifact(path, KIND).document("segmenter")["architecture"]
    if architecture is None:
        raise ValueError(f"{path} holds the weights of a wrapped network, whose module is not in it; open it in Python")
    return architecture


def raw_logits(network: nn.Module, images: Images, spatial_dims: int) -> Float[Tensor, "B K d h w"]:
    """The network's own output, whether it returns a tensor, several (the first is it) or an object with ``.logits``.

    This is where a two-dimensional network loses the axis of depth, and its output gets it back.

    Raises:
        ValueError: volumes for a two-dimensional network.
    """
    output = network(plane_of(images) if spatial_dims == 2 else images)
    if isinstance(output, list | tuple) and not hasattr(output, "logits"):
        output = output[0]
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits.unsqueeze(2) if spatial_dims == 2 else logits


def resized(logits: Float[Tensor, "B K d h w"], size: Extent) -> Logits:
    """Logits at ``size``, by linear interpolation, ``align_corners=False``; unchanged where they have it."""
    if extent_of(logits) == size:
        return logits
    if logits.shape[2] == size[0] == 1:  # in the plane alone, with the kernel for planes
        planes = functional.interpolate(plane_of(logits), size=size[1:], mode="bilinear", align_corners=False)
        return planes.unsqueeze(2)
    return functional.interpolate(logits, size=size, mode="trilinear", align_corners=False)
