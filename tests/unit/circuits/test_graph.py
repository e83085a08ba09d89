"""A graph computes what its network does, and a cut edge reaches its one consumer and what follows it."""

import pytest
import torch
from tests.toys import LABELS, slices_of, tiny_segmenter
from tests.unit.circuits.planted import two_paths
from torch import nn

from seglens.circuits.graph import Graph, graph_of
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.network_node import INPUT, NetworkNode
from seglens.segmenters.segmenter import Segmenter

SLICES = slices_of(3)


def unet():
    return build_segmenter("unet", sequences=("T1",), labels=LABELS, size=32, settings={"features": (4, 4, 4, 4, 4, 4)})


def hookpoints_of(segmenter):
    """The same network, as one whose architecture is not known."""
    places = dict(segmenter.hookpoints)
    return Segmenter.wrap(segmenter.network, sequences=("T1",), labels=LABELS, hookpoints=places, size=32)


@pytest.mark.parametrize(("make", "n_edges"), [(tiny_segmenter, 4 * 6 + 3 + 4 + 1), (unet, 14)])
def test_it_gives_the_very_logits_of_the_network(make, n_edges):
    segmenter = make()
    graph = graph_of(segmenter, SLICES.images([0]))
    with torch.no_grad():
        values = graph.values(SLICES.images())
        assert torch.equal(graph.logits(values), segmenter.logits(SLICES.images()))
    assert len(graph.edges) == len(set(graph.edges)) == n_edges


def test_a_b0_has_68_edges():
    segmenter = build_segmenter("segformer-b0", sequences=("T1",), labels=LABELS, size=32)
    assert len(graph_of(segmenter, SLICES.images([0])).edges) == 68


@pytest.mark.parametrize("make", [tiny_segmenter, unet])
def test_hookpoints_make_a_graph_of_any_network(make):
    segmenter = hookpoints_of(make())
    graph = graph_of(segmenter, SLICES.images([0]))
    with torch.no_grad():
        values = graph.values(SLICES.images())
        assert torch.equal(graph.logits(values), segmenter.logits(SLICES.images()))
    if make is unet:  # levels are all that a U-Net has: the two graphs are one
        own = graph_of(make(), SLICES.images([0]))
        baseline = {name: value.mean(0, keepdim=True) for name, value in own.values(SLICES.images()).items()}
        names = dict(zip(["input", *segmenter.hookpoints, "logits"], [INPUT, *own.stages], strict=True))
        assert {(names[one], names[other]) for one, other in graph.edges} == set(own.edges)
        theirs = {name: baseline[names[name]].unsqueeze(2) if name != INPUT else baseline[INPUT] for name in names}
        for edge in graph.edges:
            cut = own.ablated(own.values(SLICES.images()), [tuple(map(names.get, edge))], baseline)
            torch.testing.assert_close(graph.ablated(values, [edge], theirs), cut)


def test_hookpoints_are_ordered_as_a_pass_reaches_them():
    segmenter = tiny_segmenter()
    places = dict(reversed(segmenter.hookpoints.items()))
    wrapped = Segmenter.wrap(segmenter.network, sequences=("T1",), labels=LABELS, hookpoints=places, size=32)
    assert [node.name for node in graph_of(wrapped, SLICES.images([0])).nodes][:4] == list(segmenter.hookpoints)


def test_a_path_that_goes_nowhere_is_no_edge():
    segmenter, _ = two_paths()
    assert graph_of(segmenter, SLICES.images([0])).edges == (
        *((INPUT, name) for name in "abc"),
        *(("a", "logits"), ("b", "logits")),
    )


def test_only_the_skip_of_a_joined_input_is_cut():
    segmenter = unet()
    graph = graph_of(segmenter, SLICES.images([0]))
    network = segmenter.network
    with torch.no_grad():
        values = graph.values(SLICES.images())
        cut = graph.ablated(values, [("conv_0", "upcat_1")], {"conv_0": torch.full((1, 4, 1, 1), 0.3)})
        skip = torch.full_like(values["conv_0"], 0.3)
        by_hand = network.final_conv(network.upcat_1(values["upcat_2"], skip))
    assert torch.equal(cut[:, :, 0], by_hand)


def test_cutting_a_residual_leaves_it_to_other_consumers():
    segmenter = tiny_segmenter()
    graph = graph_of(segmenter, SLICES.images([0]))
    stage = segmenter.network.segformer.stages[3]
    with torch.no_grad():
        values = graph.values(SLICES.images())
        embed, attention, mlp = (values[f"stage4.{part}"] for part in ("embed", "attention1", "mlp1"))
        cut = graph.ablated(values, [("stage4.attention1", "stage4")], {"stage4.attention1": torch.zeros(1, 32, 1, 1)})
        norm = stage.layer_norm((embed + mlp).flatten(2).mT).mT.reshape(mlp.shape)
        stages = [values[f"stage{number}"] for number in (1, 2, 3)]
        by_hand = segmenter.network.decode_head([*stages, norm])
        assert not torch.equal(attention, torch.zeros_like(attention))
    torch.testing.assert_close(cut[:, :, 0], nn.functional.interpolate(by_hand, 32, mode="bilinear"))


def test_parts_must_read_what_runs_before_them():
    segmenter, _ = two_paths()
    with pytest.raises(ValueError, match="'early' reads late"):
        Graph(segmenter, (NetworkNode("early", "x", (("late",),), nn.Identity()),))


def test_a_network_without_hookpoints_has_no_graph():
    bare = Segmenter.wrap(nn.Conv2d(1, 3, 1), sequences=["T1"], labels=LABELS, hookpoints={}, size=32)
    with pytest.raises(ValueError, match="no hookpoints"):
        graph_of(bare, SLICES.images([0]))
