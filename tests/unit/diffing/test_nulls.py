import polars as pl
import pytest
import torch

from seglens.activations.store import ActivationStore
from seglens.cohorts.patients import other_slice_rows
from seglens.diffing.nulls import NULLS, other_slices, permuted_tokens, white_noise

INDEX = pl.DataFrame(
    {
        "row": range(12),
        "patient": list("aaabbcdddeff"),
        "cohort": ["x"] * 6 + ["y"] * 6,
    }
)


def store(n=12, index=INDEX):
    grids = torch.randn(n, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6) + 7
    return ActivationStore.from_grids(
        grids, hookpoint="stage2", segmenter_hash="segmenter", slices_hash="slices", index=index
    )


def grids(made):
    return made.slice_tokens(torch.arange(made.n_slices))


@pytest.mark.parametrize("null", NULLS.values(), ids=NULLS)
def test_a_null_stands_in_the_original_s_place_and_follows_its_seed(null):
    original = store(index=None)
    made = null(original, seed=3)
    assert (made.grid, made.d_in, made.slices_hash) == (original.grid, original.d_in, original.slices_hash)
    assert made.index.equals(original.index)
    assert made.hash == null(original, seed=3).hash != null(original, seed=4).hash
    assert float(made.scale) == pytest.approx(float(original.scale), rel=0.1)


def test_permuted_tokens_are_the_same_tokens_elsewhere():
    original = grids(store()).flatten(0, 3)
    made = grids(permuted_tokens(store())).flatten(0, 3)
    assert torch.equal(made.sort(0).values, original.sort(0).values)
    assert (made == original).all(1).float().mean() < 0.1


def test_another_slice_is_of_another_patient():
    assert torch.equal(grids(other_slices(store(), seed=1)), grids(store())[other_slice_rows(INDEX, seed=1)])


def test_white_noise_has_no_direction_of_its_own():
    original = store(200, index=None)
    noise = grids(white_noise(original)).flatten(0, 3)
    covariance = torch.cov(noise.T)
    expected = torch.cov(grids(original).flatten(0, 3).T).trace() / 5
    torch.testing.assert_close(covariance, expected * torch.eye(5), atol=0.1 * float(expected), rtol=0)
    torch.testing.assert_close(noise.mean(0), original.centre, atol=0.3, rtol=0)
