from types import SimpleNamespace

import pytest
import torch
from torch import nn

from seglens.cohorts.slice_set import SliceSet
from seglens.segmenters.decision import most_likely
from seglens.segmenters.segmenter import Segmenter
from seglens.steering.adjustables import latents
from seglens.steering.fitted import Adjustable
from seglens.steering.interventions import CachedBatch, Intervention
from seglens.steering.style_transfer import style_of
from seglens.steering.test_time import (
    Unlabelled,
    adapt,
    adapted_intervention,
    augmentation_average,
    batch_statistics,
    entropy_loss,
    guarded,
    histogram_matching,
    matched_images,
    mean_probabilities,
    norm_affines,
    share_loss,
)

LABELS = {0: "background", 1: "core", 2: "edema"}


def wrapped(*modules):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *modules, nn.Conv2d(4, 3, 1))
    return Segmenter.wrap(network, sequences=("T1", "FLAIR"), labels=LABELS, hookpoints={"here": "0"}, size=16)


def nowhere(images):
    return torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)


def test_histogram_matching_maps_a_monotone_change_back(segmenter, evaluation):
    images = evaluation.images()
    changed = torch.where(images > 0, 2 * images, images) + 1
    target, source = style_of(changed, nowhere(changed)), style_of(images, nowhere(images))
    pairs = [(own, other) for (own, _), (other, _) in zip(target.quantiles, source.quantiles, strict=True)]
    assert torch.allclose(matched_images(changed, pairs), images, atol=0.05)
    intervention = histogram_matching(target, source)
    logits = intervention.logits(segmenter, changed)
    assert torch.allclose(logits, segmenter.logits(images), atol=0.05)
    assert not torch.allclose(segmenter.logits(changed), segmenter.logits(images), atol=0.1)


