"""Shares of recovered slices: a planted chance that any threshold but the smallest shows up."""

import numpy as np
import polars as pl
import pytest

from seglens.experiments.recovery_curve import THRESHOLDS, curve_rows, gained, paragraph

PATIENTS = [f"p{number // 5}" for number in range(60)]


def best_of_five(chance, spread):
    """Gains of the best of five edits by the slice's own mask, each as good as none on average."""
    return pl.Series(np.maximum(chance.normal(0, spread, (60, 5)).max(axis=1), 0.0))


def test_any_gain_counts_at_0_and_none_is_none():
    gain = pl.Series([0.0, 0.001, 0.05, -0.2])
    assert gained(gain, 0.0).to_list() == [False, True, True, False]
    assert gained(gain, 0.05).to_list() == [False, False, True, False]


def test_the_share_at_any_gain_is_chance_and_what_is_no_chance_is_told():
    """Latents that are as idle as random ones recover nearly all slices where any gain counts."""
    chance = np.random.default_rng(0)
    before = pl.Series(chance.uniform(0.1, 0.6, 60))
    random = [before + best_of_five(chance, 0.005) for _ in range(3)]
    idle = curve_rows(before, before + best_of_five(chance, 0.005), random, PATIENTS)
    assert [row["threshold"] for row in idle] == list(THRESHOLDS)
    assert idle[0]["recovered share"] > 0.9, "the natural reading of the paper would call this a success"
    assert idle[0]["random share"] > 0.9
    assert not any(row["more than random"] for row in idle)
    assert idle[3]["recovered share"] < 0.05
    useful = curve_rows(before, before + best_of_five(chance, 0.08), random, PATIENTS)
    assert not useful[0]["more than random"]
    assert useful[3]["more than random"] and useful[3]["difference low"] > 0.3
    assert (useful[0]["slices"], useful[0]["best Dice before"]) == (60, max(before))
    words = paragraph(useful, "adult, oracle")
    assert "of 60 slices (best Dice 0.6" in words
    assert "at any gain, not told from random latents" in words
    assert "at a gain of 0.05 or more, more than random latents" in words


def test_without_random_latents_nothing_is_said_of_them():
    before = pl.Series([0.1, 0.2])
    (first, *_) = curve_rows(before, before + 0.1, [], ["a", "b"])
    assert first["recovered share"] == 1
    assert first["random share"] is first["more than random"] is None


def test_differences_are_means_over_the_draws():
    before = pl.Series([0.0, 0.0, 0.0, 0.0])
    after = pl.Series([0.1, 0.1, 0.1, 0.0])
    random = [pl.Series([0.1, 0.0, 0.0, 0.0]), pl.Series([0.0, 0.0, 0.1, 0.1])]
    row = curve_rows(before, after, random, ["a", "a", "b", "b"])[3]
    assert row["random share"] == pytest.approx(3 / 8)
    assert row["difference"] == pytest.approx(6 / 8 - 3 / 8)
