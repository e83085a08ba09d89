from dataclasses import replace

import polars as pl
import pytest
import torch
from torch import nn

from seglens.activations.hooks import edit
from seglens.dictionaries.lens import Lens
from seglens.segmenters.decision import Decision
from seglens.steering.attribution import (
    REGIONS,
    LatentAttribution,
    associated_latents,
    causal_latents,
    latent_attribution,
)

PLANTED = 3


def mean_odds(segmenter, dictionary, slices, target, latent, *, factor=1.0, offset=0.0):
    """Mean log odds of the class per region, with one latent changed: finite differences beside the gradients."""
    images, masks = slices.images().double(), slices.masks()
    segmenter.network.double()
    dictionary.double()
    sums = {}
    with torch.no_grad():
        plain = segmenter.logits(images)

        def change(grid):
            flat = grid.flatten(0, 3)
            pre = (dictionary.normalise(flat) @ dictionary.W_enc + dictionary.encoder_offset())[:, latent]
            code = torch.where(pre > dictionary.theta, pre, 0.0)
            delta = code * (factor - 1) + offset
            return (flat + delta[:, None] * dictionary.W_dec[latent] / dictionary.scale).view_as(grid)

        with edit(segmenter, "here", change):
            logits = segmenter.logits(images)
    segmenter.network.float()
    dictionary.float()
    if target is None:
        odds, said, true = logits[:, 1:].logsumexp(1) - logits[:, 0], plain.argmax(1) > 0, masks > 0
    else:
        rest = [label for label in range(3) if label != target]
        odds = logits[:, target] - logits[:, rest].logsumexp(1)
        said, true = plain.argmax(1) == target, masks == target
    for region, where in zip(REGIONS, (said & true, said & ~true, ~said & true), strict=True):
        sums[region] = float(odds[where].mean()) if where.any() else 0.0
    return sums


@pytest.mark.parametrize("target", [2, None])
def test_effects_equal_finite_differences(segmenter, dictionary, selection, target):
    masks = selection.masks()
    masks[:, :, :4] = 0  # so that there are false positives too
    slices = type(selection).from_tensors(
        selection.images(), masks, selection.brains(), selection.index, name="x", sequences=("T1", "FLAIR"),
        labels=selection.labels,
    )  # fmt: skip
    effects = latent_attribution(Lens(segmenter, dictionary), slices, target=target, batch_size=5)
    assert all(effects.pixels.values())
    step = 1e-5
    codes = dictionary.encode(segmenter.network.stem(slices.images()[:, :, 0]).movedim(1, -1).flatten(0, 2).detach())
    assert torch.allclose(effects.firing, codes.firing_counts() / codes.n)
    assert torch.allclose(effects.mass, codes.to_dense().sum(0), rtol=1e-4)
    for latent in (0, PLANTED, 11):
        for kind, change in (("scale", {"factor": 1 + step}), ("shift", {"offset": step})):
            after = mean_odds(segmenter, dictionary, slices, target, latent, **change)
            before = mean_odds(segmenter, dictionary, slices, target, latent)
            for region in REGIONS:
                slope = (after[region] - before[region]) / step
                assert float(getattr(effects, kind)[region][latent]) == pytest.approx(slope, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize(("target", "label"), [(1, 1), (2, 2)])
def test_effects_on_regions_equal_finite_differences(segmenter, dictionary, selection, target, label):
    """Log odds of a region are its own logit; its truth holds what lies on it."""
    network = segmenter.network
    network.head.weight.data[0] = network.head.bias.data[0] = 0.0  # the log odds of a class against the background
    cut = nn.Conv2d(8, 2, 3, padding=1)
    cut.load_state_dict({"weight": network.head.weight[1:].detach(), "bias": network.head.bias[1:].detach()})
    network.head = cut
    regions = replace(segmenter, decision=Decision(True, (), ((1, 2), (2,))))
    object.__setattr__(dictionary, "segmenter_hash", regions.hash)
    effects = latent_attribution(Lens(regions, dictionary), selection, target=target, batch_size=5)
    images, masks = selection.images(), selection.masks()
    truth = masks >= label
    with torch.no_grad():
        plain = regions.logits(images)[:, label - 1]
    for region, where in zip(REGIONS, (truth & (plain > 0), ~truth & (plain > 0), truth & (plain <= 0)), strict=True):
        assert effects.pixels[region] == int(where.sum())

        def odds(offset, where=where):
            def change(grid):
                return grid + offset * dictionary.W_dec[PLANTED] / dictionary.scale

            with torch.no_grad(), edit(regions, "here", change):
                return float(regions.logits(images)[:, label - 1][where].double().mean())

        if where.any():
            slope = odds(0.5) - odds(-0.5)  # the head is linear
            assert float(effects.shift[region][PLANTED]) == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_the_planted_latent_repairs_most(segmenter, dictionary, selection):
    effects = latent_attribution(Lens(segmenter, dictionary), selection, target=2)
    up, down = causal_latents(effects, "scale")
    assert up[0] == PLANTED
    assert not set(up) & set(down)
    repair = effects.repair("scale")
    assert all(repair[latent] > 0 for latent in up)
    assert all(repair[latent] < 0 for latent in down)
    assert repair[up].tolist() == sorted(repair[up].tolist(), reverse=True)


def effects_of(missed, invented):
    return LatentAttribution(
        {
            "hit": torch.tensor([1.0, 2.0]),
            "false_positive": torch.tensor([3.0, 0.0]),
            "false_negative": torch.tensor([5.0, -4.0]),
        },
        {region: torch.zeros(2) for region in REGIONS},
        {"hit": 7, "false_positive": invented, "false_negative": missed},
        torch.tensor([0.1, 0.0]),
        torch.ones(2),
    )


def test_repair_weighs_false_negatives_against_false_positives():
    assert effects_of(3, 1).repair("scale").tolist() == [(3 * 5 - 3) / 4, -3.0]
    assert effects_of(0, 0).repair("scale").tolist() == [1.0, 2.0]
    assert effects_of(3, 1).repair("shift").tolist() == [0.0, 0.0]


def test_latents_that_do_not_fire_are_no_levers():
    assert causal_latents(effects_of(3, 1), "scale") == ([0], [])


def test_association_demands_mass_and_lift(atlas):
    ranked = associated_latents(atlas, "edema")
    table = atlas.table.sort("p_edema", descending=True)
    expected = [
        row["latent"]
        for row in table.iter_rows(named=True)
        if not row["dead"] and row["lift_edema"] >= 2 and row["mass"] >= 0.1 * atlas.table["mass"].mean()
    ]
    assert ranked == expected
    light = pl.when(pl.col("latent") == 23).then(0.01).otherwise(pl.col("mass"))
    weak = replace(atlas, table=atlas.table.with_columns(mass=light))
    assert ranked[0] == 23
    assert 23 not in associated_latents(weak, "edema")


def test_an_unknown_class_is_named(atlas):
    with pytest.raises(ValueError, match=r"it has edema$"):
        associated_latents(atlas, "oedema")
