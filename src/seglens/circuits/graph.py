"""A segmenter as a graph that can be run: parts, what each reads of which others, and runs with some edges cut.

An edge is ablated (cut) by giving one consumer a fixed baseline in the place of one producer's output; every other
consumer of that producer sees it as it is. Only the consumer and what follows it is computed again.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain

import torch
from einops import rearrange
from torch import Tensor

from seglens.activations.hooks import activations, edit
from seglens.segmenters.architectures import architecture_named
from seglens.segmenters.network_node import INPUT, NetworkNode
from seglens.segmenters.segmenter import Segmenter, raw_logits, resized
from seglens.shapes import Images, Logits, TokenGrid, extent_of, flat, with_depth

Edge = tuple[str, str]
"""Producer and consumer."""
Values = Mapping[str, Tensor]
"""Output of each part for a batch, channels at axis 1; those of `INPUT` are the images."""


@dataclass(frozen=True, eq=False)
class Graph:
    """The parts of a segmenter in the order in which they run.

    Attributes:
        segmenter: that it is of.
        nodes: its parts; the last gives its logits.

    Raises:
        ValueError: a part reads one that does not run before it.
    """

    segmenter: Segmenter
    nodes: tuple[NetworkNode, ...]

    def __post_init__(self) -> None:
        known = {INPUT}
        for node in self.nodes:
            unknown = sorted(set(chain(*node.slots)) - known)
            if unknown or node.name in known:
                raise ValueError(
                    f"part {node.name!r} reads {', '.join(unknown) or 'others'}; a part has a name of its own and "
                    f"reads parts before it: {', '.join(sorted(known))}"
                )
            known.add(node.name)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, consumers in the order in which they run."""
        return tuple((producer, node.name) for node in self.nodes for producer in dict.fromkeys(chain(*node.slots)))

    @cached_property
    def stages(self) -> Mapping[str, str]:
        """Stage of each part."""
        return {node.name: node.stage for node in self.nodes}

    @cached_property
    def producers(self) -> tuple[str, ...]:
        """Parts that others read, the images first."""
        return tuple(dict.fromkeys(producer for producer, _ in self.edges))

    def node(self, name: str) -> NetworkNode:
        """The part of that name."""
        return next(node for node in self.nodes if node.name == name)

    def into(self, consumer: str) -> tuple[Edge, ...]:
        """The edges that end in a part."""
        return tuple(edge for edge in self.edges if edge[1] == consumer)

    def out_of(self, producer: str) -> tuple[Edge, ...]:
        """The edges that begin in a part."""
        return tuple(edge for edge in self.edges if edge[0] == producer)

    def values(self, images: Images) -> dict[str, Tensor]:
        """Output of every part for a batch ``[B C D H W]``."""
        values = {INPUT: flat(images) if self.segmenter.spatial_dims == 2 else images}
        return self._run(values, self.nodes)

    def logits(self, values: Values) -> Logits:
        """Class logits at image size, from the last part's output."""
        segmenter = self.segmenter
        axes = 5
        own = segmenter.decision.ordered(with_depth(values[self.nodes[-1].name], axes))
        return resized(own, extent_of(with_depth(values[INPUT], axes)))

    def ablated(self, values: Values, edges: Collection[Edge], baseline: Values) -> Logits:
        """Logits of a batch with some edges cut; the parts behind them see what follows from that.

        Args:
            values: of the batch, uncut.
            edges: which.
            baseline: what each producer's output is replaced by, ``[1 c ...]``.
        """
        chosen = frozenset(edges)
        return self.logits(self._run(values, self.behind({consumer for _, consumer in chosen}), chosen, baseline))

    def slots(
        self, node: NetworkNode, values: Values, ablated: Collection[Edge] = (), baseline: Values | None = None
    ) -> list[Tensor]:
        """Tensors that a part reads, one a slot, with some edges cut."""

        def read(producer: str) -> Tensor:
            if baseline is not None and (producer, node.name) in ablated:
                return baseline[producer].expand_as(values[producer])
            return values[producer]

        return [_added([read(producer) for producer in slot]) for slot in node.slots]

    def behind(self, names: Collection[str]) -> list[NetworkNode]:
        """These parts and all that depend on them, in the order in which they run."""
        reached = set(names)
        for node in self.nodes:
            if not reached.isdisjoint(chain(*node.slots)):
                reached.add(node.name)
        return [node for node in self.nodes if node.name in reached]

    def after(self, name: str, output: Tensor, values: Values) -> Logits:
        """Logits of a batch with the output of one part replaced, for all that read it; gradients flow."""
        changed = {**values, name: output}
        return self.logits(self._run(changed, [node for node in self.behind({name}) if node.name != name]))

    def _run(
        self,
        values: Values,
        nodes: Sequence[NetworkNode],
        ablated: Collection[Edge] = (),
        baseline: Values | None = None,
    ) -> dict[str, Tensor]:
        values = dict(values)
        for node in nodes:
            values[node.name] = node.run(*self.slots(node, values, ablated, baseline))
        return values


