from math import prod

import polars as pl
import pytest
import torch
from tests.unit.diffing.planted_models import GRID, store

from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.crosscoder import Crosscoder, CrosscoderModel
from seglens.diffing.crosscoder_sharing import CrosscoderSharing, evaluate_crosscoder, linear_explained

N_SLICES = 60


def by_hand(rows, *, threshold=0.2):
    """A crosscoder of two models of width 6 with given decoder rows, which reads channels 0.. of model a."""
    rows = torch.as_tensor(rows, dtype=torch.float32)
    dictionary = SparseAutoencoder(12, len(rows), k=1)
    dictionary.W_dec.copy_(rows)
    dictionary.W_enc.copy_(torch.eye(12)[:, : len(rows)])
    dictionary.theta.fill_(threshold)
    models = tuple(CrosscoderModel(name, "stage2", name, torch.zeros(6), torch.eye(6)) for name in "ab")
    return Crosscoder(models, dictionary, torch.eye(12))


def two_models(shared_truth, *, noise=0.05, seed=0, index=None):
    """Strengths of three factors, channel by channel in a; b holds those of `shared_truth`, in channels of its own."""
    generator = torch.Generator().manual_seed(seed)
    n = N_SLICES * prod(GRID)
    strengths = (torch.rand(n, 3, generator=generator) < 0.1) * (1 + torch.rand(n, 3, generator=generator))
    a, b = (noise * torch.randn(n, 6, generator=generator) for _ in range(2))
    a[:, :3] += strengths
    b[:, 3:] += strengths * torch.tensor(shared_truth)
    return {
        name: store(tokens.view(N_SLICES, *GRID, 6), name=name, index=index) for name, tokens in (("a", a), ("b", b))
    }


def row(in_a, in_b):
    """A unit row that decodes into one channel of each model."""
    norm = torch.tensor([in_a[1], in_b[1]]).norm()
    result = torch.zeros(12)
    result[in_a[0]], result[6 + in_b[0]] = in_a[1] / norm, in_b[1] / norm
    return result


def test_latent_scaling_gives_a_shrunk_row_back_and_a_specific_one_not():
    shrunk = torch.stack([row((0, 1.0), (3, 0.0)), row((1, 1.0), (4, 0.0)), row((2, 1.0), (5, 1.0))])
    evaluated = evaluate_crosscoder(by_hand(shrunk), two_models([1.0, 0.0, 1.0]))
    assert evaluated.in_models("norm").tolist() == [[True, False], [True, False], [True, True]]
    assert evaluated.in_models("scaled").tolist() == [[True, True], [True, False], [True, True]]
    assert float(evaluated.scaled_norms[0, 1]) == pytest.approx(1, abs=0.03)
    assert float(evaluated.scaled_norms[1, 1]) < 0.2
    assert evaluated.shared() == pytest.approx(1 / 3)
    assert evaluated.shared(by="scaled") == pytest.approx(2 / 3)
    assert evaluated.specific("a", by="scaled") == pytest.approx(1 / 3)
    assert evaluated.specific("b") == 0


