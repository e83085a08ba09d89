"""The variants differ from the plain fit in exactly what they are for."""

import torch

from seglens.dictionaries.sae import SparseAutoencoder
from seglens.studies.variants import (
    PLAIN,
    REORDERED,
    RESEEDED,
    ROTATED,
    activations_of,
    alive_latents,
    random_rotation,
    variant_seeds,
    variant_store,
)


def test_a_random_rotation_is_orthogonal_and_seeded():
    rotation = random_rotation(16, seed=3)
    assert torch.allclose(rotation @ rotation.T, torch.eye(16), atol=1e-5)
    assert torch.equal(rotation, random_rotation(16, seed=3))
    assert not torch.allclose(rotation, random_rotation(16, seed=4))


def test_variants_change_one_thing_each():
    assert variant_seeds(PLAIN, 5) == variant_seeds(ROTATED, 5) == (5, 5)
    assert variant_seeds(REORDERED, 5) == (5, 6)
    assert variant_seeds(RESEEDED, 5) == (6, 6)


def test_only_the_rotated_variant_sees_other_activations(store):
    assert variant_store(store, PLAIN, 0) is variant_store(store, RESEEDED, 0) is store
    rotated = variant_store(store, ROTATED, 0)
    rows = torch.arange(store.n_tokens)
    plain, turned = store.tokens(rows) - store.centre, rotated.tokens(rows) - rotated.centre
    assert torch.allclose(plain @ plain.T, turned @ turned.T, atol=1e-4)
    assert not torch.allclose(plain, turned, atol=1e-2)


def test_alive_means_firing(store):
    dictionary = SparseAutoencoder(store.d_in, 32, k=4)
    dictionary.b_enc[:8] = -1e6
    alive = alive_latents(dictionary, store)
    assert not alive[:8].any()
    assert alive[8:].any()


def test_activations_of_a_stage_are_stored_found_again_or_computed(segmenter, slices, store, tmp_path):
    stored = activations_of(segmenter, slices, "middle", tmp_path / "test")
    written = (tmp_path / "test" / "manifest.json").stat().st_mtime_ns
    found = activations_of(segmenter, slices, "middle", tmp_path / "test")
    assert (tmp_path / "test" / "manifest.json").stat().st_mtime_ns == written
    computed = activations_of(segmenter, slices, "middle", None)
    every = torch.arange(store.n_tokens)
    for one in (stored, found, computed):
        assert torch.equal(one.tokens(every), store.tokens(every))
        assert torch.equal(one.centre, store.centre)
        assert one.scale == store.scale
    assert stored.hash == found.hash == store.hash
