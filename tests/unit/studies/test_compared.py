"""Two dictionaries are compared on the same slices, with their nulls beside."""

import polars as pl
import pytest

from seglens.artifacts import new_artifact, read_artifact
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.dictionaries.lens import Lens
from seglens.diffing.methods import alignment_methods
from seglens.diffing.records import PairRecord
from seglens.diffing.sharing import align
from seglens.runtime.progress import silent
from seglens.studies.compared import PROBE_SLICES, Compared, compare, probe_of, same_start
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.variants import REORDERED, RESEEDED, ROTATED, alive_latents, variant_store

FIT = FitSettings(steps=20, batch_size=128)


def fitted(store, **seeds):
    dictionary = fit_dictionary(store, k=2, expansion=4, settings=FIT, **seeds)
    return dictionary, alive_latents(dictionary, store)


def written(path, sides):
    with new_artifact(path, kind="alignment", inputs={}) as draft:
        compare(*sides, tau=0.8, seed=0, notes={"same_sae_seed": True}, draft=draft, progress=silent)
    return read_artifact(path)


def with_variants(name, store, segmenter, slices, seed=0):
    variants = {
        ROTATED: fitted(variant_store(store, ROTATED, 0), seed=seed),
        REORDERED: fitted(store, seed=seed, order_seed=seed + 1),
        RESEEDED: fitted(store, seed=seed + 1),
    }
    dictionary, alive = fitted(store, seed=seed)
    return Compared(name, Lens(segmenter, dictionary), alive, slices, variants)


def test_a_model_with_itself_is_all_shared_and_stands_beside_its_nulls(tmp_path, store, segmenter, slices):
    side = with_variants("a", store, segmenter, slices)
    artifact = written(tmp_path / "pair", (side, side))
    document = artifact.document("alignment")
    pair = artifact.record("pair", PairRecord)
    assert artifact.table("pairs")["shared"].all()
    rotated, alive = side.variants[ROTATED]
    by_hand = align(side.lens.dictionary, rotated, tau=0.8, alive_source=side.alive, alive_target=alive)
    assert document["floor"] == by_hand.shared_share  # after so few steps the seed alone makes latents alike
    assert document["ceiling"] > document["ceiling_other_seed"]
    assert pair.figures.functional > pair.figures.functional_floor
    assert pair.n_probe_slices == len(slices)
    assert set(artifact.table("methods")["method"]) >= {"hungarian_dual", "greedy", "sinkhorn", "encoder_only"}
    bounds = artifact.table("bounds")
    assert bounds["method"].to_list() == list(alignment_methods())
    ours = bounds.row(by_predicate=pl.col("method") == "hungarian_dual", named=True)
    assert [ours[name] for name in ("share", "floor", "ceiling")] == [1.0, document["floor"], document["ceiling"]]


def test_bounds_do_not_depend_on_which_side_is_the_source(tmp_path, store, segmenter, slices):
    one = with_variants("a", store, segmenter, slices)
    other = with_variants("b", store, segmenter, slices, seed=5)
    forth, back = written(tmp_path / "forth", (one, other)), written(tmp_path / "back", (other, one))
    for bound in ("floor", "ceiling", "ceiling_other_seed", "functional_ceiling"):
        assert getattr(forth.record("pair", PairRecord).figures, bound) == pytest.approx(
            getattr(back.record("pair", PairRecord).figures, bound)
        )
    assert len(forth.record("pair", PairRecord).bounds_by_side["ceiling"]) == 2


def test_without_one_activation_space_only_function_is_compared(tmp_path, store, segmenter, slices):
    dictionary, alive = fitted(store)
    side = Compared("a", Lens(segmenter, dictionary), alive, slices)
    artifact = written(tmp_path / "pair", (side, side))
    assert artifact.record("pair", PairRecord).comparable_by_weights is False
    assert not (artifact.path / "pairs.parquet").exists()
    assert artifact.table("functional").height > 0


def test_a_probe_is_bounded_and_spread(slices):
    many = slices.select(list(range(6)) * 60)
    assert len(probe_of(many)) == PROBE_SLICES // 2
    assert probe_of(many.select(range(190))).index["origin"].n_unique() == 6
    assert len(probe_of(slices)) == 6


def test_a_common_start_is_found_through_the_chain():
    settings = {
        "a": SegmenterSettings(cohort="x"),
        "b": SegmenterSettings(cohort="x", init_from="a"),
        "c": SegmenterSettings(cohort="x", init_from="b"),
        "d": SegmenterSettings(cohort="x"),
        "e": SegmenterSettings(cohort="x", pretrained=f"hub/model@{0:040x}"),
        "f": SegmenterSettings(cohort="x", pretrained=f"hub/model@{0:040x}"),
    }
    assert same_start(settings, "b", "c")
    assert same_start(settings, "a", "c")
    assert same_start(settings, "e", "f")
    assert same_start(settings, "a", "d")  # one seed draws the weights of both
    assert not same_start(settings, "a", "e")
    assert not same_start(settings | {"d": SegmenterSettings(cohort="x", architecture="unet")}, "b", "d")
