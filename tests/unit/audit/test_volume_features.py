import numpy as np
import pytest
import torch
from tests.unit.audit.conftest import network

from seglens.audit.volume_features import TEMPERATURES, Probe, volume_features
from seglens.audit.volume_samples import VolumeSamples


def samples_of(n=3, *, masks=None, scale=1.0):
    generator = torch.Generator().manual_seed(2)
    images = scale * torch.randn(n, 2, 1, 28, 28, generator=generator)
    return VolumeSamples("v", "p", images, torch.ones(n, 1, 28, 28, dtype=torch.bool), masks, (1.0, 1.0, 1.0))


def test_soft_dice_is_its_formula_at_every_temperature():
    segmenter, samples = network(), samples_of()
    logits = segmenter.logits(samples.stack).detach()
    predicted = logits.argmax(1) == 2
    numbers = volume_features(segmenter, samples, hookpoints=["features"]).numbers
    for temperature in TEMPERATURES:
        likely = (logits / temperature).softmax(1)[:, 2]
        expected = float(2 * likely[predicted].sum() / (likely.sum() + predicted.sum()))
        assert numbers[f"sdc@{temperature}.edema"] == pytest.approx(expected, rel=1e-4)


def test_batches_do_not_matter_but_for_the_noise():
    segmenter, samples = network(), samples_of(5)
    one = volume_features(segmenter, samples, hookpoints=["features"], batch_size=1)
    all_ = volume_features(segmenter, samples, hookpoints=["features"], batch_size=5)
    assert one.dense == pytest.approx(all_.dense, abs=1e-5)
    for name, value in one.numbers.items():
        if "noise_" not in name:
            assert value == pytest.approx(all_.numbers[name], rel=1e-4, abs=1e-6, nan_ok=True), name


def test_the_identity_distorts_nothing_and_zero_distorts_much():
    probes = [
        Probe("same", "features", lambda tokens: tokens),
        Probe("none", "features", torch.zeros_like),
    ]
    numbers = volume_features(network(), samples_of(), hookpoints=["features"], probes=probes).numbers
    assert numbers["distortion.same_dice"] == 1
    assert numbers["distortion.none_dice"] < 0.1


def test_pooled_channels_are_means_over_tokens_and_over_the_lesion():
    segmenter, samples = network(), samples_of()
    tokens = segmenter.network[0](samples.stack[:, :, 0]).detach().double()
    lesion = (segmenter.predict(samples.stack) > 0).double()
    found = volume_features(segmenter, samples, hookpoints=["features"]).dense
    assert found[:8] == pytest.approx(tokens.mean((0, 2, 3)).numpy(), abs=1e-5)
    inside = (tokens * lesion).sum((0, 2, 3)) / lesion.sum()
    assert found[8:] == pytest.approx(inside.numpy(), abs=1e-5)


def test_a_class_that_is_absent_has_no_dice_and_a_false_one_is_counted():
    masks = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    numbers = volume_features(network(), samples_of(masks=masks), hookpoints=["features"]).numbers
    assert np.isnan(numbers["truth.dice"]) and np.isnan(numbers["truth.edema"])
    assert numbers["truth.edema_false"] == 1 and numbers["truth.enhancing_false"] == 0


def test_nothing_predicted_gives_no_confidence_and_no_error():
    numbers = volume_features(network(), samples_of(scale=0.0), hookpoints=["features"]).numbers
    assert numbers["area.edema"] == 0 and numbers["sdc@1.0"] == 0
    assert np.isnan(numbers["logits.lesion_sure"]) and np.isnan(numbers["tta.mirror_dice"])
