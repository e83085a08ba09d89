"""Scores of edges: planted weights are found, an absent path is exactly 0, gradients agree with cuts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.toys import LABELS, slices_of, tiny_segmenter
from tests.unit.circuits.planted import TWO, marked_slices, shortcut, two_paths
from tests.unit.circuits.test_graph import unet

from seglens.circuits.baseline import source_baseline
from seglens.circuits.edge_scores import MAX_RESIDUAL, MAX_STEPS, distances, exact_scores, integrated_scores
from seglens.circuits.graph import graph_of
from seglens.circuits.reliability import rank_correlation
from seglens.circuits.targets import class_odds, labelled_dice, self_dice
from seglens.segmenters.scoring import evaluate

SLICES = slices_of(2)


def lesions():
    """Noise of two labels, for the planted networks."""
    return slices_of(4, labels=TWO)


@pytest.mark.parametrize("score", [exact_scores, integrated_scores])
def test_two_paths_are_found_as_they_were_written(score):
    _, graph = two_paths()
    baseline = source_baseline(graph, lesions())
    found = score(graph, baseline, lesions(), class_odds(1)).mean()
    assert found["a", "logits"] / found["b", "logits"] == pytest.approx(4.0, rel=0.05)
    assert found["c", "logits"] == 0.0
    assert found["input", "a"] == pytest.approx(found["a", "logits"], rel=1e-5)  # a chain carries all it gets


def test_an_exact_score_is_that_of_a_pass_by_hand():
    segmenter, graph = two_paths()
    slices = lesions()
    baseline = source_baseline(graph, slices)
    images = slices.images()
    where = segmenter.logits(images)[:, 1] > segmenter.logits(images)[:, 0]
    lost = 0.2 * (images - images.mean(0))[:, 0]
    by_hand = [float(lost[row][where[row]].mean()) for row in range(len(slices))]
    scores = exact_scores(graph, baseline, slices, class_odds(1), batch_size=3)
    column = scores.edges.index(("b", "logits"))
    np.testing.assert_allclose(scores.matrix()[:, column], by_hand, rtol=1e-4)


@pytest.mark.parametrize("make", [tiny_segmenter, unet])
def test_gradients_rank_edges_as_cuts_do_and_a_skip_without_weights_is_worth_nothing(make):
    segmenter = make()
    if make is unet:
        with torch.no_grad():  # the skip's half of what the last level joins
            segmenter.network.upcat_1.convs.conv_0.conv.weight[:, :4] = 0
    graph = graph_of(segmenter, SLICES.images([0]))
    baseline = source_baseline(graph, SLICES)
    exact = exact_scores(graph, baseline, SLICES, self_dice)
    gradients = integrated_scores(graph, baseline, SLICES, self_dice)
    assert rank_correlation(exact, gradients) >= 0.9
    assert gradients.cuts["consumer"].to_list() == [node.name for node in graph.nodes]
    if make is unet:
        assert exact.mean()["conv_0", "upcat_1"] == gradients.mean()["conv_0", "upcat_1"] == 0.0
        assert abs(exact.mean()["upcat_2", "upcat_1"]) > 1e-3


def test_few_steps_are_doubled_until_the_scores_into_a_part_add_up():
    segmenter = unet()
    graph = graph_of(segmenter, SLICES.images([0]))
    found = integrated_scores(graph, source_baseline(graph, SLICES), SLICES, self_dice, steps=1)
    assert set(found.cuts["steps"]) > {1}
    for cut in found.cuts.rows(named=True):
        assert cut["residual"] < MAX_RESIDUAL or 2 * cut["steps"] > MAX_STEPS
        added = sum(score for (_, consumer), score in found.mean().items() if consumer == cut["consumer"])
        assert added == pytest.approx(cut["effect"], rel=0.2, abs=1e-4)
    with pytest.raises(ValueError, match="steps 0"):
        integrated_scores(graph, source_baseline(graph, SLICES), SLICES, self_dice, steps=0)


def test_a_shortcut_is_found_and_its_cut_restores_dice():
    source, target = marked_slices(8, 1.0), marked_slices(8, 0.5)
    segmenter = shortcut()
    assert evaluate(segmenter, source).dice("foreground").value == 1.0
    assert evaluate(segmenter, target).dice("foreground").value < 0.6
    graph = graph_of(segmenter, source.images([0]))
    baseline = source_baseline(graph, source)
    worth = exact_scores(graph, baseline, target, labelled_dice).mean()
    assert set(sorted(worth, key=worth.get)[:2]) == {("input", "mark"), ("mark", "logits")}  # a chain of two edges
    assert worth["mark", "logits"] < -0.1
    assert exact_scores(graph, baseline, source, labelled_dice).mean()["mark", "logits"] > 0
    cut = graph.ablated(graph.values(target.images()), [("mark", "logits")], baseline.values)
    assert torch.equal(segmenter.decision.labels(cut), target.masks())


def test_a_network_that_leans_more_on_a_shortcut_scores_more_on_it():
    source = marked_slices(4, 1.0)
    worth = []
    for weight in (0.1, 0.5, 1.5, 3.0):
        graph = graph_of(shortcut(weight), source.images([0]))
        scores = exact_scores(graph, source_baseline(graph, source), source, self_dice)
        worth.append(scores.mean()["mark", "logits"])
    assert worth == sorted(worth) and worth[0] < 0.02 and worth[-1] > 0.1


def test_slices_without_a_target_are_left_out_and_counted():
    _, graph = two_paths()
    slices = lesions()
    images = slices.images().clone()
    images[0] = -1.0  # nothing is predicted there
    empty = type(slices).from_tensors(
        images[:, :, 0],
        slices.masks()[:, 0],
        slices.brains()[:, 0],
        slices.index.select("case", "position"),
        name="empty",
        sequences=["T1"],
        labels=slices.labels,
    )
    found = exact_scores(graph, source_baseline(graph, slices), empty, self_dice)
    assert found.left_out == 1 and found.patients == ["case1", "case2", "case3"]
    gradients = integrated_scores(graph, source_baseline(graph, slices), empty, self_dice)
    assert gradients.left_out == 1 and np.isfinite(gradients.matrix()).all()
    with pytest.raises(ValueError, match="not defined on any of the 1 slices"):
        exact_scores(graph, source_baseline(graph, slices), empty.select([0]), self_dice)


def test_a_cohort_without_masks_has_a_circuit_but_for_labelled_targets():
    _, graph = two_paths()
    bare = replace(lesions(), labelled=False)
    baseline = source_baseline(graph, bare)
    assert exact_scores(graph, baseline, bare, self_dice).patients == ["case0", "case1", "case2", "case3"]
    with pytest.raises(ValueError, match="without masks"):
        exact_scores(graph, baseline, bare, labelled_dice)


def test_slices_of_a_patient_are_one_row():
    segmenter, noise = tiny_segmenter(), slices_of(3)
    index = noise.index.select("case", "position")
    slices = type(noise).from_tensors(
        noise.images()[:, :, 0],
        noise.masks()[:, 0],
        noise.brains()[:, 0],
        index.with_columns(patient=np.array(["p", "q", "p"])),
        name="two",
        sequences=["T1"],
        labels=LABELS,
    )
    graph = graph_of(segmenter, slices.images([0]))
    baseline = source_baseline(graph, noise)
    found = exact_scores(graph, baseline, slices, self_dice)
    each = exact_scores(graph, baseline, noise, self_dice).matrix()
    assert found.patients == ["p", "q"] and found.table["slices"][0] == 2
    np.testing.assert_allclose(found.matrix(), [each[[0, 2]].mean(0), each[1]], atol=1e-7)
    assert found.of_patients(["q"]).ranking()[0] == found.edges[np.abs(each[1]).argmax()]


def test_distance_is_that_of_the_producer():
    _, graph = two_paths()
    slices = lesions()
    found = distances(graph, source_baseline(graph, slices), slices).mean()
    images = slices.images()
    wanted = (images - images.mean(0)).flatten(1).norm(dim=1).mean()
    assert found["a", "logits"] == found["c", "logits"] == pytest.approx(float(wanted), rel=1e-5)
