from copy import deepcopy
from dataclasses import replace

import polars as pl
import pytest
import torch
from torch import nn

from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.loss import dice_cross_entropy
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Segmenter
from seglens.steering import adjustables, fitted
from seglens.steering.fitted import (
    InterventionFitSettings,
    Labelled,
    choose_settings,
    class_weights,
    fit,
    fitted_intervention,
)
from seglens.steering.interventions import CachedBatch, evaluate_interventions
from seglens.steering.sweep import UNEDITED

PLANTED = 3


def foreground(scores, edit):
    return scores.summary(edit).dice_pooled["foreground"]


def everything(segmenter, dictionary, slices):
    one = slices.images([0])
    return [
        adjustables.latents([dictionary]),
        adjustables.channels(Lens(segmenter, dictionary)),
        adjustables.logits(segmenter),
        adjustables.layer(segmenter, one),
        adjustables.channels_and_layer(Lens(segmenter, dictionary), one),
        adjustables.suffix(segmenter, "here", one),
    ]


def test_nothing_changes_at_the_start(segmenter, dictionary, selection):
    batch = CachedBatch(segmenter, selection.images([0, 1, 2]))
    for adjustable in everything(segmenter, dictionary, selection):
        assert torch.equal(adjustable.predict(batch, adjustable.start), batch.logits), adjustable.name


def test_as_many_numbers_as_they_say(segmenter, dictionary, selection):
    head = sum(value.numel() for value in segmenter.network.head.parameters())
    counts = {one.name: one.n_parameters for one in everything(segmenter, dictionary, selection)}
    assert counts == {
        "latents": 2 * 24,
        "channel_affine": 2 * 8,
        "logit_affine": 2 * 3,
        "last_layer": head,
        "channels_and_layer": 2 * 8 + head,
        "whole_suffix": head,  # behind the stem there is nothing but the head
    }


def test_channels_and_the_layer_act_one_after_the_other(segmenter, dictionary, selection):
    batch, generator = CachedBatch(segmenter, selection.images([0, 1, 2])), torch.Generator().manual_seed(0)
    both = adjustables.channels_and_layer(Lens(segmenter, dictionary), batch.images[:1])
    values = {name: start + 0.1 * torch.randn(start.shape, generator=generator) for name, start in both.start.items()}
    stem = segmenter.network.stem(batch.images[:, :, 0]).permute(0, 2, 3, 1)
    step = adjustables.CHANNEL_STEP
    moved = stem * (1 + step * values["scale"]) + step * values["offset"] / dictionary.scale
    head = torch.func.functional_call(
        segmenter.network.head,
        {"weight": values["head.weight"], "bias": values["head.bias"]},
        (moved.permute(0, 3, 1, 2),),
    )
    expected = torch.nn.functional.interpolate(head, size=batch.images.shape[-2:], mode="bilinear")[:, :, None]
    torch.testing.assert_close(both.predict(batch, values), expected, rtol=1e-4, atol=1e-5)


def test_where_no_latent_fires_there_is_nothing_to_fit_and_nothing_breaks(segmenter, dictionary, selection):
    quiet = replace_theta(dictionary, 1e6)
    labelled = Labelled(segmenter, selection, batch_size=16)
    values = fit(adjustables.latents([quiet]), labelled.batches(), InterventionFitSettings(learning_rate=0.3, steps=2))
    assert all(not value.any() for value in values.values())


def replace_theta(dictionary, theta):
    """The same dictionary with another threshold."""
    other = deepcopy(dictionary)
    other.theta.fill_(theta)
    return other


def test_latents_fitted_on_some_patients_fix_others(segmenter, dictionary, selection, evaluation):
    # the masks are those of the planted latent three times as strong
    labelled = Labelled(segmenter, selection, batch_size=16)
    adjustable = adjustables.latents([dictionary], [[1, PLANTED, 5]], offsets=False)
    values = fit(adjustable, labelled.batches(), InterventionFitSettings(learning_rate=0.3, steps=15))
    assert values["here scale"][1] > 1.0
    scores = evaluate_interventions([adjustable.intervention(values)], segmenter, evaluation)
    assert foreground(scores, "latents") > foreground(scores, UNEDITED) + 0.02


