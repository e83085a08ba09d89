from dataclasses import dataclass

import pytest

from seglens.entry_points import refuse_taken, with_installed


@dataclass(frozen=True)
class Dish:
    name: str


def test_installed_rows_follow_the_own_ones_in_the_order_of_their_names(installed):
    installed("kitchen", zuppa=Dish("zuppa"), arrosto=Dish("arrosto"))
    assert list(with_installed("kitchen", [Dish("pane")], Dish)) == ["pane", "arrosto", "zuppa"]
    assert list(with_installed("cellar", [Dish("pane")], Dish)) == ["pane"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Dish("pane"), "bad = .* of kitchen.* is called 'pane', as another row is"),
        ("zuppa", "gives a str; it must give a Dish"),
        (ImportError("no module named oven"), r"cannot be loaded \(no module named oven\); mend or uninstall"),
    ],
)
def test_what_cannot_be_a_row_is_refused_with_its_origin(installed, row, message):
    installed("kitchen", bad=row)
    with pytest.raises(ValueError, match=message):
        with_installed("kitchen", [Dish("pane")], Dish)


def test_a_taken_name_is_refused_before_anything_is_loaded(installed):
    installed("kitchen", pane=ImportError("never asked"))
    refuse_taken("kitchen", ["olio"])
    with pytest.raises(ValueError, match=r"the entry point pane = .* of kitchen is called 'pane', as another row is"):
        refuse_taken("kitchen", ["pane"])
