"""The table logic of the experiments, on small input with a known answer."""

import numpy as np
import polars as pl
import pytest
import torch

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.experiments import (
    NotApplicableError,
    alignment_methods,
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
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.stages import Study


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

    def test_random_latents_are_the_mean_over_their_draws(self):
        drawn = self.slices.with_columns(
            pl.Series("dice_random oracle 0", [0.4, 0.4, 0.1, 0.3]),
            pl.Series("dice_random oracle 1", [0.2, 0.4, 0.2, 0.3]),
            pl.Series("dice_random oracle 0 2", [0.9, 0.9, 0.9, 0.9]),
        )
        rows = {row["method"]: row for row in recovered_failures.recovered(drawn).iter_rows(named=True)}
        random = rows["random latents, oracle"]
        assert random["recovered share"] == pytest.approx((0.25 + 0.25) / 2)
        assert random["gain"] == pytest.approx((0.2 + 0.1) / 8)
        curve = recovered_failures.recovery_curve(drawn)
        assert set(curve["failures"]) == {"worst 60", "worst 60, Dice below 0.5"}
        first = curve.row(0, named=True)
        assert (first["policy"], first["threshold"], first["recovered share"]) == ("oracle", 0, 0.5)
        assert first["random share"] == 0.25
        found = recovered_failures.curve_headlines(curve.select(pl.lit("adult").alias("cohort"), pl.all()))
        assert found["recovered share at any gain, random latents, oracle, adult"] == 0.25

    def test_the_worst_of_good_slices_are_no_failures(self):
        good = self.slices.with_columns(pl.col("dice_before") + 0.3, pl.col("dice_oracle") + 0.3)
        curve = recovered_failures.recovery_curve(good).filter(threshold=0.05)
        counts = dict(curve.select("failures", "slices").iter_rows())
        assert counts == {"worst 60": 4, "worst 60, Dice below 0.5": 1}

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


def test_random_latents_have_no_more_factors_to_choose_among_than_those_of_the_class():
    """The best factor recovers half of the slices, of random latents on average too: the best of all draws flatters."""
    idle, helps = (10, 90, 20), (18, 20, 20)
    edits = {
        "zeroed": (helps, idle), "random 0, zeroed": (helps, helps), "random 1, zeroed": (idle, idle),
        "random 1, amplified (x 2)": (helps, idle), "random 2, zeroed": (idle, idle),
    }  # fmt: skip
    edits = {"none": (idle, idle), **edits}
    scores = scores_of([(edit, row, *counts) for edit, own in edits.items() for row, counts in enumerate(own)])
    modes = classes.by_mode(scores, classes.failing_slices(scores, 1), 1)
    assert modes["draw"].to_list() == [None, 0, 1, 1, 2] * 2
    bounds = classes.headlines(modes, pl.DataFrame({"method": []}), "edema")
    assert bounds["upper bound of the recovered share, FP"] == 0.5
    assert bounds["upper bound of the recovered share, random FP"] == pytest.approx((1 + 0.5 + 0) / 3)


def swept(rows):
    """Scores of four slices, two with too much and two with too little, under the factors given by edit."""
    kinds = [(10, 90, 20), (10, 90, 20), (10, 10, 90), (10, 10, 90)]
    none = [("none", row, *counts) for row, counts in enumerate(kinds)]
    return scores_of(none + [(edit, row, *counts) for edit, own in rows.items() for row, counts in enumerate(own)])


def test_the_action_by_kind_of_failure_recovers_what_no_single_factor_does():
    """Less where too much is predicted, more where too little: each factor alone harms the other half."""
    less = [(18, 20, 20)] * 2 + [(0, 0, 90)] * 2
    more = [(5, 180, 20)] * 2 + [(80, 90, 90)] * 2
    idle = [(10, 90, 20)] * 2 + [(10, 10, 90)] * 2
    edits = {"zeroed": less, "amplified (x 2)": more, "random 0, zeroed": idle, "random 0, amplified (x 2)": idle}
    scores = swept(edits)
    failing = classes.failing_slices(scores, 1)
    single = classes.by_mode(scores, failing, 1).filter(
        (pl.col("mode") == "all") & (pl.col("latents") == "of the class")
    )
    assert single["recovered share"].max() == 0.5
    actions, taken = classes.by_action(scores, failing, scores, failing, 1)
    every = actions.filter((pl.col("mode") == "all") & (pl.col("threshold") == 0.05))
    assert every["recovered share"].to_list() == [1, 1]
    assert every["random share"].to_list() == [0, 0]
    assert set(every["action"]) == set(classes.ACTIONS)
    own = {row["mode"]: row["action"] for row in taken.filter(latents="of the class").iter_rows(named=True)}
    assert own == {"FP": "zeroed", "FN": "amplified (x 2)", "mixed": "none"}
    assert "recovered by slice, by its own mask, any gain" in classes.action_headlines(actions)


def test_an_action_is_chosen_on_other_slices_than_it_is_judged_on():
    """On the val slices amplifying helps misses; on the test slices it harms: the choice must not see that."""
    helps, harms = [(10, 90, 20)] * 2 + [(80, 90, 90)] * 2, [(10, 90, 20)] * 2 + [(0, 0, 90)] * 2
    test, val = swept({"amplified (x 2)": harms}), swept({"amplified (x 2)": helps})
    actions, _ = classes.by_action(test, classes.failing_slices(test, 1), val, classes.failing_slices(val, 1), 1)
    rows = actions.filter((pl.col("mode") == "FN") & (pl.col("threshold") == 0))
    share = dict(rows.select("action", "recovered share").iter_rows())
    assert share[classes.ACTIONS[0]] == 0


def test_the_weakest_class_is_chosen_on_val_patients(monkeypatch):
    """On the test patients another class is the weaker one."""

    class FakeStudy(Study):
        def __init__(self):
            pass

        def segmenter(self, name):
            return None

        def own_slices(self, name, split):
            return split

    def evaluated(segmenter, split):
        hits = {"val": {"core": 80, "edema": 30}, "test": {"core": 10, "edema": 90}}[split]
        rows = [
            scores_of([("none", 0, count, 100, 100)]).table.with_columns(
                pl.lit(name).alias("class"), pl.lit(label, SCHEMA["label"]).alias("label")
            )
            for label, (name, count) in enumerate(hits.items(), 1)
        ]
        return Scores(pl.concat(rows))

    monkeypatch.setattr(classes, "evaluate", evaluated)
    assert classes.weakest_class(FakeStudy(), "adult") == ("edema", pytest.approx(0.3))


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


def test_steered_sets_are_equally_many_and_alike_in_firing_and_mass():
    """Latent 0 is the heaviest universal one by far; the heaviest of each kind would not be alike."""
    sets = universal.steered_sets(LATENTS, universal=[0, 4, 7], specific=[6, 5], seed=0)
    assert (sets["universal"], sets["specific"]) == ((4,), (5,))
    assert all(len(own) == 1 and 7 not in own for own in sets.values())
    with pytest.raises(NotApplicableError, match="0 universal, 1 specific and 0 such pairs"):
        universal.steered_sets(LATENTS, universal=[7], specific=[5], seed=0)
    with pytest.raises(NotApplicableError, match="1 universal, 1 specific and 0 such pairs"):
        universal.steered_sets(LATENTS, universal=[0], specific=[6], seed=0)


def steered(hits, patients=12):
    """Scores of a cohort in which each set leaves so many of 100 pixels right at every alpha, give or take three."""
    chance = np.random.default_rng(0)
    edits = {"none": hits["none"]} if "none" in hits else {}
    edits |= {f"{kind} {alpha:g}": hits[kind] for kind in hits if kind != "none" for alpha in universal.ALPHAS}
    rows = [
        (edit, patient, count + int(chance.integers(-3, 4)), 100, 100)
        for edit, count in edits.items()
        for patient in range(patients)
    ]
    table = scores_of(rows).table
    return Scores(table.with_columns(("p" + pl.col("row").cast(pl.String)).alias("patient")))


@pytest.mark.parametrize(
    ("specific_elsewhere", "selective"),
    [(60, False), (80, True)],  # as costly elsewhere as at home; costly at home alone
)
def test_selective_means_an_interaction_and_not_a_large_move(specific_elsewhere, selective):
    sets = ("universal", "specific", "random 0", "random 1")
    at_home = {"none": 100, "universal": 80, "specific": 60, "random 0": 79, "random 1": 81}
    elsewhere = at_home | {"specific": specific_elsewhere}
    tested = universal.interactions({"other": steered(elsewhere), "adult": steered(at_home)}, "adult", sets)
    over_all = tested.filter(pl.col("alpha").is_null())
    assert over_all["less"].to_list() == ["universal", "random"]
    assert over_all["selective"].to_list() == [selective, selective]
    assert over_all["cost on the own cohort"].to_list() == pytest.approx([0.2, 0.2], abs=0.02)
    assert over_all["interaction"].to_list() == pytest.approx([0.2 * selective] * 2, abs=0.02)
    found = universal.interaction_headlines(tested)
    assert (found["interaction, specific less universal, low"] > 0) == selective


def test_where_there_is_more_to_lose_more_is_lost_and_that_is_no_interaction():
    """Every set takes the same share of the Dice of either cohort: in points specific latents cost twice at home."""
    sets = ("universal", "specific", "random 0", "random 1")
    at_home = {"none": 80, "universal": 72, "specific": 40, "random 0": 72, "random 1": 72}
    elsewhere = {name: count // 2 for name, count in at_home.items()}
    tested = universal.interactions({"adult": steered(at_home), "other": steered(elsewhere)}, "adult", sets)
    assert not tested["selective"].any()
    over_all = tested.filter(pl.col("alpha").is_null())
    assert over_all["cost on the own cohort"].to_list() == pytest.approx([0.4, 0.4], abs=0.02)
    assert over_all["interaction"].to_list() == pytest.approx([0, 0], abs=0.02)
    nothing = steered({"none": 0, **dict.fromkeys(sets, 0)})
    undefined = Scores(nothing.table.with_columns(pl.lit(0, SCHEMA["tp"]).alias("tp")))
    tested = universal.interactions({"adult": steered(at_home), "other": undefined}, "adult", sets)
    assert tested["interaction"].null_count() == len(tested)
    assert not tested["selective"].any()


def test_without_another_cohort_there_is_no_interaction():
    assert universal.interactions({"adult": steered({"universal": 80})}, "adult", ("universal",)).is_empty()


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
