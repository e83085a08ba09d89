import numpy as np
import pytest
import torch

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.bounds import BoundedShare, BoundedSide, Side, bounded, bounds_table, of_other_slices, shared_share
from seglens.diffing.functional import functional_alignment
from seglens.diffing.methods import alignment_method, alignment_methods
from seglens.diffing.sharing import align

D_IN, M = 8, 12


def side(weights, codes):
    dictionary = SparseAutoencoder(D_IN, M, k=2, seed=weights)
    generator = torch.Generator().manual_seed(codes)
    dense = torch.rand(40, M, generator=generator) * (torch.rand(40, M, generator=generator) < 0.4)
    return Side(dictionary, torch.ones(M, dtype=torch.bool), Codes.from_dense(dense))


def by_hand(method, one, other, threshold):
    if method.needs == "codes":
        found = functional_alignment(one.codes, other.codes)
        high = sum(value >= threshold for value in found.pairs["correlation"])
        return high / min(found.live_source, found.live_target)
    found = align(one.dictionary, other.dictionary, tau=threshold, method=method.name)
    return found.pairs["shared"].sum() / M


@pytest.mark.parametrize("name", list(alignment_methods()))
def test_floor_and_ceiling_are_the_same_method_on_nulls_and_on_the_model_again(name):
    method = alignment_method(name)
    source = BoundedSide(side(0, 0), side(1, 1), side(0, 0))
    target = BoundedSide(side(2, 2), side(3, 3), side(4, 4))
    found = bounded(method, source, target, 0.2)
    assert found.share == pytest.approx(by_hand(method, source.plain, target.plain, 0.2))
    floors = by_hand(method, source.plain, target.null, 0.2), by_hand(method, target.plain, source.null, 0.2)
    ceilings = by_hand(method, source.plain, source.again, 0.2), by_hand(method, target.plain, target.again, 0.2)
    assert found.floor == pytest.approx(sum(floors) / 2)
    assert found.ceiling == pytest.approx(sum(ceilings) / 2)
    assert ceilings[0] == 1.0  # a side that came out the same again
    back = bounded(method, target, source, 0.2)
    assert (back.floor, back.ceiling) == pytest.approx((found.floor, found.ceiling))


def test_a_share_stands_on_the_bar_from_floor_to_ceiling():
    table = bounds_table([BoundedShare("a", 0.6, 0.5, 0.7), BoundedShare("b", 0.6, 0.5, 0.5)])
    assert table.columns == ["method", "share", "floor", "ceiling", "calibrated"]
    assert table["calibrated"].to_list() == [pytest.approx(0.5), None]


def test_nothing_alive_shares_nothing():
    silent = Side(
        SparseAutoencoder(D_IN, M, k=2), torch.zeros(M, dtype=torch.bool), Codes.from_dense(torch.zeros(9, M))
    )
    assert [shared_share(method, silent, silent, 0.5) for method in alignment_methods().values()] == [0.0] * 5


def test_other_slices_are_of_the_same_cohort_and_place():
    codes = Codes.from_dense(torch.arange(30.0).reshape(15, 2) + 1)
    moved = of_other_slices(codes, 3, [2, 3]).to_dense().reshape(5, 3, 2)
    assert np.array_equal(moved, codes.to_dense().reshape(5, 3, 2)[[1, 0, 4, 2, 3]])
