import pytest
import torch

from seglens.activations.cells import cell_shares


@pytest.mark.parametrize(("size", "grid"), [((1, 8, 6), (1, 4, 3)), ((4, 8, 6), (2, 2, 3)), ((3, 4, 4), (3, 2, 1))])
def test_shares_are_means_over_the_cells(size, grid):
    masks = (torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    shares = cell_shares(masks, grid)
    assert shares.shape == (3, *grid)
    sides = [n // cells for n, cells in zip(size, grid, strict=True)]
    for place in torch.ones(grid).nonzero().tolist():
        cell = [slice(at * side, (at + 1) * side) for at, side in zip(place, sides, strict=True)]
        for mask, own in zip(masks, shares, strict=True):
            assert float(own[tuple(place)]) == pytest.approx(float(mask[tuple(cell)].mean()))


def test_slices_that_do_not_divide_are_averaged_over_what_a_cell_touches():
    masks = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert cell_shares(masks, (2, 1, 1)).flatten().tolist() == [0.5, 0.0]
