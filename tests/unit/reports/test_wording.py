import math

import pytest

from seglens.reports.wording import (
    count,
    duration,
    listed,
    number,
    percent,
    plain,
    plural,
    signed,
)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_no_number_is_a_dash_everywhere(value: float | None) -> None:
    assert {number(value), signed(value), percent(value), count(value), duration(value)} == {"–"}


def test_numbers_have_fixed_digits_and_a_true_minus() -> None:
    assert number(0.456) == "0.46"
    assert number(-0.456) == "−0.46"
    assert number(-0.001) == "0.00"
    assert number(3, 0) == "3"
    assert signed(0.06) == "+0.06"
    assert signed(-0.06) == "−0.06"
    assert signed(0.001) == "±0.00"
    assert percent(0.584) == "58%"
    assert percent(1) == "100%"
    assert count(12345) == "12\u202f345"


def test_durations_use_the_units_of_a_person() -> None:
    assert [duration(s) for s in (3.21, 42.4, 412, 7320)] == ["3.2 s", "42 s", "6 min 52 s", "2 h 2 min"]


def test_names_become_words() -> None:
    assert plain("necrotic_core") == "necrotic core"
    assert plain("held_out") == "held-out"
    assert plain("my-model") == "my-model"
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert [plural(n, "slice") for n in (0, 1, 2)] == ["0 slices", "1 slice", "2 slices"]
    assert plural(2, "dictionary", "dictionaries") == "2 dictionaries"
