import os
import sys
from dataclasses import dataclass

import pytest

from seglens import entry_points
from seglens.entry_points import declared, refuse_taken, with_installed


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


def test_packages_are_looked_through_once_and_again_when_a_folder_has_changed(tmp_path, monkeypatch):
    looked, real = [], entry_points.entry_points

    def counted(**wanted):
        looked.append(wanted)
        return real(**wanted)

    monkeypatch.setattr(entry_points, "entry_points", counted)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # others may write to the folders that were there
    assert declared("pantry") == declared("pantry") == ()
    assert len(looked) == 1
    about = tmp_path / "larder-1.dist-info"
    about.mkdir()
    os.utime(tmp_path, ns=(0, 0))  # a change at the same tick of a coarse clock would go unseen
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: larder\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[pantry]\nolio = larder:OLIO\n")
    assert [(entry.name, entry.value) for entry in declared("pantry")] == [("olio", "larder:OLIO")]
    assert len(looked) == 2
