"""Pixels that find a planted factor as the latents do, and effects on the segmentation that tell them apart."""

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.controls import DENSE, LENS, PIXELS, RANDOM_LATENTS, RUNGS, SHUFFLED, UNTRAINED_NETWORK
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.differential import Responses
from seglens.experiments.differential_bench import FACTORS, NONE, OFF, Bench
from seglens.experiments.differential_controls import (
    CHANNELS,
    RUNG_OF,
    WEIGHTED,
    Controls,
    matched_latents,
    use_of,
    weighted,
)
from seglens.experiments.differential_tables import ladders_of, summary_of
from seglens.reports.ladders import ladder_rows
from seglens.segmenters.segmenter import Hookpoint, Segmenter

SEEN = {LENS: ("noise", "contrast"), PIXELS: ("noise", "contrast"), LENS + WEIGHTED: ("noise",)}
"""Factors to which features answer; only noise costs Dice."""
PATIENTS, LATENTS = 30, 12


class _NoBench(Bench):
    def __init__(self):
        pass


class Planted(Controls):
    """Responses and Dice that are known."""

    def _response(self, name, cohort):
        factor = cohort.rsplit("/", maxsplit=1)[-1]
        generator = np.random.default_rng(len(name) + 31 * len(cohort))
        values = 1 + 0.1 * generator.random((PATIENTS, 1, LATENTS))
        if factor in SEEN.get(name, ()):
            values[:, 0, 0] += 1.0
        return Responses(tuple(f"p{number}" for number in range(PATIENTS)), ("rest",), values)

    def _use(self, factor):
        return torch.full((LATENTS,), 0.5), torch.ones(LATENTS)

    def _lesion_dice(self, cohort):
        lost = 0.3 if cohort.endswith("noise") else 0.0
        return {f"p{number}": 0.8 - lost - 0.001 * number for number in range(PATIENTS)}


@pytest.fixture(scope="module")
def found():
    controls = Planted(_NoBench(), "early", 0.05)
    dice = controls.dice()
    rows = controls.rows()
    return rows, dice, summary_of(rows, dice)


def test_pixels_that_find_as_much_leave_no_claim_about_the_model(found):
    summary = found[2]
    by_name = {row["features"]: row for row in summary.filter(pl.col("draw") == 0).iter_rows(named=True)}
    assert (by_name[LENS]["found"], by_name[PIXELS]["found"], by_name[CHANNELS]["found"]) == (2, 2, 0)
    assert by_name[LENS]["within"] == pytest.approx((2 * 1.0 + 5 * 0.5) / 7)


def test_only_by_effect_the_factor_that_costs_dice_is_told_from_the_other(found):
    _, dice, summary = found
    assert dice.filter("costs Dice")["factor"].to_list() == ["noise"]
    by_name = {row["features"]: row for row in summary.filter(pl.col("draw") == 0).iter_rows(named=True)}
    assert (by_name[LENS]["found that cost Dice"], by_name[LENS]["found that do not"]) == (1, 1)
    weighted_row = by_name[LENS + WEIGHTED]
    assert (weighted_row["found that cost Dice"], weighted_row["found that do not"]) == (1, 0)
    assert weighted_row["order of costs"] > by_name[LENS]["order of costs"]


def test_where_labels_are_permuted_nothing_is_found(found):
    rows, _, summary = found
    assert summary.filter(pl.col("features") == SHUFFLED)["found"].sum() == 0
    random = rows.filter((pl.col("features") == RANDOM_LATENTS) & pl.col("factor").is_in(["noise", "contrast"]))
    assert random["called"].to_list() == [1] * 6 and random["within"].mean() < 0.8
    assert rows.filter(pl.col("features") == RANDOM_LATENTS)["called"].sum() == 6  # as many as the lens has
    by_effect = rows.filter((pl.col("features") == RANDOM_LATENTS + WEIGHTED) & (pl.col("factor") == "noise"))
    assert by_effect["called"].to_list() == [1] * 3
    dealt = rows.filter((pl.col("features") == SHUFFLED + WEIGHTED) & (pl.col("factor") == "noise"))
    assert dealt["called"].to_list() == [0] * 3


class EveryLatentAnswers(Planted):
    """A factor to which all latents answer, so that none of them is worth choosing."""

    def _response(self, name, cohort):
        responses = super()._response(name, cohort)
        if cohort.endswith("noise"):
            responses.values[:] += 1.0
        return responses


