from itertools import combinations, product

import numpy as np
import pytest
import torch

from seglens.segmenters.windows import (
    Placement,
    mirrors,
    n_windows,
    padding_of,
    require_sums,
    window_starts,
    window_weights,
    windowed_logits,
    windows_of,
)


def whole(*extent):
    return Placement("a", (0, 0, 0), extent, (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("n", "side", "starts"), [(8, 8, [0]), (9, 8, [0, 1]), (12, 8, [0, 4]), (13, 8, [0, 2, 5]), (31, 16, [0, 8, 15])]
)
def test_windows_are_spread_from_edge_to_edge(n, side, starts):
    assert window_starts(n, side) == starts


def test_a_patch_of_one_slice_is_laid_on_each():
    places = list(windows_of("a", (3, 4, 6), (1, 4, 4), (2.0, 1.0, 1.0)))
    assert [place.start for place in places] == [(z, 0, x) for z, x in product(range(3), (0, 2))]
    assert places[-1].box == (slice(2, 3), slice(0, 4), slice(2, 6))
    assert places[-1].moved((-1, 0, 5)).start == (1, 0, 7)


def test_the_odd_voxel_of_padding_goes_behind():
    assert padding_of((3, 8, 9), (8, 8, 8)) == ((2, 0, 0), (3, 0, 0))


def test_every_subset_of_the_mirrored_axes():
    found = mirrors((0, 1, 2))
    assert found[0] == () and len(found) == len(set(found)) == 8
    assert set(mirrors((1, 2))) == {chosen for n in range(3) for chosen in combinations((1, 2), n)}


def test_weights_are_never_zero_and_largest_in_the_middle():
    weights = window_weights((8, 12, 12), "float16")
    assert weights.dtype == torch.float16 and weights.min() > 0
    assert weights[4, 6, 6] == weights.max() == 10
    assert window_weights((1, 12, 12), "float32").shape == (1, 12, 12)


def test_a_network_that_says_what_it_sees_gives_the_volume_back():
    """Mirrors are turned back, padding goes away, and weights cancel."""
    volume = torch.randn(2, 5, 13, 21, generator=torch.Generator().manual_seed(0))
    found = windowed_logits(
        lambda images: images.clone(),
        volume,
        whole(5, 13, 21),
        (8, 8, 8),
        n_heads=2,
        mirror_axes=(0, 1, 2),
        precision="float32",
    )
    torch.testing.assert_close(found, volume, atol=1e-5, rtol=1e-5)
    planes = windowed_logits(lambda i: i * 2, volume, whole(5, 13, 21), (1, 8, 8), n_heads=2, precision="float32")
    torch.testing.assert_close(planes, volume * 2, atol=1e-5, rtol=1e-5)


def test_sums_are_those_of_loops_to_the_last_bit():
    """Three windows on one line, added up in float16 voxel by voxel."""
    volume = torch.randn(1, 1, 1, 13, generator=torch.Generator().manual_seed(0))
    weights = window_weights((1, 1, 8), "float16").flatten().numpy()
    sums, total = np.zeros(13, np.float16), np.zeros(13, np.float16)
    values = volume.flatten().numpy()
    for start in (0, 2, 5):
        for place in range(8):
            said = np.float32(np.sin(values[start + place]))
            sums[start + place] = np.float16(np.float32(sums[start + place]) + said * np.float32(weights[place]))
            total[start + place] += weights[place]
    found = windowed_logits(
        lambda i: torch.from_numpy(np.sin(i.numpy())), volume, whole(1, 1, 13), (1, 1, 8), n_heads=1
    )
    np.testing.assert_array_equal(found.flatten().numpy(), sums / total)


def test_sums_beyond_float16_are_refused():
    with pytest.raises(ValueError, match="case a: the logits are not finite in float16; add the windows up in float32"):
        windowed_logits(lambda i: i * 1e6, torch.ones(1, 4, 4, 4), whole(4, 4, 4), (4, 4, 4), n_heads=1)


def test_progress_counts_windows():
    told = []
    windowed_logits(
        lambda i: i, torch.ones(1, 4, 4, 12), whole(4, 4, 12), (4, 4, 8), n_heads=1, progress=lambda *n: told.append(n)
    )
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("extent", "patch"), [((31, 16, 40), (16, 16, 24)), ((9, 30, 13), (1, 8, 8)), ((8, 8, 8), (8, 8, 8))]
)
def test_windows_are_counted_without_being_made(extent, patch):
    assert n_windows(extent, patch) == len(list(windows_of("a", extent, patch, ())))
    assert n_windows((10**5, 10**5, 10**5), (8, 8, 8)) == 24999**3


def test_the_memory_that_sums_need_is_asked_for_before(monkeypatch):
    asked = []
    monkeypatch.setattr("seglens.segmenters.windows.require_memory", lambda n, what: asked.append((n, what)))
    for more in ({}, {"n_folds": 2}, {"n_folds": 5}, {"precision": "float32"}):
        require_sums("a", 2, 3, (4, 4, 2), (4, 4, 4), **more)
    voxels = 4 * 4 * 4  # padded to the patch
    one, two, five, exact = (n for n, _ in asked)
    assert one > voxels * (3 + 1) * 2 + voxels * 2 * 4
    assert two - one == voxels * 3 * 2 and five == two and exact - one == voxels * (3 + 1) * 2
    assert "case a: logits of 3 classes or regions in 4 x 4 x 4 voxels (less in float16" in asked[0][1]
    with pytest.raises(ValueError, match=r"case a: \d+ windows of 2 x 2 x 2 voxels .* at most 4194304; cut the volume"):
        require_sums("a", 2, 3, (300, 300, 300), (2, 2, 2))
