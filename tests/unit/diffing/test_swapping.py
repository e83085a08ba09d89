import numpy as np
import polars as pl
import pytest
import torch

from seglens.dictionaries.codes import Codes
from seglens.diffing.sharing import PAIR_COLUMNS
from seglens.diffing.swapping import pairs_of, swap_codes, swap_correlation


def random_codes(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, m, generator=generator) * (torch.rand(n, m, generator=generator) < 0.4)


@pytest.mark.parametrize(("sources", "targets"), [([3, 0, 5], [1, 6, 2]), ([2, 4], [6, 6]), ([], [])])
def test_equals_assigning_dense_columns(sources, targets):
    a, b = random_codes(20, 6, 0), random_codes(20, 8, 1)
    got = swap_codes(
        Codes.from_dense(a),
        Codes.from_dense(b),
        torch.tensor(sources).long(),
        torch.tensor(targets).long(),
        factor=0.5,
    )
    expected = a.clone()
    for source, target in zip(sources, targets, strict=True):
        expected[:, source] = b[:, target] * 0.5
    assert torch.equal(got.to_dense(), expected)
    reference = Codes.from_dense(expected)
    assert torch.equal(got.latents, reference.latents) and torch.equal(got.offsets, reference.offsets)


def test_swapping_with_oneself_changes_no_bit():
    codes = Codes.from_dense(random_codes(15, 5, 2))
    latents = torch.tensor([4, 1, 2])
    same = swap_codes(codes, codes, latents, latents, factor=1.0)
    for name in ("offsets", "latents", "values"):
        assert torch.equal(getattr(same, name), getattr(codes, name))


def test_correlation_before_and_after():
    a = random_codes(200, 4, 3)
    b = torch.stack([a[:, 0] * 3, random_codes(200, 1, 4)[:, 0], torch.zeros(200)], dim=1)
    before, other = Codes.from_dense(a), Codes.from_dense(b)
    latents = torch.tensor([0, 1, 2])
    table = swap_correlation(before, swap_codes(before, other, latents, latents, factor=1.0), latents)
    assert table["latent"].to_list() == [0, 1, 2]
    assert table["correlation"][0] == pytest.approx(1)
    assert table["correlation"][1] == pytest.approx(np.corrcoef(a[:, 1], b[:, 1])[0, 1], abs=1e-6)
    assert table["correlation"][2] == 0
    assert table["active_before"].to_list() == (a[:, :3] > 0).sum(0).tolist()
    assert table["active_after"].to_list() == (b > 0).sum(0).tolist()


def test_pairs_inside_and_outside_s():
    rows = [(0, 4, 4, 0.9, 0.9, True), (1, 3, 2, 0.5, 0.1, False), (2, 0, 0, 0.9, 0.9, True)]
    pairs = pl.DataFrame(rows, schema=PAIR_COLUMNS, orient="row")
    assert [part.tolist() for part in pairs_of(pairs, shared=True)] == [[0, 2], [4, 0]]
    assert [part.tolist() for part in pairs_of(pairs, shared=False)] == [[1], [3]]


@pytest.mark.parametrize(
    ("n", "sources", "targets", "message"),
    [
        (9, [0], [0], "8 and of 9 tokens"),
        (8, [0, 0], [0, 1], "1 different"),
        (8, [0, 1], [0], "2 source latents"),
        (8, [9], [0], "source latents reach 9"),
        (8, [0], [-1], "target latents reach -1"),
    ],
)
def test_refusals(n, sources, targets, message):
    a, b = Codes.from_dense(random_codes(8, 4, 0)), Codes.from_dense(random_codes(n, 4, 1))
    with pytest.raises(ValueError, match=message):
        swap_codes(a, b, torch.tensor(sources), torch.tensor(targets), factor=1.0)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_units_must_be_comparable(factor):
    codes, latents = Codes.from_dense(random_codes(8, 4, 0)), torch.tensor([0])
    with pytest.raises(ValueError, match="factor between the dictionaries' units"):
        swap_codes(codes, codes, latents, latents, factor=factor)
