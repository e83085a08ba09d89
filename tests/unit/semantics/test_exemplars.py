import pytest
import torch

from seglens.dictionaries.codes import Codes
from seglens.semantics.exemplars import TopExemplars, best_of

M, GRID, TOKENS = 9, (1, 3, 2), 6


def slices_of(n, seed=0):
    z = torch.rand(n, TOKENS, M, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    z[z < 0.8] = 0
    z[..., 0] = 0
    return z, torch.rand(n, TOKENS, 4, generator=torch.Generator().manual_seed(seed + 1))


def stream(z, pooled, batch, top_k, rank_by):
    top = TopExemplars(M, top_k, GRID, 4, rank_by)
    for start in range(0, len(z), batch):
        rows = list(range(start, min(start + batch, len(z))))
        top.update(Codes.from_dense(z[rows].reshape(-1, M)), rows, pooled[rows].reshape(-1, 4))
    return top.result()


def parts_of(kept):
    ranks = torch.cat([torch.arange(n) for n in kept.latents.unique(return_counts=True)[1]] or [kept.latents])
    return torch.stack([kept.latents, ranks, kept.rows], 1), kept.scores, kept.maps, kept.sums


@pytest.mark.parametrize("rank_by", ["mass", "peak"])
@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize("order", ["mixed", "rising", "falling"])
def test_equals_sorting_all_slices(rank_by, batch, order):
    z, pooled = slices_of(20)
    if order != "mixed":  # every slice enters, or none after the first
        by_mass = z.sum((1, 2)).argsort(descending=order == "falling")
        z, pooled = z[by_mass], pooled[by_mass]
    places, scores, maps, sums = parts_of(stream(z, pooled, batch, 4, rank_by))
    number = 0
    for latent in range(M):
        by_slice = z[:, :, latent].double().sum(1) if rank_by == "mass" else z[:, :, latent].double().amax(1)
        best = sorted(((-float(score), row) for row, score in enumerate(by_slice) if score > 0))[:4]
        for rank, (score, row) in enumerate(best):
            assert places[number].tolist() == [latent, rank, row]
            assert float(scores[number]) == -score
            assert torch.equal(maps[number].reshape(-1), z[row, :, latent])
            torch.testing.assert_close(sums[number], z[row, :, latent].double() @ pooled[row].double())
            number += 1
    assert number == len(places) > 20
    assert 0 not in places[:, 0]


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_slices_than_k(n):
    z, pooled = slices_of(n)
    places, scores, maps, _ = parts_of(stream(z, pooled, 2, 8, "mass"))
    assert len(places) == int((z.sum(1) > 0).sum())
    assert (scores > 0).all()
    for (latent, _, row), own in zip(places.tolist(), maps, strict=True):
        assert torch.equal(own.reshape(-1), z[row, :, latent])


def test_equal_slices_keep_the_earliest():
    z, pooled = slices_of(1)
    z, pooled = z.expand(7, -1, -1), pooled.expand(7, -1, -1)
    places, _, _, _ = parts_of(stream(z, pooled, 2, 3, "mass"))
    assert {tuple(rows.tolist()) for rows in places[:, 2].view(-1, 3)} == {(0, 1, 2)}


def test_nothing_fires():
    places, scores, maps, sums = parts_of(stream(torch.zeros(3, TOKENS, M), torch.ones(3, TOKENS, 4), 2, 2, "mass"))
    assert len(places) == len(scores) == len(maps) == len(sums) == 0


@pytest.mark.parametrize(("top_k", "rank_by"), [(0, "mass"), (3, "entropy")])
def test_refuses_other_settings(top_k, rank_by):
    with pytest.raises((ValueError, TypeError), match=r"top_k|rank_by"):
        TopExemplars(M, top_k, GRID, 4, rank_by)


def test_the_best_of_two_halves_are_the_best_of_all():
    z, pooled = slices_of(20)
    whole = stream(z, pooled, 3, 4, "mass")
    halves = []
    for first in range(2):
        top, rows = TopExemplars(M, 4, GRID, 4), list(range(first, 20, 2))
        top.update(Codes.from_dense(z[rows].reshape(-1, M)), rows, pooled[rows].reshape(-1, 4))
        halves.append(top.result())
    both = (halves[0] + halves[1]).taken(best_of(halves, 4))
    assert torch.equal(both.rows, whole.rows) and torch.equal(both.latents, whole.latents)
    assert torch.equal(both.maps, whole.maps)
