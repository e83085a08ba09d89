from dataclasses import replace

import pytest
import torch
from tests.unit.diffing.planted_models import GRID, latent_of, planted_models, store

from seglens.artifacts import new_artifact, read_artifact
from seglens.dictionaries.fitting import FitSettings
from seglens.diffing.crosscoder import (
    KIND,
    Crosscoder,
    fit_crosscoder,
    in_models,
    split_start,
)
from seglens.diffing.crosscoder_sharing import evaluate_crosscoder
from seglens.diffing.nulls import permuted_tokens
from seglens.diffing.pooling import on_common_grid, pooled_grids

SETTINGS = FitSettings(k=3, expansion=4, steps=200, batch_size=512)
BRIEF = replace(SETTINGS, steps=5)


def tokens_of(stores):
    return {name: one.tokens(torch.arange(one.n_tokens)) for name, one in stores.items()}


@pytest.fixture(scope="module")
def brief():
    stores, _, _ = planted_models({"a": 12, "b": 10}, n_slices=8)
    return stores, fit_crosscoder(stores, settings=BRIEF)


def rotation(width):
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(5))).Q


@pytest.mark.parametrize("transform", [{}, {"b": 4 * rotation(24)}], ids=["as they are", "one turned and scaled"])
def test_planted_factors_are_found_in_the_models_that_hold_them(transform):
    stores, _, _ = planted_models({"a": 24, "b": 24}, transform=transform)
    unseen, factors, inside = planted_models({"a": 24, "b": 24}, transform=transform, n_slices=40, seed=1)
    crosscoder = fit_crosscoder(stores, settings=SETTINGS)
    latents, correlation = latent_of(crosscoder.encode(tokens_of(unseen)), factors)
    assert float(correlation.min()) > 0.7
    right = (crosscoder.in_models()[latents] == inside).all(1)
    assert float(right.float().mean()) >= 0.97
    evaluated = evaluate_crosscoder(crosscoder, unseen)
    scaled = (evaluated.in_models("scaled")[latents] == inside).all(1)
    assert float(scaled.float().mean()) >= 0.97


def test_permuted_tokens_share_nothing():
    stores, _, _ = planted_models({"a": 24, "b": 24}, own=0)
    unseen, _, _ = planted_models({"a": 24, "b": 24}, own=0, n_slices=40, seed=1)
    found = evaluate_crosscoder(fit_crosscoder(stores, settings=SETTINGS), unseen)
    null, unseen_null = (models | {"b": permuted_tokens(models["b"])} for models in (stores, unseen))
    nothing = evaluate_crosscoder(fit_crosscoder(null, settings=SETTINGS), unseen_null)
    assert found.shared("mass") > 0.9
    assert found.cross_explained() > 0.8
    assert nothing.shared() < 0.05
    assert nothing.shared("mass") < 0.05
    assert nothing.cross_explained() < 0.05


def test_three_models_of_different_widths():
    widths = {"a": 24, "b": 16, "c": 20}
    stores, _, _ = planted_models(widths, shared=12, own=4)
    unseen, factors, inside = planted_models(widths, shared=12, own=4, n_slices=40, seed=1)
    crosscoder = fit_crosscoder(stores, settings=replace(SETTINGS, steps=300))
    latents, _ = latent_of(crosscoder.encode(tokens_of(unseen)), factors)
    assert float((crosscoder.in_models()[latents] == inside).all(1).float().mean()) >= 0.9


def test_a_latent_is_in_a_model_from_0_6_over_the_number_of_models_on():
    two = torch.tensor([[0.29, 0.71], [0.31, 0.69], [1.0, 0.0]])
    assert in_models(two).tolist() == [[False, True], [True, True], [True, False]]
    assert in_models(torch.tensor([[0.19, 0.21, 0.6]])).tolist() == [[False, True, True]]
    assert in_models(torch.zeros(1, 2)).tolist() == [[False, False]]  # not shared: nothing is known of it


def test_every_model_gets_an_equal_part_of_the_latents_at_the_start():
    start = split_start([5, 3, 4], 9, k=2, seed=0)
    norms = torch.stack([part.norm(dim=1) for part in start.W_dec.split([5, 3, 4], 1)], 1)
    torch.testing.assert_close(norms, torch.eye(3).repeat_interleave(3, 0))
    assert torch.equal(start.W_enc, start.W_dec.T)


def test_whitened_activations_are_as_strong_in_every_direction_and_model(brief):
    stores, crosscoder = brief
    for model in crosscoder.models:
        raw = tokens_of(stores)[model.name]
        white = model.whitened(raw)
        covariance = torch.cov(white.double().T, correction=0)
        assert float(covariance.trace()) == pytest.approx(11, rel=1e-3)  # (12 + 10) / 2
        values = torch.linalg.eigvalsh(torch.cov(raw.double().T, correction=0))
        expected = values / values.clamp_min(0.01 * values.mean())
        expected *= 11 / expected.sum()
        torch.testing.assert_close(torch.linalg.eigvalsh(covariance), expected.sort().values, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model.raw(white), raw, rtol=1e-3, atol=1e-3)