def test_where_every_latent_answers_random_ones_answer_as_those_that_were_called():
    controls = EveryLatentAnswers(_NoBench(), "early", 0.05)
    lens = controls._tested(LENS, "noise")
    assert lens.row("noise")["called"] == LATENTS
    for draw in range(3):
        assert controls._matched(lens, "noise", draw).row("noise") == lens.row("noise")


@pytest.mark.parametrize("by", ["rate", "mass"])
def test_random_latents_are_like_those_chosen_in_tokens_and_mass_and_may_be_them(by):
    unlike = torch.where(torch.arange(30) < 15, 0.5, 0.001)
    alike = torch.full((30,), 0.3)
    rates, masses = (unlike, alike) if by == "rate" else (alike, unlike)
    draws = [set(matched_latents(rates, masses, (0, 1, 2), seed=seed)) for seed in range(20)]
    assert all(len(draw) == 3 and max(draw) < 15 for draw in draws)
    assert any(draw & {0, 1, 2} for draw in draws) and any(draw - {0, 1, 2} for draw in draws)
    assert matched_latents(rates, masses, range(30), seed=0) == tuple(range(30))
    silent = torch.where(torch.arange(30) < 3, rates, 0.0)
    assert set(matched_latents(silent, masses, (0, 2), seed=0)) <= {0, 1, 2}


def test_firing_and_mass_are_over_the_tokens_of_both_cohorts():
    dense = torch.tensor([[0.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
    fired, summed, tokens = use_of(Codes.from_dense(dense))
    assert (fired.tolist(), summed.tolist(), tokens) == ([1, 2], [1.0, 4.0], 3)
    controls = Controls(_NoBench(), "early", 0.05)
    controls._uses.update({OFF: (fired, summed, tokens), "noise": (torch.tensor([6, 0]), torch.tensor([12.0, 0.0]), 7)})
    rates, masses = controls._use("noise")
    assert rates.tolist() == pytest.approx([0.7, 0.2])
    assert masses.tolist() == pytest.approx([1.3, 0.4])


def test_every_rung_stands_in_the_ladder(found):
    rows = ladder_rows(ladders_of(found[2]))
    for _, own in rows.group_by("claim"):
        assert own["features"].to_list() == [LENS, *RUNGS]
    within = rows.filter(pl.col("claim") == "planted factors, within")
    assert within.filter(pl.col("features") == UNTRAINED_NETWORK)["draws"].to_list() == [3]
    assert within.filter(pl.col("features") == DENSE)["draws"].to_list() == [2]
    assert set(found[0]["features"]) >= {LENS, *RUNG_OF} and set(found[0]["factor"]) == set(FACTORS) and NONE in FACTORS
    assert OFF not in FACTORS


def test_effects_are_feature_times_gradient():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Upsample(scale_factor=2))
    labels, place = {0: "background", 1: "lesion"}, {"middle": Hookpoint("0")}
    segmenter = Segmenter.wrap(network, sequences=["T1"], labels=labels, hookpoints=place, size=8)
    dictionary = SparseAutoencoder(4, 16, k=2, hookpoint="middle", segmenter_hash=segmenter.hash)
    dictionary.theta.fill_(0.1)
    lens, images, centre = Lens(segmenter, dictionary), torch.randn(3, 1, 1, 8, 8), torch.zeros(4)
    grid = network[0](images[:, :, 0]).detach().requires_grad_()
    gradient = torch.autograd.grad(network[1:](grid).softmax(1)[:, 1].sum(), grid)[0].permute(0, 2, 3, 1).reshape(-1, 4)
    activation = grid.detach().permute(0, 2, 3, 1).reshape(-1, 4)

    def effects(name):
        source = weighted(lens, centre, name)
        codes = source.encode(source.tokens(images).flatten(0, 3))
        assert codes.n_latents == source.n_latents
        return codes.to_dense()

    torch.testing.assert_close(effects(CHANNELS), (activation * gradient).abs(), rtol=1e-4, atol=1e-6)
    z = dictionary.encode(activation).to_dense()
    along = gradient @ (dictionary.W_dec / dictionary.scale).T
    torch.testing.assert_close(effects(LENS), (z * along).abs(), rtol=1e-4, atol=1e-6)
    assert effects(PIXELS).shape == (48, 1) and (effects(PIXELS) >= 0).all()
