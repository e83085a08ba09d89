"""The mean of the source, by position and by channel."""

import pytest
import torch
from tests.toys import slices_of, tiny_segmenter

from seglens.circuits.baseline import source_baseline
from seglens.circuits.graph import graph_of


def test_it_is_the_mean_over_slices_and_then_over_positions():
    slices, segmenter = slices_of(5), tiny_segmenter()
    graph = graph_of(segmenter, slices.images([0]))
    with torch.no_grad():
        values = graph.values(slices.images())
    position = source_baseline(graph, slices, batch_size=2)
    channel = source_baseline(graph, slices, over="channel")
    assert set(position.values) == set(graph.producers) and position.slices == slices.hash
    for name in graph.producers:
        mean = values[name].mean(0, keepdim=True)
        torch.testing.assert_close(position.values[name], mean)
        torch.testing.assert_close(channel.values[name], mean.mean((2, 3), keepdim=True))


def test_other_sequences_are_refused():
    graph = graph_of(tiny_segmenter(), slices_of(1).images([0]))
    with pytest.raises(ValueError, match="T2"):
        source_baseline(graph, slices_of(2, sequences=("T2",)))
