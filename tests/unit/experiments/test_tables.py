"""The table logic of the experiments, on small input with a known answer."""

import polars as pl
import pytest
import torch

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.experiments import (
    NotApplicableError,
    alignment_methods,
    architectures,
    classes,
    layers,
    recovered_failures,
    shared,
    swap,
    universal,
)
from seglens.experiments.interpretation import best_latents, latents_by_class
from seglens.experiments.pairs import DIFFERENT, SAME_RANDOM, TRAINED, pairs_alike, start_of
from seglens.segmenters.scoring import SCHEMA, Scores
from seglens.studies.demo import demo_settings
from seglens.studies.settings import SegmenterSettings


class TestPairs:
    def test_only_segmenters_of_one_architecture_are_compared_by_weights(self):
        pairs = pairs_alike(demo_settings())
        assert len(pairs) == 6
        assert not any("unet" in name for pair in pairs for name in pair)

    def test_a_study_of_one_segmenter_cannot_carry_a_comparison(self, tiny_settings):
        with pytest.raises(NotApplicableError, match="two segmenters of one architecture; the study has squares"):
            pairs_alike(tiny_settings)

    def test_what_two_segmenters_start_from(self):
        own = {
            "a": SegmenterSettings(cohort="x"),
            "b": SegmenterSettings(cohort="x"),
            "c": SegmenterSettings(cohort="x", init_from="a"),
            "d": SegmenterSettings(cohort="x", init_from="b"),
        }
        assert start_of(own, "a", "c") == TRAINED
        assert start_of(own, "a", "b") == SAME_RANDOM  # one seed draws the weights of both
        assert start_of(own, "c", "d") == SAME_RANDOM
        assert start_of(own | {"e": SegmenterSettings(cohort="x", architecture="unet")}, "c", "e") == DIFFERENT


def test_shared_headlines_are_means_over_pairs_and_the_longest_training():
    columns = ("shared", "rotated null", "white-noise null", "ceiling", "other SAE seed")
    shares = pl.DataFrame(
        {"pair": ["adult / pediatric", "a / b"]}
        | {name: [0.2 + place / 10, 0.4 + place / 10] for place, name in enumerate(columns)}
        | {"calibrated share": [0.5, None]}
    )
    lengths = pl.DataFrame({"steps": [10, 30], "compared": ["pair", "pair"], "shared": [0.9, 0.3]})
    found = shared.headlines(shares, lengths)
    assert found["shared adult / pediatric"] == 0.2
    assert "shared a / b" not in found  # the paper has no such pair
    assert found["shared, mean over pairs"] == pytest.approx(0.3)
    assert found["calibrated share, mean over pairs"] == 0.5
    assert found["pair, longest SAE training"] == 0.3


class TestAlignment:
    codes = torch.rand(64, 4, generator=torch.Generator().manual_seed(0)) + 0.1

    def test_a_permuted_copy_is_found_by_function(self):
        permuted = self.codes[:, [2, 0, 3, 1]]
        row = alignment_methods.functional_rows((Codes.from_dense(self.codes), Codes.from_dense(permuted)), 8)
        assert row["code correlation"][0] == pytest.approx(1)
        assert row["stability"][0] == 1
        assert row["n"][0] == 4

    def test_both_halves_of_the_probe_see_both_cohorts(self):
        one = self.codes * torch.tensor([5.0] * 32 + [1.0] * 32)[:, None]
        other = one.clone()
        other[:32] = other[:32, [1, 0, 2, 3]]  # the first cohort's slices match other latents than the second's
        row = alignment_methods.functional_rows((Codes.from_dense(one), Codes.from_dense(other)), 8)
        assert row["stability"][0] == 1

    def test_filters_keep_what_is_close_and_what_agrees(self):
        both = Codes.from_dense(self.codes), Codes.from_dense(self.codes)
        matched = pl.DataFrame(
            {
                "method": ["m", "m", "m"],
                "source_latent": [0, 1, 2],
                "target_latent": [0, 1, 3],  # the last is a wrong partner
                "close": [True, True, False],
                "agrees": [True, False, False],
            }
        )
        metrics = pl.DataFrame({"method": ["m"] * 3, "filter": ["none", "tau", "shared"]})
        found = dict(
            alignment_methods.with_function(metrics, matched, both).select("filter", "code correlation").iter_rows()
        )
        assert found["tau"] == found["shared"] == pytest.approx(1)
        assert found["none"] < 0.9


