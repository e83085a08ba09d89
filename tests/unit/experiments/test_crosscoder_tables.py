"""The ladder of a crosscoder holds every fit, and cosines are printed as numbers."""

import polars as pl
import pytest

from seglens.dictionaries.controls import DENSE, LENS, PIXELS, RANDOM_LATENTS, UNTRAINED_NETWORK
from seglens.experiments.crosscoder_tables import (
    EFFECTS,
    GRADIENTS,
    PERMUTED,
    PERMUTED_PLACES,
    PLACES,
    REAL,
    headlines,
    ladders_of,
    summarised,
    words_of,
)
from seglens.reports.ladders import ladder_rows

PAIR = "a / b"
VALUES = {
    (REAL, "shared"): [0.3, 0.4, 0.5],
    (REAL, EFFECTS): [0.1, 0.2, 0.3],
    (REAL, PLACES): [0.38, 0.39, 0.40],
    (REAL, PERMUTED): [-0.01, 0.0, 0.01],
    (REAL, PERMUTED_PLACES): [0.36, 0.38, 0.40],
    (REAL, GRADIENTS): [0.7, 0.8, 0.9],
    (UNTRAINED_NETWORK, "shared"): [0.2, 0.3, 0.4],
    (UNTRAINED_NETWORK, PLACES): [0.1, None, 0.2],
    (PIXELS, EFFECTS): [None, None, None],
}


@pytest.fixture
def fits():
    rows = [
        {"pair": PAIR, "condition": condition, "seed": seed, "figure": figure, "value": value}
        for (condition, figure), values in VALUES.items()
        for seed, value in enumerate(values)
    ]
    return pl.DataFrame(rows, schema_overrides={"value": pl.Float64})


def test_the_ladder_has_a_draw_for_every_fit(fits):
    rows = ladder_rows(ladders_of(fits, PAIR))

    def row(figure, features):
        return rows.row(by_predicate=(pl.col("claim") == f"{PAIR}, {figure}") & (pl.col("features") == features))[2:6]

    assert row("shared", UNTRAINED_NETWORK) == pytest.approx((0.3, 0.2, 0.4, 3))
    assert row("shared", LENS)[0] == pytest.approx(0.4)
    assert row(PLACES, UNTRAINED_NETWORK) == pytest.approx((0.15, 0.1, 0.2, 2))


def test_places_stand_beside_permuted_rows_and_the_gradients_alone(fits):
    rows = ladder_rows(ladders_of(fits, PAIR)).filter(pl.col("claim") == f"{PAIR}, {PLACES}")
    means = dict(rows.select("features", "mean").iter_rows())
    assert means[LENS] == pytest.approx(0.39)
    assert means[RANDOM_LATENTS] == pytest.approx(0.38) and means[DENSE] == pytest.approx(0.8)


def test_cosines_are_numbers_and_shares_are_percentages(fits):
    summary, matched = summarised(fits), pl.DataFrame(schema={"pair": pl.String, "compared": pl.String})
    longest = fits.clear()
    words = " ".join(words_of(summary, matched, longest, {PAIR: "one start"}))
    assert f"{PAIR}: 30.0%, and by effects on the classes 0.20 beside undefined" in words
    assert "effects 0.20 beside 0.00, places 0.39 beside 0.38, and 0.80 of the gradients alone" in words
    assert headlines(summary, matched, longest, PAIR)[f"{PERMUTED_PLACES}, {PAIR}"] == pytest.approx(0.38)