def test_a_planted_scale_is_recovered(segmenter, dictionary, selection):
    # the loss is of its own kind: squared distance from the logits that a scale of 1 + 0.7 gives
    labelled = Labelled(segmenter, selection, batch_size=16)
    adjustable = adjustables.latents([dictionary], [[1, PLANTED, 5]])
    wanted = {name: torch.tensor([0.0, 0.7, 0.0]) for name in adjustable.start}
    values = {name: value.clone().requires_grad_() for name, value in adjustable.start.items()}
    batch, _ = labelled.batches()[0]
    aim = adjustable.predict(batch, wanted).detach()
    optimiser = torch.optim.LBFGS(values.values(), max_iter=30, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = (adjustable.predict(batch, values) - aim).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    for name, value in values.items():
        torch.testing.assert_close(value.detach(), wanted[name], atol=0.02, rtol=0)


def test_a_penalty_keeps_what_does_nothing_at_its_start(segmenter, dictionary, selection):
    labelled = Labelled(segmenter, selection)
    adjustable = adjustables.latents([dictionary])
    free, bound = (
        fit(adjustable, labelled.batches(), InterventionFitSettings(learning_rate=0.1, steps=40, penalty=penalty))
        for penalty in (0.0, 3e-2)
    )
    far = [sum(value.abs().sum() for value in values.values()) for values in (free, bound)]
    assert far[1] < 0.5 * far[0]


def test_a_gate_leaves_tokens_where_it_does_not_fire(segmenter, dictionary, selection):
    batch = CachedBatch(segmenter, selection.images([0, 1]))
    gated = adjustables.latents([dictionary], gate=5)
    values = {name: torch.full_like(value, 0.7) for name, value in gated.start.items()}
    untouched = batch.activation("here")
    codes = dictionary.encode(untouched.flatten(0, 3)).to_dense()
    changed = []
    head = segmenter.network.head
    handle = head.register_forward_pre_hook(lambda _, inputs: changed.append(inputs[0].permute(0, 2, 3, 1)[:, None]))
    try:
        gated.predict(batch, values)
    finally:
        handle.remove()
    moved = (changed[-1] != untouched).any(dim=-1).flatten()
    assert moved.any()
    assert not moved[codes[:, 5] == 0].any()


def test_the_network_and_its_gradients_are_left_alone(segmenter, dictionary, selection):
    before = {name: value.clone() for name, value in segmenter.network.state_dict().items()}
    asked = [parameter.requires_grad for parameter in segmenter.network.parameters()]
    labelled = Labelled(segmenter, selection)
    for adjustable in everything(segmenter, dictionary, selection):
        fit(adjustable, labelled.batches(), InterventionFitSettings(learning_rate=0.1, steps=3))
    assert all(torch.equal(before[name], value) for name, value in segmenter.network.state_dict().items())
    assert [parameter.requires_grad for parameter in segmenter.network.parameters()] == asked
    assert all(parameter.grad is None for parameter in segmenter.network.parameters())


def test_the_last_layer_is_fitted_as_plain_training_would(segmenter, selection):
    labelled = Labelled(segmenter, selection, batch_size=16)
    adjustable = adjustables.layer(segmenter, selection.images([0]))
    settings = InterventionFitSettings(learning_rate=0.01, steps=1)
    batches = labelled.batches([0])
    values = fit(adjustable, batches, settings)
    (batch, masks), head = batches[0], segmenter.network.head
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    dice_cross_entropy(segmenter.logits(batch.images), masks).backward()
    optimiser.step()
    torch.testing.assert_close(values["head.weight"], head.weight.detach())


def test_same_seed_same_numbers(segmenter, dictionary, selection):
    labelled = Labelled(segmenter, selection, batch_size=4)
    adjustable = adjustables.latents([dictionary])
    one, again, other = (
        fit(adjustable, labelled.batches(), InterventionFitSettings(steps=5), seed=seed)["here scale"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_settings_are_chosen_by_the_inner_split(segmenter, dictionary, selection):
    labelled = Labelled(segmenter, selection)
    adjustable = replace(adjustables.latents([dictionary]), learning_rates=(1e-6, 0.3), penalties=(0.0, 100.0))
    choice = choose_settings(adjustable, labelled, steps=20)
    assert (choice.settings.learning_rate, choice.settings.penalty) == (0.3, 0.0)
    assert choice.helps
    # two rates, another loss, another penalty, and the untouched network
    assert choice.tried.height == 5
    assert choice.tried["objective"].max() == choice.tried["objective"][1:].max()


def test_where_nothing_helps_the_network_stays_as_it_is(segmenter, dictionary, selection):
    right = SliceSet.from_tensors(
        selection.images(), segmenter.predict(selection.images()), selection.brains(), selection.index,
        name="right", sequences=selection.sequences, labels=selection.labels,
    )  # fmt: skip
    labelled = Labelled(segmenter, right)
    adjustable = adjustables.latents([dictionary])
    choice = choose_settings(adjustable, labelled, steps=3)
    assert not choice.helps
    intervention = fitted_intervention(adjustable, labelled, choice)
    scores = evaluate_interventions([intervention], segmenter, selection)
    assert foreground(scores, "latents") == foreground(evaluate(segmenter, selection), "none")


def test_folds_never_share_a_patient(segmenter, selection):
    labelled = Labelled(segmenter, selection, batch_size=3)
    folds = [
        {selection.index["patient"][row] for row in range(len(selection)) if any(
            torch.equal(selection.images([row])[0], image) for batch, _ in fold for image in batch.images
        )}
        for fold in labelled.folds
    ]  # fmt: skip
    assert sum(map(len, folds)) == len(set().union(*folds)) == 4
    assert sum(len(masks) for _, masks in labelled.batches()) == len(selection)


def test_one_patient_is_split_by_slice(segmenter, selection):
    one = selection.select([0, 1, 2, 3])
    labelled = Labelled(segmenter, one)
    assert labelled.patients == [one.index["patient"][0]]
    assert [sum(len(masks) for _, masks in fold) for fold in labelled.folds] == [2, 1, 1]
    with pytest.raises(ValueError, match="at least 2"):
        Labelled(segmenter, selection.select([0]))


def test_class_weights_average_to_one():
    masks = torch.zeros(2, 10, 10, dtype=torch.uint8)
    masks[0, :2] = 1
    weights = class_weights([masks[:1], masks[1:]], 3)
    assert weights[2] == 0
    assert (180 * weights[0] + 20 * weights[1]) / 200 == pytest.approx(1.0)
    assert weights[1] / weights[0] == pytest.approx(3.0)


def test_a_loss_that_is_no_number_is_said(segmenter, selection):
    labelled = Labelled(segmenter, selection)
    plain = adjustables.logits(segmenter)
    broken = replace(plain, predict=lambda batch, values: plain.predict(batch, values) * torch.nan)
    with pytest.raises(ValueError, match=r"logit_affine: the loss is nan at step 0; take a learning rate below 0\.1"):
        fit(broken, labelled.batches(), InterventionFitSettings())


class Deeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.Tanh())
        self.middle = nn.Sequential(nn.Conv2d(8, 5, 3, padding=1), nn.Tanh())
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, images):
        return self.head(self.middle(self.stem(images)))


def test_latents_of_two_depths_act_together(dictionary, selection):
    torch.manual_seed(0)
    labels = dict(selection.labels)
    plain = Segmenter.wrap(Deeper(), sequences=selection.sequences, labels=labels, hookpoints={"here": "stem"}, size=16)
    opened = adjustables.with_last_hidden(plain, selection.images([0]))
    assert opened.hash == plain.hash
    deep = SparseAutoencoder(5, 6, k=2, seed=1, hookpoint="last_hidden", segmenter_hash=plain.hash)
    batch = CachedBatch(opened, selection.images([0, 1]))
    both = adjustables.latents([dictionary, deep])
    assert both.n_parameters == 2 * (24 + 6)
    assert torch.equal(both.predict(batch, both.start), batch.logits)
    moved = {name: torch.full_like(value, 0.3) for name, value in both.start.items()}
    first = {name: value if name.startswith("here") else torch.zeros_like(value) for name, value in moved.items()}
    alone = adjustables.latents([dictionary])
    torch.testing.assert_close(
        both.predict(batch, first), alone.predict(batch, {name: moved[name] for name in alone.start})
    )
    assert not torch.allclose(both.predict(batch, moved), both.predict(batch, first))


def test_of_volumes_fewer_labelled_ones_are_kept_and_one_of_each_patient(monkeypatch):
    monkeypatch.setattr(fitted, "MAX_VOXELS", 2 * 64 * 64)
    blank = torch.zeros(6, 1, 1, 64, 64)
    index = pl.DataFrame({"case": [f"c{row}" for row in range(6)], "patient": list("aaabbc")})
    slices = SliceSet.from_tensors(
        blank, blank[:, 0].byte(), blank[:, 0].bool(), index, name="x", sequences=["T1"], labels={0: "background"}
    )
    assert fitted._thinned(slices).index["patient"].to_list() == ["a", "b", "c"]
