"""Depths, and what rests on late and early parts."""

import math

import polars as pl
import pytest
from tests.toys import slices_of, tiny_segmenter
from tests.unit.circuits.planted import TWO, two_paths
from tests.unit.circuits.test_graph import unet

from seglens.circuits.baseline import source_baseline
from seglens.circuits.depth import centre_of_depth, depth_bias, depths, node_effects
from seglens.circuits.edge_scores import SCHEMA, EdgeScores, exact_scores
from seglens.circuits.graph import graph_of
from seglens.circuits.targets import class_odds

IMAGE = slices_of(1).images()


def scores_of(edges):
    rows = [("p", *edge, "end", score, 1) for edge, score in edges.items()]
    return EdgeScores(pl.DataFrame(rows, schema=SCHEMA, orient="row"), 0, pl.DataFrame())


def test_depth_is_the_longest_path():
    deep = depths(graph_of(unet(), IMAGE))
    assert (deep["input"], deep["conv_0"], deep["down_4"], deep["upcat_1"]) == (0, 0.1, 0.5, 0.9)


def test_a_decoder_that_reads_late_stages_is_biased_to_them():
    graph = graph_of(tiny_segmenter(), IMAGE)
    worth = {(f"stage{number}", "head"): score for number, score in enumerate((0.1, -0.1, 0.3, 0.5), 1)}
    assert depth_bias(graph, scores_of(worth), "head") == pytest.approx(math.log(0.8 / 0.2))
    assert math.isnan(depth_bias(graph, scores_of(dict.fromkeys(worth, 0.0)), "head"))
    with pytest.raises(ValueError, match=r"reads 1 parts; .*stage1.*head"):
        depth_bias(graph, scores_of(worth), "stage2.embed")


def test_reliance_on_a_skip_is_that_of_the_shallower_half():
    graph = graph_of(unet(), IMAGE)
    worth = {("upcat_2", "upcat_1"): 0.1, ("conv_0", "upcat_1"): 0.4}
    assert depth_bias(graph, scores_of(worth), "upcat_1") == pytest.approx(math.log(0.25))


def test_a_part_is_worth_all_its_edges_at_once():
    slices = slices_of(3, labels=TWO)
    _, graph = two_paths()
    baseline = source_baseline(graph, slices)
    effects = node_effects(graph, baseline, slices, class_odds(1))
    mean = dict(effects.group_by("part").agg(pl.col("effect").mean()).rows())
    edges = exact_scores(graph, baseline, slices, class_odds(1)).mean()
    assert mean["a"] == pytest.approx(edges["a", "logits"], rel=1e-5)
    assert mean["input"] == pytest.approx(edges["a", "logits"] + edges["b", "logits"], rel=1e-4)  # .8 + .2, no more
    assert centre_of_depth(effects) == pytest.approx(0.25, abs=1e-3)  # half at 0, half at a depth of 1/2
