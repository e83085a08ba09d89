from itertools import permutations
from math import prod

import numpy as np
import polars as pl
import pytest
import torch

from seglens.dictionaries.codes import Codes
from seglens.diffing.alignment import Alignment
from seglens.diffing.functional import (
    calibrated_correlation,
    common_grid,
    firing_overlap,
    functional_alignment,
    pair_correlations,
    pool_codes,
    weight_matched_function,
)
from seglens.diffing.sharing import PAIR_COLUMNS


def random_codes(n, m, seed=0, density=0.3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, m, generator=generator) * (torch.rand(n, m, generator=generator) < density)


def numpy_correlation(x, y):
    return np.corrcoef(x.double().numpy(), y.double().numpy())[0, 1]


@pytest.mark.parametrize(("m_a", "m_b"), [(5, 5), (4, 6), (6, 4)])
def test_equals_trying_every_assignment_of_dense_correlations(m_a, m_b):
    a, b = random_codes(80, m_a, 1), random_codes(80, m_b, 2)
    b[:, 1] = a[:, 3] * 2 + 0.1 * b[:, 1]
    c = [[numpy_correlation(a[:, i], b[:, j]) for j in range(m_b)] for i in range(m_a)]
    found = functional_alignment(Codes.from_dense(a), Codes.from_dense(b))
    got = found.pairs
    for i, j, correlation in got.rows():
        assert correlation == pytest.approx(c[i][j], abs=1e-6)
    small = min(m_a, m_b)
    if m_a <= m_b:
        best = max(sum(c[i][j] for i, j in enumerate(p)) for p in permutations(range(m_b), m_a))
    else:
        best = max(sum(c[i][j] for j, i in enumerate(p)) for p in permutations(range(m_a), m_b))
    assert got.height == small and found.mean_correlation == pytest.approx(best / small, abs=1e-6)
    assert (3, 1) in got.select("source_latent", "target_latent").rows()
    assert found.share_above(0.9) == 1 / small


def test_recovers_a_permutation_and_leaves_the_dead_out():
    a = random_codes(300, 12, 3)
    a[:, 5] = 0
    a[:, 6] = 0
    a[0, 6] = 1  # fires once only
    a[:, 7] = 0.5  # never changes
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    found = functional_alignment(Codes.from_dense(a), Codes.from_dense(a[:, order]))
    live = [i for i in range(12) if i not in (5, 6, 7)]
    assert found.live_source == found.live_target == 9 and found.n_tokens == 300
    assert dict(found.pairs.select("source_latent", "target_latent").rows()) == {
        i: order.argsort().tolist()[i] for i in live
    }
    assert found.mean_correlation == pytest.approx(1, abs=1e-6)


def test_nothing_fires():
    silent = Codes.from_dense(torch.zeros(10, 4))
    found = functional_alignment(silent, Codes.from_dense(random_codes(10, 3)))
    assert found.mean_correlation is None and found.pairs.height == 0 and found.share_above() == 0
    assert pair_correlations(silent, silent, torch.tensor([0]), torch.tensor([2])).tolist() == [0]


def test_pair_correlations_equal_numpys():
    a, b = random_codes(90, 5, 4), random_codes(90, 7, 5)
    sources, targets = torch.tensor([0, 2, 2, 4]), torch.tensor([6, 0, 0, 3])
    got = pair_correlations(Codes.from_dense(a), Codes.from_dense(b), sources, targets)
    expected = [numpy_correlation(a[:, i], b[:, j]) for i, j in zip(sources, targets, strict=True)]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


def test_function_of_an_alignment_is_the_mean_over_its_shared_pairs():
    a, b = random_codes(90, 5, 4), random_codes(90, 5, 5)
    rows = [(0, 1, 1, 0.9, 0.9, True), (1, 0, 0, 0.9, 0.2, False), (2, 2, 2, 0.9, 0.9, True)]
    pairs = pl.DataFrame(rows, schema=PAIR_COLUMNS, orient="row")
    alignment = Alignment("a", "b", pairs, 5, 5, 0, 0, 0.8, "hungarian_dual")
    expected = (numpy_correlation(a[:, 0], b[:, 1]) + numpy_correlation(a[:, 2], b[:, 2])) / 2
    codes = Codes.from_dense(a), Codes.from_dense(b)
    assert weight_matched_function(alignment, *codes) == pytest.approx(expected)
    none = Alignment("a", "b", pairs.filter(~pl.col("shared")), 5, 5, 0, 0, 0.8, "hungarian_dual")
    assert weight_matched_function(none, *codes) is None