def test_what_lies_outside_the_brain_stays_zero():
    images = torch.zeros(1, 2, 1, 30, 30)
    images[..., 5:29, 5:29] = torch.randn(1, 2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    style = style_of(images + 3 * (images != 0), nowhere(images))
    pairs = [(own, other[0]) for own, other in zip((None, style.quantiles[1][0]), style.quantiles, strict=True)]
    matched = matched_images(images, pairs)
    assert torch.equal(matched == 0, images == 0)
    assert torch.equal(matched[:, 0], images[:, 0])


def test_an_average_of_a_symmetric_network_is_the_network():
    symmetric = Segmenter.wrap(nn.Conv2d(2, 3, 1), sequences=("T1", "FLAIR"), labels=LABELS, hookpoints={}, size=16)
    images = torch.randn(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        by_hand = torch.stack([symmetric.logits(images * gain).softmax(1) for gain in (0.9, 1.0, 1.1)]).mean(0)
    averaged = augmentation_average().logits(symmetric, images)
    assert torch.allclose(averaged.exp(), by_hand, atol=1e-6)


def test_batch_statistics_become_those_of_the_target(evaluation):
    segmenter = wrapped(nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in segmenter.network.state_dict().items()}
    intervention = batch_statistics(segmenter, evaluation, batch_size=len(evaluation))
    images = evaluation.images()
    segmenter.network.train()
    with torch.no_grad():
        by_hand = nn.functional.batch_norm(segmenter.network[0](images[:, :, 0]), None, None, training=True)
        by_hand = segmenter.network[2](by_hand)[:, :, None]
    segmenter.network.eval()
    assert torch.allclose(intervention.logits(segmenter, images), by_hand, atol=1e-2)
    assert intervention.n_parameters == 8
    after = segmenter.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_without_batch_norms_there_are_no_statistics(segmenter, evaluation):
    assert batch_statistics(segmenter, evaluation) is None
    with pytest.raises(ValueError, match="nothing to adapt"):
        norm_affines(segmenter)


def test_tent_lowers_the_entropy_and_leaves_the_network_alone(evaluation):
    segmenter = wrapped(nn.GroupNorm(2, 4), nn.ReLU())
    before = {name: value.clone() for name, value in segmenter.network.state_dict().items()}
    adjustable = norm_affines(segmenter)
    assert adjustable.n_parameters == 8
    unlabelled = Unlabelled(segmenter, evaluation, batch_size=8)
    entropies = []
    for steps in (0, 5, 30):
        values = adapt(adjustable, unlabelled, entropy_loss, learning_rate=0.02, steps=steps)
        logits = adapted_intervention(adjustable, values, "tent").logits(segmenter, evaluation.images())
        entropies.append(float(entropy_loss(logits, ~nowhere(logits))))
    untouched = segmenter.logits(evaluation.images()).detach()
    assert entropies[0] == pytest.approx(float(entropy_loss(untouched, ~nowhere(untouched))), rel=1e-5)
    assert entropies[0] > entropies[1] > entropies[2]
    after = segmenter.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in segmenter.network.parameters())


def test_the_term_for_shares_brings_the_mean_probabilities_back(segmenter, dictionary, evaluation):
    """One number, a bias on the logit of a class: entropy alone runs away, with the shares it finds the planted 0."""
    segmenter = wrapped()
    start = {"bias": torch.tensor(1.0)}

    def predict(batch, values):
        return torch.cat([batch.logits[:, :2], batch.logits[:, 2:] + values["bias"]], dim=1)

    adjustable = Adjustable("bias", start, predict, (0.1,))
    unlabelled = Unlabelled(segmenter, evaluation, batch_size=len(evaluation))
    untouched = unlabelled.batches[0].logits
    shares = mean_probabilities(untouched, ~nowhere(untouched))
    runs = {}
    for name, loss in (("alone", entropy_loss), ("shares", share_loss(shares, weight=100.0))):
        runs[name] = float(adapt(adjustable, unlabelled, loss, learning_rate=0.05, steps=80)["bias"])
    assert runs["alone"] > 2
    assert runs["shares"] == pytest.approx(0, abs=0.05)


def test_latents_are_adapted_by_the_same_loop_and_seeds_give_the_order(segmenter, dictionary, evaluation):
    adjustable = latents([dictionary])
    unlabelled = Unlabelled(segmenter, evaluation, batch_size=4)
    runs = [adapt(adjustable, unlabelled, entropy_loss, learning_rate=0.1, steps=3, seed=seed) for seed in (0, 0, 1)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_a_collapse_is_answered_with_the_untouched_network(segmenter, evaluation):
    unlabelled = Unlabelled(segmenter, evaluation)
    images = evaluation.images([0, 1, 2])

    def nothing(batch):
        return torch.cat([batch.logits[:, :1] + 100, batch.logits[:, 1:]], dim=1)

    def same(batch):
        return batch.logits * 2

    collapsed = guarded(Intervention("nothing", 1, "label_free", nothing), unlabelled)
    kept = guarded(Intervention("same", 1, "label_free", same), unlabelled)
    assert torch.equal(collapsed.logits(segmenter, images), segmenter.logits(images))
    assert torch.equal(kept.logits(segmenter, images), segmenter.logits(images) * 2)
    assert (collapsed.name, collapsed.n_parameters) == ("nothing", 1)


def test_masks_of_the_target_change_nothing(evaluation):
    segmenter = wrapped(nn.BatchNorm2d(4))
    garbage = torch.randint(0, 3, evaluation.masks().shape, generator=torch.Generator().manual_seed(1))
    other = SliceSet.from_tensors(
        evaluation.images(),
        garbage.to(torch.uint8),
        evaluation.brains(),
        evaluation.index.drop("row", "origin"),
        name="garbage",
        sequences=evaluation.sequences,
        labels=evaluation.labels,
    )
    adjustable = norm_affines(segmenter)
    batch = CachedBatch(segmenter, evaluation.images([0]))
    results = []
    for slices in (evaluation, other):
        values = adapt(adjustable, Unlabelled(segmenter, slices), entropy_loss, learning_rate=0.01, steps=3)
        statistics = batch_statistics(segmenter, slices)
        results.append(
            SimpleNamespace(
                tent=most_likely(adjustable.predict(batch, values)), statistics=statistics.predict(batch).detach()
            )
        )
    assert torch.equal(results[0].tent, results[1].tent)
    assert torch.equal(results[0].statistics, results[1].statistics)
