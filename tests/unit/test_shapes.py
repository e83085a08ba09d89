import pytest
import torch

from seglens.shapes import extent_of, flat, flat_extent, full_extent, grid_of, plane_of, with_depth


def test_extents_are_slices_rows_and_columns():
    assert extent_of(torch.zeros(2, 5, 3, 4, 6)) == (3, 4, 6)
    assert grid_of(torch.zeros(2, 3, 4, 6, 5)) == (3, 4, 6)
    assert grid_of(torch.zeros(2, 3, 4, 6, 5, dtype=torch.int8)) == (3, 4, 6)


@pytest.mark.parametrize(("extent", "stored"), [((1, 4, 6), [4, 6]), ((3, 4, 6), [3, 4, 6])])
def test_documents_leave_out_the_depth_of_slices(extent, stored):
    assert flat_extent(extent) == stored
    assert full_extent(stored) == extent


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("axis", [1, -3])
def test_what_is_written_flat_comes_back(depth, axis):
    volume = torch.randn(2, depth, 4, 6)
    assert flat(volume, axis).ndim == (3 if depth == 1 else 4)
    assert torch.equal(with_depth(flat(volume, axis), 4, axis), volume)


def test_other_numbers_of_axes_are_refused():
    for wrong in (torch.zeros(4, 6), torch.zeros(1, 2, 3, 4, 6)):
        with pytest.raises(ValueError, match=r"give one of 4 axes, or of 3 without depth"):
            with_depth(wrong, 4)


def test_a_plane_is_a_view_of_the_one_slice():
    volume = torch.randn(2, 5, 1, 4, 6)
    plane = plane_of(volume)
    assert plane.shape == (2, 5, 4, 6)
    assert plane.data_ptr() == volume.data_ptr()
    assert plane_of(volume.movedim(1, -1), 1).shape == (2, 4, 6, 5)
    with pytest.raises(ValueError, match="samples of 5 slices"):
        plane_of(volume, 1)