def _added(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def graph_of(segmenter: Segmenter, images: Images) -> Graph:
    """The graph of a segmenter: the parts of its architecture, or its hookpoints where those are not known.

    Args:
        segmenter: in evaluation mode.
        images: one sample ``[1 C D H W]`` or more, of the size of those that the graph is used on.

    Raises:
        ValueError: a segmenter without hookpoints, of which no parts are known.
    """
    name = segmenter.architecture and segmenter.architecture["name"]
    parts = architecture_named(name).nodes if name else None
    return Graph(segmenter, parts(segmenter.network)) if parts else _of_hookpoints(segmenter, images[:1])


@torch.no_grad()
def _of_hookpoints(segmenter: Segmenter, images: Images) -> Graph:
    """A graph whose parts are hookpoints, then the logits.

    A part reads another where a path from that to it avoids all other parts: it notices when that alone is shaken.
    """
    if not segmenter.hookpoints:
        raise ValueError("this segmenter has no hookpoints, and no parts of its architecture are known; declare some")
    names = [INPUT, *_in_order(segmenter, images)]
    head = "logits"
    given = {INPUT: images if segmenter.spatial_dims == 3 else flat(images)}
    for name in names[1:]:
        given[name] = rearrange(activations(segmenter, name, images), "B d h w c -> B c d h w")
    nodes = []
    for place, name in enumerate([*names[1:], head], 1):
        before = names[:place]
        run = partial(_between, segmenter, name if name != head else None, images.shape[1:])
        whole = run(before, *(given[each] for each in before))
        read = []
        for each in before:
            others = given | {each: _shaken(given[each])}
            if not torch.equal(whole, run(before, *(others[other] for other in before))):
                read.append(each)
        if read:  # else its output is a constant
            nodes.append(NetworkNode(name, name, tuple((each,) for each in read), partial(run, read)))
    return Graph(segmenter, tuple(nodes))


def _in_order(segmenter: Segmenter, images: Images) -> list[str]:
    """Hookpoints as a pass reaches them."""
    order: list[str] = []

    def reached(name: str, tokens: TokenGrid) -> TokenGrid:
        order.append(name)
        return tokens

    with ExitStack() as edits:
        for name in segmenter.hookpoints:
            edits.enter_context(edit(segmenter, name, partial(reached, name)))
        segmenter.logits(images)
    return list(dict.fromkeys(order))


def _between(
    segmenter: Segmenter, name: str | None, sample: torch.Size, read: Sequence[str], *outputs: Tensor
) -> Tensor:
    """Output at a hookpoint (the logits for None) where other hookpoints give these outputs."""
    images = outputs[0].new_zeros(len(outputs[0]), *sample)
    with ExitStack() as edits:
        for each, output in zip(read, outputs, strict=True):
            if each == INPUT:
                images = with_depth(output, 5)
            else:
                edits.enter_context(edit(segmenter, each, partial(_put, output)))
        if name is None:
            return raw_logits(segmenter.network, images, segmenter.spatial_dims)
        return rearrange(activations(segmenter, name, images), "B d h w c -> B c d h w")


def _put(output: Tensor, _tokens: TokenGrid) -> TokenGrid:
    return rearrange(output, "B c d h w -> B d h w c")


def _shaken(output: Tensor) -> Tensor:
    noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    return output + (output.std() + 1) * noise