def test_overlap_of_firing_counts_tokens_where_both_fire_among_those_where_one_does():
    a = torch.tensor([[1.0, 0, 2], [1, 0, 0], [0, 0, 3], [1, 0, 0]])
    b = torch.tensor([[5.0, 0], [0, 0], [0, 0], [2, 0]])
    pairs = torch.tensor([0, 0, 2, 1]), torch.tensor([0, 1, 0, 1])
    got = firing_overlap(Codes.from_dense(a), Codes.from_dense(b), *pairs)
    assert got.tolist() == pytest.approx([2 / 3, 0, 1 / 3, 0])
    with pytest.raises(ValueError, match="4 and of 3 tokens"):
        firing_overlap(Codes.from_dense(a), Codes.from_dense(b[:3]), *pairs)


@pytest.mark.parametrize(
    ("grid", "to"),
    [
        ((1, 4, 6), (1, 2, 3)),
        ((1, 5, 4), (1, 3, 2)),
        ((1, 4, 4), (1, 4, 1)),
        ((1, 3, 3), (1, 3, 3)),
        ((4, 2, 3), (2, 2, 1)),
        ((3, 2, 5), (2, 1, 2)),
    ],
)
def test_pooling_codes_equals_averaging_areas(grid, to):
    z = random_codes(2 * prod(grid), 3, 6)
    got = pool_codes(Codes.from_dense(z), grid, to)
    fine = z.view(2, *grid, 3)
    # every cell is cut into to x to equal pieces, and each coarse token averages the pieces it holds
    pieces = fine.repeat_interleave(to[0], 1).repeat_interleave(to[1], 2).repeat_interleave(to[2], 3)
    expected = pieces.view(2, to[0], grid[0], to[1], grid[1], to[2], grid[2], 3).mean((2, 4, 6))
    torch.testing.assert_close(got.to_dense().view(2, *to, 3), expected)
    assert all((got.latents[a:b].diff() > 0).all() for a, b in zip(got.offsets[:-1], got.offsets[1:], strict=True))


def test_different_grids_become_comparable():
    z = random_codes(3 * 16, 4, 7)
    coarse = pool_codes(Codes.from_dense(z), (1, 4, 4), (1, 2, 2))
    assert common_grid((1, 4, 4), (3, 2, 8)) == (1, 2, 4)
    found = functional_alignment(coarse, pool_codes(Codes.from_dense(z[:, [2, 0, 3, 1]]), (1, 4, 4), (1, 2, 2)))
    assert found.pairs["target_latent"].to_list() == [1, 3, 0, 2]


def test_refusals():
    a, b = Codes.from_dense(random_codes(12, 2)), Codes.from_dense(random_codes(8, 2))
    with pytest.raises(ValueError, match="12 and of 8 tokens"):
        functional_alignment(a, b)
    with pytest.raises(ValueError, match="12 and of 8 tokens"):
        pair_correlations(a, b, torch.tensor([0]), torch.tensor([0]))
    for grid, to in (((1, 3, 3), (1, 1, 1)), ((1, 3, 4), (1, 4, 4)), ((1, 3, 4), (2, 3, 4))):
        with pytest.raises(ValueError, match="12 tokens"):
            pool_codes(a, grid, to)


def test_a_wider_dictionary_finds_more_in_noise_and_no_more_when_calibrated():
    """Codes that have nothing in common: sixteen times the latents to choose among look twice as alike."""
    source = Codes.from_dense(random_codes(200, 10, 0))
    raw, calibrated = [], []
    for width in (10, 160):
        found, null = (
            functional_alignment(source, Codes.from_dense(random_codes(200, width, seed))).mean_correlation
            for seed in (1, 2)
        )
        ceiling = functional_alignment(source, source).mean_correlation
        raw.append(found)
        calibrated.append(calibrated_correlation(found, null, ceiling))
    assert raw[1] > raw[0] + 0.05
    assert calibrated == pytest.approx([0, 0], abs=0.04)
    assert calibrated_correlation(0.3, 0.2, 0.2) is None
    assert calibrated_correlation(0.3, 0.2, 0.4) == pytest.approx(0.5)