def test_the_code_of_all_models_is_that_of_their_activations_side_by_side(brief):
    stores, crosscoder = brief
    tokens = tokens_of(stores)
    beside = torch.cat([model.whitened(tokens[model.name]) for model in crosscoder.models], 1)
    expected = crosscoder.dictionary.encode(beside).to_dense()
    torch.testing.assert_close(crosscoder.encode(tokens).to_dense(), expected, rtol=1e-4, atol=1e-5)
    turned = crosscoder.encode({"b": tokens["b"], "a": tokens["a"]}).to_dense()
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-5)
    decoded = crosscoder.decode(crosscoder.encode(tokens))["b"]
    torch.testing.assert_close(
        crosscoder.models[1].whitened(decoded),
        crosscoder.dictionary.decode(crosscoder.encode(tokens))[:, crosscoder.columns("b")],
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_model_that_is_not_given_is_predicted_by_least_squares(brief):
    stores, crosscoder = brief
    a, b = (crosscoder.models[n].whitened(tokens_of(stores)[name]).double() for n, name in enumerate("ab"))
    ridge = 1e-3 * a.square().mean() * len(a)
    solved = torch.linalg.solve(a.T @ a + ridge * torch.eye(12), a.T @ b)
    expected = crosscoder.dictionary.encode(torch.cat([a, a @ solved], 1).float()).to_dense()
    torch.testing.assert_close(
        crosscoder.encode({"a": tokens_of(stores)["a"]}).to_dense(), expected, rtol=1e-3, atol=1e-3
    )


def test_the_same_seed_gives_the_same_dictionary_and_another_another(brief):
    stores, crosscoder = brief
    assert fit_crosscoder(stores, settings=BRIEF).dictionary.hash == crosscoder.dictionary.hash
    assert fit_crosscoder(stores, settings=BRIEF, seed=1).dictionary.hash != crosscoder.dictionary.hash


def test_it_comes_back_from_disk_as_it_was(brief, tmp_path):
    stores, crosscoder = brief
    with new_artifact(tmp_path / "crosscoder", kind=KIND, inputs={}) as draft:
        crosscoder.write(draft)
    again = Crosscoder.read(read_artifact(tmp_path / "crosscoder", KIND))
    assert again.names == ("a", "b")
    assert again.dictionary.hash == crosscoder.dictionary.hash
    assert torch.equal(again.moments, crosscoder.moments)
    for read, written in zip(again.models, crosscoder.models, strict=True):
        assert torch.equal(read.centre, written.centre) and torch.equal(read.whitening, written.whitening)
    # what was read lies in memory in other strides than what was fitted: a product of the same numbers may take
    # another kernel, which adds in another order
    one = {"b": tokens_of(stores)["b"]}
    torch.testing.assert_close(again.encode(one).to_dense(), crosscoder.encode(one).to_dense(), rtol=1e-4, atol=1e-5)


def test_a_damaged_artifact_is_refused(brief, tmp_path):
    _, crosscoder = brief
    damages = {
        "shape": {"centre.0": torch.zeros(3)},
        "nan": {"moments": torch.full((22, 22), torch.nan)},
        "more": {"centre.7": torch.zeros(2)},
    }
    for name, change in damages.items():
        with new_artifact(tmp_path / name, kind=KIND, inputs={}) as draft:
            crosscoder.write(draft)
            tensors = {"moments": crosscoder.moments}
            for number, model in enumerate(crosscoder.models):
                tensors |= {f"centre.{number}": model.centre, f"whitening.{number}": model.whitening}
            draft.save_tensors("crosscoder", tensors | change)
        with pytest.raises(ValueError, match=rf"{name}: crosscoder holds .* it must hold"):
            Crosscoder.read(read_artifact(tmp_path / name, KIND))


def test_a_finer_grid_is_averaged_to_the_common_one():
    grids = torch.randn(5, 2, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.avg_pool3d(grids.movedim(-1, 1), 2).movedim(1, -1)
    torch.testing.assert_close(pooled_grids(grids, (1, 4, 4)), expected)
    coarse = store(torch.randn(5, 4, 4, 6, generator=torch.Generator().manual_seed(1)))
    common = on_common_grid({"fine": store(grids), "coarse": coarse})
    assert common["coarse"] is coarse
    torch.testing.assert_close(common["fine"].slice_tokens([0, 1, 2, 3, 4]), expected)


def test_what_cannot_be_joined_is_refused(brief):
    stores, crosscoder = brief
    with pytest.raises(ValueError, match="two or more models on the same slices"):
        fit_crosscoder({"a": stores["a"]})
    other = store(torch.randn(8, *GRID, 4), slices="others")
    with pytest.raises(ValueError, match=r"'c': 8 slices of others.*one set of slices"):
        fit_crosscoder({"a": stores["a"], "c": other})
    constant = store(torch.ones(8, *GRID, 4), slices="slices 0")
    with pytest.raises(ValueError, match="the activations of 'c' do not vary"):
        fit_crosscoder({"a": stores["a"], "c": constant})
    with pytest.raises(ValueError, match="tokens of the same places"):
        crosscoder.encode({"a": torch.zeros(3, 12), "b": torch.zeros(4, 10)})
    with pytest.raises(ValueError, match="no model 'c'; this dictionary is of a, b"):
        crosscoder.encode({"c": torch.zeros(3, 12)})
    with pytest.raises(ValueError, match="3 wide; this model's are 12"):
        crosscoder.encode({"a": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="1 latents for 2 models"):
        split_start([2, 2], 1, k=1, seed=0)
