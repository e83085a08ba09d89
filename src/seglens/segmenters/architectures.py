"""The networks that can be built by name, one row each: SegFormer B0 to B5, U-Net, and those of installed packages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from seglens.entry_points import with_installed
from seglens.runtime.suggestions import did_you_mean
from seglens.segmenters.network_node import NetworkNode
from seglens.segmenters.pretrained import encoder_weights
from seglens.segmenters.segmenter import Hookpoint, Segmenter
from seglens.segmenters.weights import fit_weights
from seglens.shapes import Extent, full_extent

ENTRY_POINTS = "seglens.architectures"


@dataclass(frozen=True)
class Architecture:
    """A kind of network, built from a description that is saved with the weights.

    Attributes:
        name: as it stands in study files, such as ``"unet"``.
        build: from numbers of sequences and classes and the settings to a module with weights of the global generator;
            images ``[B C H W]`` (``[B C D H W]`` where ``spatial_dims`` is 3) to logits of the same axes, a tensor or
            an object with ``.logits``.
        hookpoints: from the settings to name and place, in the order in which a forward pass reaches them.
        defaults: settings and their values; JSON-able.
        optional: names of further settings, which ``build`` has its own defaults for.
        required: names of settings without a default, which stand in the files of a model of others; one that has such
            is opened (``model: PATH``) and not trained.
        multiple_of: sides of the samples in pixels: multiples of it.
        pretrained: takes over the encoder that a name stands for (a folder, or ``owner/model@commit``) into a module
            that ``build`` made; None where there is none to be had.
        spatial_dims: 2 for slices, 3 for volumes.
        encoder: name of the module that may be trained at a rate of its own; None: there is none.
        nodes: from a module that ``build`` made to its parts, in the order in which they run, as circuits weigh them;
            None: its hookpoints are its parts.
    """

    name: str
    build: Callable[[int, int, Mapping[str, Any]], nn.Module]
    hookpoints: Callable[[Mapping[str, Any]], dict[str, Hookpoint]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    multiple_of: int = 1
    pretrained: Callable[[nn.Module, str], None] | None = None
    spatial_dims: int = 2
    encoder: str | None = None
    nodes: Callable[[nn.Module], tuple[NetworkNode, ...]] | None = None

    def describe(self, n_sequences: int, n_classes: int, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All that `build_network` needs, JSON-able.

        Raises:
            ValueError: unknown setting, or none of those that have no default.
        """
        given = dict(settings or {})
        legal = tuple(dict.fromkeys((*self.defaults, *self.optional, *self.required)))
        unknown = sorted(set(given) - set(legal))
        if unknown:
            raise ValueError(
                f"{self.name} has no settings {', '.join(unknown)}; it has {', '.join(legal) or 'none that can be set'}"
            )
        absent = [name for name in self.required if name not in given]
        if absent:
            raise ValueError(
                f"{self.name} needs {', '.join(absent)}, which a trained model's own files say: open one by model: "
                "PATH in a study, or open_model(PATH); it is not trained here"
            )
        chosen = {
            name: list(value) if isinstance(value, list | tuple) else value
            for name, value in {**self.defaults, **given}.items()
        }
        return {"name": self.name, "n_sequences": n_sequences, "n_classes": n_classes, "settings": chosen}