def test_architectures_need_two_on_one_cohort():
    assert architectures.comparable(demo_settings().segmenters) == ["adult", "adult-unet"]
    one = {name: own for name, own in demo_settings().segmenters.items() if name != "adult-unet"}
    assert architectures.comparable(one) == []


class TestFailures:
    slices = pl.DataFrame(
        {
            "patient": ["a", "a", "b", "b"],
            "dice_before": [0.2, 0.4, 0.1, 0.3],
            "dice_oracle": [0.4, 0.4, 0.2, 0.1],  # two recovered, one worsened
            "dice_ccf": [0.2, 0.4, 0.1, 0.3],
            "dice_oracle 2": [0.3, 0.4, 0.1, 0.3],
        }
    )

    def test_recovered_share_and_worsened_share(self):
        rows = {row["method"]: row for row in recovered_failures.recovered(self.slices).iter_rows(named=True)}
        oracle = rows["latents, oracle"]
        assert oracle["recovered share"] == 0.5
        assert oracle["worsened share"] == 0.25
        assert oracle["gain"] == pytest.approx(0.025)
        assert oracle["low"] <= 0.5 <= oracle["high"]
        assert rows["component filter (CCF)"]["recovered share"] == 0

    def test_alpha_1_is_the_untouched_network(self):
        rows = {row["alpha"]: row for row in recovered_failures.over_alpha(self.slices).iter_rows(named=True)}
        assert rows[1.0]["mean Dice"] == pytest.approx(0.25)
        assert rows[2.0]["recovered share"] == 0.25


def scores_of(rows):
    """Scores of class 1 from (edit, row, tp, predicted, truth)."""
    table = pl.DataFrame(
        [
            {
                "edit": edit, "row": row, "case": f"c{row}", "patient": f"p{row % 2}", "volume": f"v{row}",
                "label": 1, "class": "edema", "tp": tp, "predicted": predicted, "truth": truth,
            }
            for edit, row, tp, predicted, truth in rows
        ]
    )  # fmt: skip
    for name, dtype in SCHEMA.items():
        table = table.with_columns(
            pl.col(name).cast(dtype) if name in table.columns else pl.lit(None, dtype).alias(name)
        )
    return Scores(table.select(list(SCHEMA)))


def test_failing_slices_and_how_edits_recover_each_kind():
    scores = scores_of(
        [
            ("none", 0, 10, 90, 20),  # too much: FP
            ("none", 1, 10, 10, 90),  # too little: FN
            ("none", 2, 45, 50, 50),  # fine
            ("none", 3, 0, 50, 0),  # not in the mask: no failure of this table
            ("zeroed", 0, 10, 20, 20),
            ("zeroed", 1, 0, 0, 90),
            ("zeroed", 2, 0, 0, 50),
            ("zeroed", 3, 0, 0, 0),
        ]
    )
    failing = classes.failing_slices(scores, 1)
    assert dict(failing.select("row", "mode").iter_rows()) == {0: "FP", 1: "FN"}
    found = {row["mode"]: row for row in classes.by_mode(scores, failing, 1).iter_rows(named=True)}
    assert found["FP"]["recovered share"] == 1
    assert found["FN"]["recovered share"] == 0
    assert found["FN"]["worsened share"] == 1
    assert found["all"]["recovered share"] == 0.5
    assert "mixed" not in found