def test_scaling_agrees_between_halves_of_patients_only():
    index = pl.DataFrame({"patient": [f"p{number // 5}" for number in range(N_SLICES)]})
    models = two_models([0.0, 0.0, 0.0], index=index)
    own = models["a"].slice_tokens(range(N_SLICES))
    other = models["b"].slice_tokens(range(N_SLICES))
    sign = torch.tensor([1.0 if number // 5 % 2 else -1.0 for number in range(N_SLICES)])
    other[..., 3] += sign.view(-1, 1, 1, 1) * own[..., 0]  # in half of the patients the opposite of the other half
    models["b"] = store(other, name="b", index=index)
    evaluated = evaluate_crosscoder(by_hand(torch.stack([row((0, 1.0), (3, 0.0))])), models)
    assert float(evaluated.scaled_norms[0, 1]) == 0


@pytest.mark.parametrize(("told_apart", "scaled"), [(False, 0.0), (True, 0.3)])
def test_halves_agree_on_what_is_one_patients_own_where_his_renderings_are_in_both(told_apart, scaled):
    # 15 patients rendered twice, +1 in 8 of them and -0.5 in the others: told apart, each is in both halves
    numbers = [number for _ in range(2) for number in range(15) for _ in range(2)]
    names = [f"{place // 30 if told_apart else ''}p{number:02}" for place, number in enumerate(numbers)]
    index = pl.DataFrame({"patient": names})
    models = two_models([0.0, 0.0, 0.0], index=index)
    own, other = (models[name].slice_tokens(range(N_SLICES)) for name in "ab")
    effect = torch.tensor([-0.5 if number % 2 else 1.0 for number in numbers])
    other[..., 3] += effect.view(-1, 1, 1, 1) * own[..., 0]
    models["b"] = store(other, name="b", index=index)
    evaluated = evaluate_crosscoder(by_hand(torch.stack([row((0, 1.0), (3, 0.0))])), models)
    assert float(evaluated.scaled_norms[0, 1]) == pytest.approx(scaled, abs=0.15 if told_apart else 0)


def test_ablation_gain_is_the_error_that_leaving_a_latent_out_adds():
    rows = torch.stack([row((0, 1.0), (3, 0.5)), row((1, 1.0), (4, 1.0)), row((2, 0.3), (5, 1.0))])
    crosscoder, models = by_hand(rows), two_models([1.0, 1.0, 0.5])
    evaluated = evaluate_crosscoder(crosscoder, models)
    tokens = {name: one.tokens(torch.arange(one.n_tokens)) for name, one in models.items()}
    beside = torch.cat([tokens["a"], tokens["b"]], 1)
    z = crosscoder.encode(tokens).to_dense()

    def energy(codes):
        error = (beside - codes @ crosscoder.dictionary.W_dec).square()
        return torch.stack([error[:, :6].sum(), error[:, 6:].sum()])

    for latent in range(3):
        without = z.clone()
        without[:, latent] = 0
        torch.testing.assert_close(evaluated.gains[latent], energy(without) - energy(z), rtol=1e-3, atol=0.05)
    torch.testing.assert_close(evaluated.mass, z.sum(0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(evaluated.firing_rate, (z > 0).float().mean(0))


def test_shares_count_live_latents_once_by_mass_or_by_gain():
    evaluated = CrosscoderSharing(
        models=("a", "b"),
        firing_rate=torch.tensor([0.1, 0.1, 0.1, 0.0005]),
        mass=torch.tensor([6.0, 3.0, 1.0, 50.0]),
        norms=torch.tensor([[0.7, 0.7], [1.0, 0.1], [0.2, 0.98], [0.7, 0.7]]),
        scaled_norms=torch.tensor([[0.7, 0.7], [1.0, 0.8], [0.2, 0.98], [0.7, 0.7]]),
        gains=torch.tensor([[4.0, 4.0], [2.0, 0.0], [-5.0, 1.0], [9.0, 9.0]]),
        explained=pl.DataFrame(),
        participation_ratio={},
        l0=1.0,
    )
    assert evaluated.shared() == pytest.approx(1 / 3)
    assert evaluated.shared("mass") == pytest.approx(0.6)
    assert evaluated.shared("gain") == pytest.approx(0.8)
    assert evaluated.shared(by="scaled") == pytest.approx(2 / 3)
    assert [evaluated.specific(name) for name in "ab"] == pytest.approx([1 / 3, 1 / 3])
    table = evaluated.latents()
    assert table.height == 8
    assert table.filter(pl.col("latent") == 1)["in_model"].to_list() == [True, False]
    assert table.filter(pl.col("latent") == 0)["relative_norm"].to_list() == pytest.approx([0.5, 0.5])


def test_explained_variance_of_all_and_of_each_from_each():
    rows = torch.stack([row((n, 1.0), (n + 3, 1.0)) for n in range(3)])
    rows *= 2**0.5  # both models are reconstructed whole
    models = two_models([1.0, 1.0, 1.0], noise=0.01)
    evaluated = evaluate_crosscoder(by_hand(rows), models)
    table = {(e, m): ev for m, e, ev, _ in evaluated.explained.iter_rows()}
    assert set(table) == {(e, m) for e in ("all", "a", "b") for m in "ab"}
    assert table["all", "a"] > 0.95
    assert table["a", "b"] > 0.95  # the encoder reads a alone
    a = models["a"].tokens(torch.arange(models["a"].n_tokens))
    nothing = 1 - float(a.square().sum() / (a - a.mean(0)).square().sum())
    assert table["b", "a"] == pytest.approx(nothing, abs=0.01)  # and nothing of b; no moments tell a from b here
    assert evaluated.cross_explained() == pytest.approx((table["a", "b"] + table["b", "a"]) / 2)
    raw = evaluated.explained["explained_variance_raw"].to_list()
    assert raw == pytest.approx(
        evaluated.explained["explained_variance"].to_list(), abs=1e-4
    )  # whitened by the identity
    assert evaluated.participation_ratio["a"] == pytest.approx(3, abs=0.2)


def test_other_models_are_refused():
    models = two_models([1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="activations of a, c; this dictionary is of a, b"):
        evaluate_crosscoder(by_hand(torch.stack([row((0, 1.0), (3, 1.0))])), {"a": models["a"], "c": models["b"]})


def test_the_linear_prediction_without_the_code_explains_what_is_linear():
    models = two_models([1.0, 1.0, 1.0], noise=0.01)
    side_by_side = torch.cat([store.tokens(torch.arange(store.n_tokens)) for store in models.values()], 1)
    known = by_hand(torch.eye(12)[:3])
    known = Crosscoder(known.models, known.dictionary, side_by_side.T @ side_by_side / len(side_by_side))
    # centred at 0 and not whitened: b's channels 3..5 are a's 0..2, and back
    assert linear_explained(known, models) > 0.95
    apart = two_models([0.0, 0.0, 0.0], noise=0.01)
    assert linear_explained(known, apart) < 0.05
