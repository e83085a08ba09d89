"""Words of the controls say what the figures say, and no more."""

import polars as pl
import pytest

from seglens.dictionaries.controls import (
    LENS,
    PIXELS,
    RANDOM_LATENTS,
    RUNGS,
    SHUFFLED,
    UNTRAINED_DICTIONARY,
    UNTRAINED_NETWORK,
    LeftOut,
)
from seglens.experiments.differential import _beside
from seglens.experiments.differential_controls import CHANNELS, PRINCIPAL, WEIGHTED
from seglens.experiments.differential_tables import ladders_of, words_of

DICE = pl.DataFrame({"factor": ["noise", "contrast"], "costs Dice": [True, False]})


def summary(**changed):
    """Features, found and within: those of the lens but for what is changed."""
    plain = [f"{UNTRAINED_NETWORK} {draw}" for draw in range(3)] + [UNTRAINED_DICTIONARY, CHANNELS, PRINCIPAL, PIXELS]
    by_effect = [name + WEIGHTED for name in (LENS, CHANNELS, PIXELS, SHUFFLED, RANDOM_LATENTS)]
    rows = []
    for name in (LENS, *plain, SHUFFLED, RANDOM_LATENTS, *by_effect):
        found, within = changed.get(name.split()[0], (6, 0.9))
        counts = dict.fromkeys(("found", "found that cost Dice"), None if name.startswith(RANDOM_LATENTS) else found)
        rows.append({"features": name, "draw": 0, **counts, "within": within, "between": 0.7, "order of costs": 0.5})
    return pl.DataFrame(rows, infer_schema_length=None)


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ((6, 0.9), "as many factors or more, and as strong"),
        ((7, 0.95), "as many factors or more, and as strong"),
        ((6, 0.8), "as many factors or more, but weaker"),
        ((7, 0.6), "as many factors or more, but weaker"),
        ((5, 0.99), "fewer factors"),
    ],
)
def test_what_finds_as_much_and_answers_less_is_not_said_to_find_less(figures, told):
    words = words_of(summary(pixels=figures, untrained=(2, 0.6)), DICE)[0]
    same = "as many factors or more, and as strong"
    assert f"Beside the lens: untrained network, fewer factors; channels, {same}; pixels, {told}." in words
    assert f"pixels {figures[0]:.1f} ({figures[1]:.2f} within patients)" in words
    assert "untrained network 2.0 (0.60 within patients)" in words and "untrained network 0" not in words


def test_random_latents_have_found_nothing_of_their_own():
    table = summary(random=(6, 0.55))
    words, headline = words_of(table, DICE)[0], _beside(table)
    assert "random latents 6" not in words and "answer at 0.55 within patients" in words
    assert f"{RANDOM_LATENTS}: found" not in headline and f"{RANDOM_LATENTS}: found that cost Dice" not in headline
    assert (headline[f"{RANDOM_LATENTS}: within"], headline[f"{LENS}: found"]) == (0.55, 6)


def test_by_effect_only_what_takes_another_backward_pass_is_left_out():
    ladder = ladders_of(summary())[-1]
    left_out = [rung for rung in RUNGS if isinstance(ladder.rungs[rung], LeftOut)]
    assert left_out == [UNTRAINED_NETWORK, UNTRAINED_DICTIONARY]
    assert "backward pass" in ladder.rungs[UNTRAINED_NETWORK].reason
    assert ladder.rungs[RANDOM_LATENTS] == ladder.rungs[SHUFFLED] == [0.5]
