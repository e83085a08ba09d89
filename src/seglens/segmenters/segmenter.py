"""A segmentation network together with what it expects, what its classes mean and where it can be opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from seglens.artifacts import Artifact, Draft, hash_of, hash_tensors, new_artifact, read_artifact
from seglens.cohorts.foreground import AUTO, RULES
from seglens.cohorts.label_names import refuse_labels
from seglens.cohorts.preprocessing import Preprocessing
from seglens.foreign.tensors import refuse_non_finite
from seglens.runtime.suggestions import did_you_mean
from seglens.shapes import Images, Logits, Masks

KIND = "segmenter"


@dataclass(frozen=True)
class Hookpoint:
    """A place inside a network whose output is read as tokens.

    Attributes:
        module: dotted path of the module inside the network, such as ``"segformer.stages.2"``.
        layout: axes of its output: ``B`` batch, ``C`` channels, ``H W`` the grid, ``N`` a square grid row by row.
        item: which element holds the activation, where the module returns a tuple or list.
    """

    module: str
    layout: Literal["BCHW", "BHWC", "BNC"] = "BCHW"
    item: int | None = None


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A network from slices to class logits.

    Attributes:
        network: any module from images ``[B C H W]`` to logits ``[B K h w]`` (tensor, or object with ``.logits``).
        architecture: what :func:`~seglens.segmenters.architectures.build_network` rebuilds it from; None when wrapped.
        sequences: the MR sequences that it expects, in channel order.
        labels: label value to class name; values 0..K-1, the channels of its logits.
        hookpoints: name to place.
        size: side of the square slices that it was made for, pixels.
        preprocessing: how what it was trained on was made of files, and how files are prepared for it; None: not known.
    """

    network: nn.Module
    architecture: Mapping[str, Any] | None
    sequences: tuple[str, ...]
    labels: Mapping[int, str]
    hookpoints: Mapping[str, Hookpoint]
    size: int
    preprocessing: Preprocessing | None = None

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
        """Identity (sha256) of weights and architecture, computed once: do not train the network after that."""
        return hash_of({"weights": hash_tensors(self.network.state_dict()), "architecture": self.architecture})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def n_classes(self) -> int:
        """Number of classes K, background included."""
        return len(self.labels)

    def to(self, device: str | torch.device) -> "Segmenter":
        """Move the network (in place) and return the segmenter."""
        self.network.to(device)
        return self

    def logits(self, images: Images) -> Logits:
        """Class logits at image size; gradients flow.

        Args:
            images: normalised slices ``[B C H W]`` on the network's device, channels in the order of ``sequences``.

        Returns:
            ``[B K H W]``; smaller network output is resized bilinearly (``align_corners=False``).

        Raises:
            ValueError: other channels than ``sequences``, or other logits than ``labels``.
        """
        if images.shape[1] != len(self.sequences):
            raise ValueError(
                f"images have {images.shape[1]} channels; this segmenter expects {len(self.sequences)}: "
                f"{', '.join(self.sequences)}"
            )
        logits = raw_logits(self.network, images)
        if logits.shape[1] != self.n_classes:
            raise ValueError(
                f"the network gives {logits.shape[1]} classes, labels name {self.n_classes}; "
                "give one label for each channel of its output"
            )
        return resized(logits, (images.shape[2], images.shape[3]))

    def predict(self, images: Images) -> Masks:
        """The most likely label of each pixel ``[B H W]``, without gradients."""
        with torch.no_grad():
            return most_likely(self.logits(images))

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
    ) -> None:
        """Refuse slices that this network was not made for, before the first batch.

        Args:
            name: what the data is called in the message.
            sequences: the data's channels.
            labels: the data's labels; None where the masks are not used.
            preprocessing: how the data was made of files; None where that is not known.

        Raises:
            ValueError: other sequences, another order of them, other labels, or slices prepared otherwise than those
                that the network was trained on.
        """
        faults = []
        if tuple(sequences) != self.sequences:
            faults.append(f"its sequences are {', '.join(sequences)}, the segmenter's {', '.join(self.sequences)}")
        if labels is not None and dict(labels) != dict(self.labels):
            faults.append(f"its labels are {dict(labels)}, the segmenter's {dict(self.labels)}")
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
        size: int,
        preprocessing: Preprocessing | None = None,
    ) -> "Segmenter":
        """Use any network; it is put into evaluation mode.

        Args:
            network: images ``[B C H W]`` to logits ``[B K h w]``, a tensor or an object with ``.logits``.
            sequences: its channels.
            labels: label value (0..K-1) to class name.
            hookpoints: name to place; a bare string is a module path with output ``BCHW``.
            size: side of the slices, pixels.
            preprocessing: how what it was trained on was made of files, of the same sequences and size, with a named
                foreground rule; None: not known, and `predict_cohort` refuses it.

        Raises:
            ValueError: labels with gaps, no sequences, a hookpoint that is not in the network, or a preprocessing that
                does not fit.
        """
        places = {name: Hookpoint(place) if isinstance(place, str) else place for name, place in hookpoints.items()}
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
                    for name, place in self.hookpoints.items()
                ],
                "size": self.size,
                "preprocessing": self.preprocessing and self.preprocessing.to_json(),
            },
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
                place["name"]: Hookpoint(place["module"], place["layout"], place["item"])
                for place in document["hookpoints"]
            },
            document["size"],
            Preprocessing.from_json(document["preprocessing"]),
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


def most_likely(logits: Logits) -> Masks:
    """The class with the largest logit, the first of equal ones: what the network itself says ``[B H W]``."""
    # torch's argmax over a dimension that is not the last takes seven times as long on a CPU
    return logits.max(dim=1).indices.to(torch.uint8)


def raw_logits(network: nn.Module, images: Images) -> Tensor:
    """The network's own output ``[B K h w]``, whether it returns a tensor or an object with ``.logits``."""
    output = network(images)
    return output if isinstance(output, Tensor) else output.logits


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits at ``size`` (rows, columns), bilinear, ``align_corners=False``; unchanged where they have it."""
    if tuple(logits.shape[2:]) == size:
        return logits
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def fit_weights(network: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load ``weights`` into ``network``, or say everything that does not fit.

    Raises:
        ValueError: missing or unknown names, other shapes, or values that are not finite.
    """
    own = network.state_dict()
    faults = [f"{name} is missing" for name in own if name not in weights]
    faults += [f"{name} is unknown" for name in weights if name not in own]
    faults += [
        f"{name} is {tuple(weights[name].shape)}, the network needs {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ValueError(f"{origin}: these weights are not of this network: {shown}")
    refuse_non_finite(weights, origin)
    network.load_state_dict(dict(weights))
