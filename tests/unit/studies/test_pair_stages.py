"""Two dictionaries are compared on the same slices, with their nulls beside."""

import torch

from seglens.artifacts import new_artifact, read_artifact
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.diffing.sharing import align
from seglens.studies.dictionary_stages import ROTATED, alive_latents, variant_store
from seglens.studies.pair_stages import PROBE_SLICES, Controls, Side, _other_slices, compare, probe_of, same_start
from seglens.studies.settings import SegmenterSettings

FIT = FitSettings(steps=20, batch_size=128)


def fitted(store, **seeds):
    dictionary = fit_dictionary(store, k=2, expansion=4, settings=FIT, **seeds)
    return dictionary, alive_latents(dictionary, store)


def written(tmp_path, sides, controls):
    with new_artifact(tmp_path / "pair", kind="alignment", inputs={}) as draft:
        compare(
            sides, controls, tau=0.8, seed=0, notes={"same_sae_seed": True}, draft=draft, progress=lambda *a, **k: None
        )
    return read_artifact(tmp_path / "pair")


def test_a_model_with_itself_is_all_shared_and_stands_beside_its_nulls(tmp_path, store, segmenter, slices):
    plain = fitted(store)
    side = Side("a", segmenter, *plain, slices)
    rotated = fitted(variant_store(store, ROTATED, 0))
    controls = Controls(rotated, fitted(store, order_seed=1), fitted(store, seed=1))
    artifact = written(tmp_path, (side, side), controls)
    document = artifact.document("alignment")
    pair = artifact.document("pair")
    assert artifact.table("pairs")["shared"].all()
    by_hand = align(plain[0], rotated[0], tau=0.8, alive_source=plain[1], alive_target=rotated[1])
    assert document["floor"] == by_hand.shared_share  # after so few steps the seed alone makes latents alike
    assert document["ceiling"] > document["ceiling_other_seed"]
    assert pair["figures"]["functional"] > pair["figures"]["functional_floor"]
    assert pair["n_probe_slices"] == len(slices)
    assert set(artifact.table("methods")["method"]) >= {"hungarian_dual", "greedy", "sinkhorn", "encoder_only"}


def test_without_one_activation_space_only_function_is_compared(tmp_path, store, segmenter, slices):
    side = Side("a", segmenter, *fitted(store), slices)
    artifact = written(tmp_path, (side, side), None)
    assert artifact.document("pair")["comparable_by_weights"] is False
    assert not (artifact.path / "pairs.parquet").exists()
    assert artifact.table("functional").height > 0


def test_the_null_takes_other_slices_at_the_same_place():
    codes = Codes.from_dense(torch.arange(24.0).reshape(12, 2) + 1)
    moved = _other_slices(codes, 3).to_dense()
    assert torch.equal(moved, codes.to_dense().reshape(4, 3, 2).roll(2, dims=0).reshape(12, 2))
    assert not (moved == codes.to_dense()).any()


def test_a_probe_is_bounded_and_spread(slices):
    many = slices.select(list(range(6)) * 60)
    assert len(probe_of(many)) == PROBE_SLICES // 2
    assert len(probe_of(slices)) == 6


def test_a_common_start_is_found_through_the_chain():
    settings = {
        "a": SegmenterSettings(cohort="x"),
        "b": SegmenterSettings(cohort="x", init_from="a"),
        "c": SegmenterSettings(cohort="x", init_from="b"),
        "d": SegmenterSettings(cohort="x"),
        "e": SegmenterSettings(cohort="x", pretrained="hub/model"),
        "f": SegmenterSettings(cohort="x", pretrained="hub/model"),
    }
    assert same_start(settings, "b", "c")
    assert same_start(settings, "a", "c")
    assert same_start(settings, "e", "f")
    assert not same_start(settings, "a", "d")
