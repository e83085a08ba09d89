import polars as pl
import pytest

from seglens.dictionaries.lens import Lens
from seglens.explorer.opened import UnknownError
from seglens.explorer.zeroing import compared, compared_rows, measured_effects, strongest
from seglens.steering.edits import LatentEdit, steer


def pooled_dice(first, slices, rows, latent=None):
    """Of the tumour over all pixels of these slices, with a latent zeroed where one is given."""
    edits = [] if latent is None else [LatentEdit(first.hookpoint, first.dictionary.hash, (latent,), "zero")]
    with steer(Lens(first.segmenter, first.dictionary), *edits):
        said = first.segmenter.predict(slices.images(rows)) == 1
    truth = slices.masks(rows) == 1
    both = int(said.sum() + truth.sum())
    return 2 * int((said & truth).sum()) / both if both else None


def test_compared_slices_are_unseen(explored, first, slices):
    rows = compared_rows(explored, first)
    assert 0 < len(rows) <= 16
    assert rows == sorted(set(rows))
    assert set(slices.index[rows]["split"]) == {"val", "test"}


def test_a_change_is_the_dice_without_less_the_dice_with(held, explored, first, slices, alive):
    other = (alive + 1) % first.dictionary.n_latents
    changes = compared("first", held, [alive, other])
    rows = compared_rows(explored, first)
    for change, latent in zip(changes, (alive, other), strict=True):
        assert change.latent == latent
        expected = pooled_dice(first, slices, rows, latent) - pooled_dice(first, slices, rows)
        assert change.dice["tumour"] == pytest.approx(expected, abs=1e-9)
        assert change.dice["foreground"] == pytest.approx(expected, abs=1e-9)  # there is one class


def test_what_was_measured_is_kept_and_stands_in_columns(held, first, alive, monkeypatch):
    assert measured_effects(first).null_count().row(0) == (first.dictionary.n_latents,) * 2
    (change,) = compared("first", held, [alive])
    monkeypatch.setattr("seglens.explorer.zeroing.sweep", None)  # a second measurement would fail
    assert compared("first", held, [alive]) == [change]
    table = measured_effects(first)
    assert table.columns == ["effect_foreground", "effect_tumour"]
    assert table.schema == {"effect_foreground": pl.Float64, "effect_tumour": pl.Float64}
    assert table["effect_tumour"][alive] == change.dice["tumour"]
    assert table.null_count().row(0) == (first.dictionary.n_latents - 1,) * 2


def test_on_its_own_strongest_slices(held, first, slices, alive):
    unseen = [row for row, split in enumerate(slices.index["split"]) if split != "train"]
    rows = [unseen[row] for row in first.atlas.exemplars_of(alive)[0]["row"].to_list()[:8]]
    found = strongest("first", alive, held)
    assert found.n_slices == len(rows) > 0
    tumour = next(one for one in found.classes if one.label == "tumour")
    assert tumour.before == pytest.approx(pooled_dice(first, slices, rows), abs=1e-9)
    assert tumour.after == pytest.approx(pooled_dice(first, slices, rows, alive), abs=1e-9)


def test_a_latent_that_never_fires_has_no_slices(held, first):
    dead = first.atlas.table["mass"].to_list()
    for latent in (number for number, mass in enumerate(dead) if mass == 0):
        assert strongest("first", latent, held).n_slices == 0
    with pytest.raises(UnknownError, match="not 100000"):
        strongest("first", 100000, held)