def _segformer(n_sequences: int, n_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    from seglens.segmenters.segformer import segformer

    return segformer(n_sequences, n_classes, settings)


def _unet(n_sequences: int, n_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    from seglens.segmenters.unet import unet

    return unet(n_sequences, n_classes, settings)


def _segformer_nodes(network: nn.Module) -> tuple[NetworkNode, ...]:
    from seglens.segmenters.segformer import segformer_nodes

    return segformer_nodes(network)


def _unet_nodes(network: nn.Module) -> tuple[NetworkNode, ...]:
    from seglens.segmenters.unet import unet_nodes

    return unet_nodes(network)


def _nnunet(n_sequences: int, _n_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    from seglens.segmenters.nnunet_network import NnunetNetwork, plan_of

    return NnunetNetwork(plan_of(settings["plan"]), n_sequences, settings["n_heads"])


def _nnunet_places(settings: Mapping[str, Any]) -> dict[str, Hookpoint]:
    from seglens.segmenters.nnunet_network import hookpoints_of, plan_of

    return hookpoints_of(plan_of(settings["plan"]))


def _monai(_n_sequences: int, _n_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    from seglens.segmenters.bundle_networks import monai_network

    return monai_network(settings["network"], settings["arguments"])


def _monai_places(settings: Mapping[str, Any]) -> dict[str, Hookpoint]:
    from seglens.segmenters.bundle_networks import monai_places

    return monai_places(settings["network"], settings["arguments"], settings["window"])


def _own(_n_sequences: int, _n_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    return build_network(settings["network"])


def _own_places(settings: Mapping[str, Any]) -> dict[str, Hookpoint]:
    grid = {
        name: full_extent(place["grid"]) if "grid" in place else None for name, place in settings["hookpoints"].items()
    }
    return {name: Hookpoint(**{**place, "grid": grid[name]}) for name, place in settings["hookpoints"].items()}


def _stages(settings: Mapping[str, Any]) -> dict[str, Hookpoint]:
    return {f"stage{n + 1}": Hookpoint(f"segformer.stages.{n}") for n in range(len(settings["hidden_sizes"]))}


def _levels(_settings: Mapping[str, Any]) -> dict[str, Hookpoint]:
    encoder = {"encoder0": Hookpoint("conv_0")} | {f"encoder{n}": Hookpoint(f"down_{n}") for n in range(1, 5)}
    return encoder | {f"decoder{n}": Hookpoint(f"upcat_{n}") for n in range(4, 0, -1)}


def _take_over_encoder(network: nn.Module, name: str) -> None:
    foreign = encoder_weights(name)
    first = "stages.0.patch_embeddings.proj.weight"
    encoder = network.get_submodule("segformer")
    own = encoder.state_dict()
    if first in foreign:
        # the mean over the photograph's colours, shared by the sequences, keeps the size of what comes out
        n_colours, n_sequences = foreign[first].shape[1], own[first].shape[1]
        mean = foreign[first].mean(1, keepdim=True)
        foreign[first] = (mean * (n_colours / n_sequences)).expand(-1, n_sequences, -1, -1).clone()
    fit_weights(encoder, foreign, name)


_SEGFORMER_OPTIONS = ("num_attention_heads", "sr_ratios", "mlp_ratios", "drop_path_rate", "classifier_dropout_prob")
_segformer_row = partial(
    Architecture,
    build=_segformer,
    hookpoints=_stages,
    optional=_SEGFORMER_OPTIONS,
    multiple_of=32,
    pretrained=_take_over_encoder,
    encoder="segformer",
    nodes=_segformer_nodes,
)
# (widths of the stages, layers of the stages, width of the decoder): table 6 of the SegFormer paper (arXiv 2105.15203)
_WIDE = (64, 128, 320, 512)
_SEGFORMERS = (
    ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    (_WIDE, (2, 2, 2, 2), 256),
    (_WIDE, (3, 4, 6, 3), 768),
    (_WIDE, (3, 4, 18, 3), 768),
    (_WIDE, (3, 8, 27, 3), 768),
    (_WIDE, (3, 6, 40, 3), 768),
)
ROWS = (
    *(
        _segformer_row(
            f"segformer-b{number}",
            defaults={"hidden_sizes": widths, "depths": layers, "decoder_hidden_size": decoder},
        )
        for number, (widths, layers, decoder) in enumerate(_SEGFORMERS)
    ),
    Architecture(
        "unet",
        build=_unet,
        hookpoints=_levels,
        defaults={"features": (16, 16, 32, 64, 128, 16), "dropout": 0.0},
        multiple_of=16,
        nodes=_unet_nodes,
    ),
    Architecture("nnunet", build=_nnunet, hookpoints=_nnunet_places, required=("plan", "n_heads")),
    Architecture("monai", build=_monai, hookpoints=_monai_places, required=("network", "arguments", "window")),
    Architecture("own", build=_own, hookpoints=_own_places, required=("network", "hookpoints", "window")),
)


def architectures() -> Mapping[str, Architecture]:
    """Every architecture by name: the rows above, then those that installed packages add.

    A package adds rows by entry points of the group ``seglens.architectures``, each an `Architecture`.

    Raises:
        ValueError: an entry point that cannot be loaded, is no `Architecture`, or has the name of another row.
    """
    return MappingProxyType(with_installed(ENTRY_POINTS, ROWS, Architecture))


def architecture_named(name: str) -> Architecture:
    """The row of that name.

    Raises:
        ValueError: there is none; the message gives the nearest name, and all there are.
    """
    rows = architectures()
    if name not in rows:
        raise ValueError(f"no architecture {name!r}; {did_you_mean(name, rows)}there are {', '.join(rows)}")
    return rows[name]


def build_segmenter(
    architecture: str = "segformer-b0",
    *,
    sequences: Sequence[str],
    labels: Mapping[int, str],
    size: int | Extent,
    seed: int = 0,
    pretrained: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Segmenter:
    """A segmenter with random weights (or a pretrained encoder), in evaluation mode.

    Args:
        architecture: name of a row of `architectures`: ``"segformer-b0"`` to ``"segformer-b5"`` (arXiv 2105.15203),
            ``"unet"`` (MONAI's BasicUNet), or one that an installed package adds.
        sequences: names of the input channels.
        labels: label value (0..K-1) to class name.
        size: side of the slices, pixels: a multiple of 32 for SegFormer, of 16 for U-Net. For a three-dimensional
            architecture slices, rows and columns of the samples.
        seed: of the random weights; the global generator is left alone.
        pretrained: a local folder of a SegFormer, or a model of the hub and its commit, ``"nvidia/mit-b0@<commit>"``,
            which is downloaded where the hub's cache does not have it. Its encoder is taken over; the first convolution
            is spread over the sequences, and the head stays random.
        settings: parts of the architecture to change. SegFormer: hidden_sizes, depths, decoder_hidden_size,
            num_attention_heads, sr_ratios, mlp_ratios, drop_path_rate, classifier_dropout_prob. U-Net: features (six
            widths), dropout.

    Raises:
        ValueError: unknown architecture or setting, a size that the network cannot take, or pretrained weights that
            cannot be had.

    Example:
        >>> segmenter = build_segmenter(
        ...     "segformer-b0", sequences=("T1c",), labels={0: "background", 1: "tumour"}, size=128
        ... )
        >>> list(segmenter.hookpoints)
        ['stage1', 'stage2', 'stage3', 'stage4']
    """
    row = architecture_named(architecture)
    description = row.describe(len(sequences), len(labels), settings)
    sides = (size,) if isinstance(size, int) else size
    if (len(sides) == 1) != (row.spatial_dims == 2):
        wanted = "the side of its slices" if row.spatial_dims == 2 else "(slices, rows, columns) of its samples"
        raise ValueError(f"size {size}: {architecture} has {row.spatial_dims} axes of space; give {wanted}")
    if any(side < row.multiple_of or side % row.multiple_of for side in sides):
        raise ValueError(f"size {size}: {architecture} needs a multiple of {row.multiple_of}, such as 128 or 256")
    network = _drawn(description, seed)
    if pretrained is not None:
        if row.pretrained is None:
            able = ", ".join(name for name, other in architectures().items() if other.pretrained)
            raise ValueError(f"there are no pretrained weights for {architecture}; leave that out, or take {able}")
        row.pretrained(network, pretrained)
    hookpoints = row.hookpoints(description["settings"])
    return Segmenter(network.eval(), description, tuple(sequences), dict(labels), hookpoints, size)


def with_random_weights(segmenter: Segmenter, seed: int) -> Segmenter:
    """The same network as if it had never been trained, in evaluation mode on the CPU.

    Args:
        segmenter: of an architecture that can be built.
        seed: of the weights; the global generator is left alone.

    Raises:
        ValueError: a wrapped network, which only its own module can build.
    """
    if segmenter.architecture is None:
        raise ValueError("this network was wrapped, so it cannot be built anew; wrap one with random weights yourself")
    return replace(segmenter, network=_drawn(segmenter.architecture, seed).eval())


def _drawn(description: Mapping[str, Any], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_network(description)


def build_network(description: Mapping[str, Any]) -> nn.Module:
    """The module of a description of `Architecture.describe`; its weights come from the global generator.

    Raises:
        ValueError: its architecture is unknown here.
    """
    row = architecture_named(description["name"])
    return row.build(description["n_sequences"], description["n_classes"], description["settings"])


def start_from(target: Segmenter, source: Segmenter) -> list[str]:
    """Copy every tensor of ``source`` whose name and shape fit into ``target``'s network.

    Returns:
        The names of ``target``'s tensors that did not fit and keep their own (random) values; with other classes
        the last layer.

    Raises:
        ValueError: nothing fits: another architecture.
    """
    own, foreign = target.network.state_dict(), source.network.state_dict()
    fitting = {name: foreign[name] for name in own if name in foreign and foreign[name].shape == own[name].shape}
    if not fitting:
        raise ValueError("init_from has no tensor that fits this architecture; train the same architecture on both")
    target.network.load_state_dict({**own, **{name: value.to(own[name].device) for name, value in fitting.items()}})
    return [name for name in own if name not in fitting]