LATENTS = pl.DataFrame(
    {
        "latent": pl.Series(range(8), dtype=pl.Int32),
        "mass": [8.0, 7, 6, 5, 4, 3, 2, 0],
        "firing_rate": [0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.2, 0.0],
        "dead": [False] * 7 + [True],
        "top_class": ["background", "edema", "edema", "mixed", "background", "edema", "mixed", None],
        "name": ["a", "b", "b", "c", "d", "e", "f", None],
        "class_replicates": [True, True, False, True, True, True, True, None],
        "p_edema": [0.0, 0.5, 0.9, 0.1, 0.0, 0.8, 0.1, None],
        "lift_edema": [0.0, 5, 9, 1, 0, 8, 1, None],
        "inside": [0.0, 1, 1, 0, 0, 1, 0, None],
        "boundary": [0.0] * 7 + [None],
        "edge": [0.5] * 7 + [None],
        "depth": [0.5] * 7 + [None],
        "entropy": [1.0] * 7 + [None],
        "spread": [0.1] * 7 + [None],
    }
)


def test_steered_sets_are_equally_many_and_the_heaviest():
    sets = universal.steered_sets(LATENTS, universal=[0, 4, 7], specific=[6, 5], seed=0)
    assert (sets["universal"], sets["specific"]) == ((0,), (5,))
    assert all(len(own) == 1 and 7 not in own for own in sets.values())
    with pytest.raises(NotApplicableError, match="0 universal"):
        universal.steered_sets(LATENTS, universal=[7], specific=[5], seed=0)


def test_largest_change_keeps_its_sign():
    curves = pl.DataFrame(
        {
            "cohort": ["adult"] * 3,
            "latents": ["specific"] * 3,
            "alpha": [0.0, 1.0, 2.0],
            "foreground Dice, pooled": [0.2, 0.6, 0.7],
        }
    )
    assert universal.headlines(curves) == {"largest change, specific, adult": pytest.approx(-0.4)}


def test_a_swap_with_the_same_dictionary_changes_no_map(fitted):
    dictionary, tokens = fitted
    live = (dictionary.encode(tokens).firing_counts() > 1).nonzero()[:, 0]
    found = swap.correlations(dictionary, dictionary, tokens, (live, live), seed=0)
    assert found["own partner"]["correlation"].min() == pytest.approx(1)
    assert found["random partner"]["correlation"].mean() < 0.6


def test_maps_are_swapped_in_units_that_compare_and_dice_has_the_reconstruction_beside_it(fitted):
    dictionary, tokens = fitted
    finer = SparseAutoencoder(6, 24, k=3)
    finer.load_state_dict(dictionary.state_dict())
    for name in ("scale", "theta", "b_enc", "b_dec"):
        getattr(finer, name).data.mul_(1.31)
    live = (dictionary.encode(tokens).firing_counts() > 1).nonzero()[:, 0]
    table = swap.correlations(dictionary, finer, tokens, (live, live), seed=0)["own partner"]
    assert table["correlation"].min() == pytest.approx(1)
    edits = swap.swap_edits("stage1", "f" * 64, {"shared": (1, 4)})
    assert list(edits) == ["reconstruction only", "shared, swap", "shared, zero", "shared, swap in the reconstruction"]
    assert edits["reconstruction only"].name == "reconstruct only"
    assert [edit.mode for edit in edits.values()] == ["replace", "difference", "difference", "replace"]


def test_geometry_is_weighted_by_mass_and_dead_latents_do_not_count():
    found = layers.stage_geometry(LATENTS, {"size": [10, 10], "grid": [5, 5]})
    assert found["live latents"] == 7
    assert found["inside a label"] == pytest.approx((7 + 6 + 3) / 35)
    assert found["token grid"] == "5 x 5"


def test_latents_of_a_class_are_counted_and_the_best_of_them_named():
    counted = {row["class"]: row for row in latents_by_class("adult", LATENTS, ["background", "edema"])}
    assert (counted["edema"]["latents"], counted["edema"]["different names"]) == (3, 2)
    assert counted["mixed"]["share of activation"] == pytest.approx(7 / 35)
    assert [row["latent"] for row in best_latents("adult", LATENTS, ["edema"])] == [2, 5, 1]
