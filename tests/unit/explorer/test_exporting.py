import io
import json
from functools import partial

import numpy as np
import polars as pl
import pytest
from anyio import run as wait_for

from seglens.explorer import exporting
from seglens.explorer.exporting import export, places, principal_places
from seglens.explorer.names import GivenName


def by_svd(rows):
    """Places of unit rows along their two leading principal axes, up to sign, and the share explained."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T, float((sizes[:2] ** 2).sum() / (sizes**2).sum())


@pytest.mark.parametrize("part", [7, 2048])
def test_places_are_principal_components(monkeypatch, part):
    monkeypatch.setattr(exporting, "PART", part)
    rows = np.random.default_rng(0).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    found, explained = principal_places(rows)
    expected, share = by_svd(rows)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)
    assert explained == pytest.approx(share, rel=1e-9)


def test_rows_of_zeros_have_no_place_and_move_no_other():
    rows = np.random.default_rng(1).normal(size=(20, 5))
    with_zeros = np.insert(rows, [0, 4, 20], 0.0, axis=0)
    found, explained = principal_places(with_zeros)
    without, share = principal_places(rows)
    nothing = (with_zeros == 0).all(1)
    assert np.isnan(found[nothing]).all()
    np.testing.assert_array_equal(found[~nothing], without)
    assert explained == share
    empty, share = principal_places(np.zeros((3, 4)))
    assert np.isnan(empty).all() and share == 0.0


def test_the_map_by_decoder_and_by_codes(held, first, slices, dense, shown):
    arrays, about = shown(wait_for(partial(places, "first", held)))
    expected, share = by_svd(first.dictionary.W_dec.detach().double().numpy())
    np.testing.assert_allclose(np.abs(arrays["places"]), np.abs(expected), atol=1e-3)
    assert about == {"explained": pytest.approx(share, rel=1e-4), "of": "decoder"}
    arrays, about = shown(wait_for(partial(places, "first", held, "codes")))
    unseen = [row for row, split in enumerate(slices.index["split"]) if split != "train"]
    fires = (dense[unseen] > 0).flatten(0, 3).any(0).numpy()
    np.testing.assert_array_equal(np.isfinite(arrays["places"]).all(1), fires)
    assert about["of"] == "codes"


def test_every_form_holds_the_atlas_and_the_given_names(held, first, alive):
    held.names.give(first.dictionary_hash, alive, GivenName(name="=1+1", who="me", confidence=0.5))
    table = first.atlas.table
    csv = pl.read_csv(io.BytesIO(export("first", held, "csv").body))
    rows = json.loads(export("first", held, "json").body)
    parquet = pl.read_parquet(io.BytesIO(export("first", held, "parquet").body))
    for mass in (csv["mass"].to_list(), [row["mass"] for row in rows], parquet["mass"].to_list()):
        assert mass == pytest.approx(table["mass"].to_list(), rel=1e-6)
    # a spreadsheet must not compute it, other readers get it as it was given
    assert csv["given_name"][alive] == "'=1+1"
    assert rows[alive]["given_name"] == parquet["given_name"][alive] == "=1+1"
    assert (parquet["given_who"][alive], parquet["given_confidence"][alive]) == ("me", 0.5)
    assert parquet["given_name"].null_count() == table.height - 1
    assert parquet.select(table.columns).equals(table)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_a_browser_saves_it_under_a_name(held, form):
    answer = export("first", held, form)
    assert answer.headers["content-disposition"] == f'attachment; filename="latents.{form}"'
