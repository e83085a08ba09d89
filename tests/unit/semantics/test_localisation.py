from itertools import product
from math import atan2, exp, log, pi

import polars as pl
import pytest
import torch
from torch.nn import functional

from seglens.cohorts.slices import SliceSet
from seglens.semantics import geometry, localisation

SIZE = (1, 24, 20)


@pytest.fixture
def brain():
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(20), indexing="ij")
    return (((rows - 11.5) / 10) ** 2 + ((columns - 9) / 8) ** 2 < 1)[None]


@pytest.fixture
def whole_brain():
    """Of five slices, the first of which shows none."""
    axes = (torch.arange(n) for n in (5, 24, 20))
    slices, rows, columns = torch.meshgrid(*axes, indexing="ij")
    return ((slices - 3) / 2.5) ** 2 + ((rows - 11.5) / 10) ** 2 + ((columns - 9) / 8) ** 2 < 1


def slow(h, brain, edge):
    """Each metric by its definition, pixel by pixel, on a full-resolution map."""
    total, peak = float(h.sum()), float(h.max())
    inside = [tuple(place) for place in brain.nonzero().tolist()]
    low, high = ([end(place[axis] for place in inside) for axis in range(3)] for end in (min, max))
    centre = [sum(place[axis] for place in inside) / len(inside) for axis in range(3)]
    entropy, slices, rows, columns, bins = 0.0, [], [], [], set()
    for place in product(*map(range, h.shape)):
        p = float(h[place]) / total
        entropy -= p * log(p + 1e-12)
        if float(h[place]) >= 0.5 * peak:
            for axis, places in enumerate((slices, rows, columns)):
                places.append((place[axis] - low[axis]) / max(high[axis] - low[axis], 1))
            if edge[place]:
                angle = atan2(place[1] - centre[1], place[2] - centre[2])
                bins.add(min(int((angle + pi) / (2 * pi) * 36), 35))
    of_volumes = {"centroid_slice": sum(slices) / len(slices)} if len(h) > 1 else {}
    return of_volumes | {
        "entropy": entropy,
        "spread": exp(entropy) / len(inside),
        "centroid_row": sum(rows) / len(rows),
        "centroid_column": sum(columns) / len(columns),
        "lateral_spread": sum(abs(column - 0.5) for column in columns) / len(columns),
        "angular_coverage": len(bins) / 36,
    }


def assert_equals_the_definitions(maps, brain):
    edge = geometry.edge_band(geometry.brain_depth(brain[None]), brain[None])[0]
    got = localisation.localise_in_slice(maps, brain, edge)
    full = functional.interpolate(maps[:, None], size=brain.shape, mode="trilinear", align_corners=False)[:, 0]
    for number, h in enumerate(full):
        expected = slow(h, brain, edge)
        assert set(got) == set(expected)
        for name, value in expected.items():
            assert float(got[name][number]) == pytest.approx(value, rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_equals_the_definitions_on_upsampled_maps(brain, density):
    maps = torch.rand(5, 1, 6, 5, generator=torch.Generator().manual_seed(1)) + 0.1
    maps *= torch.rand(5, 1, 6, 5, generator=torch.Generator().manual_seed(2)) < density
    maps[:, :, 2, 1] += 0.2
    assert_equals_the_definitions(maps, brain)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_equals_the_definitions_on_volumes(whole_brain, depth):
    maps = torch.rand(3, depth, 6, 5, generator=torch.Generator().manual_seed(1))
    maps[0, 0] += 1
    assert_equals_the_definitions(maps * (maps > 0.6), whole_brain)


def test_what_is_low_and_what_is_high_in_a_volume_is_told_apart(whole_brain):
    maps = torch.zeros(2, 5, 12, 10)
    maps[0, 1, 6, 4] = maps[1, 4, 6, 4] = 1
    edge = geometry.edge_band(geometry.brain_depth(whole_brain[None]), whole_brain[None])[0]
    got = localisation.localise_in_slice(maps, whole_brain, edge)
    assert got["centroid_slice"].tolist() == [0.0, 1.0]  # of the four slices that show brain


@pytest.mark.parametrize("at_once", [1, 24 * 20, 2 * 24 * 20, 10**9])
@pytest.mark.parametrize("grid", [(1, 7, 9), (1, 1, 1), (1, 24, 20)])
def test_equals_the_definitions_however_many_maps_at_once(brain, monkeypatch, at_once, grid):
    monkeypatch.setattr(localisation, "PIXELS_AT_ONCE", at_once)
    maps = torch.rand(3, *grid, generator=torch.Generator().manual_seed(1)) + 0.01
    assert_equals_the_definitions(maps, brain)


def test_sides_rows_and_concentration_are_told_apart(brain):
    maps = torch.zeros(4, 1, 12, 10)
    maps[0, 0, 6, 2] = maps[1, 0, 6, 7] = maps[2, 0, 1, 4] = 1
    maps[3] = 1
    edge = geometry.edge_band(geometry.brain_depth(brain[None]), brain[None])[0]
    got = localisation.localise_in_slice(maps, brain, edge)
    assert got["centroid_column"][0] < 0.35 and got["centroid_column"][1] > 0.65
    assert got["centroid_row"][2] < 0.2
    assert got["entropy"][3] == pytest.approx(log(24 * 20), rel=1e-5)
    assert (got["entropy"][:3] < log(40)).all()


def test_a_ring_covers_all_angles_and_a_spot_few(brain):
    edge = geometry.edge_band(geometry.brain_depth(brain[None]), brain[None])[0]
    spot = torch.zeros_like(brain)
    spot[0, 2:5, 8:11] = True
    covered = localisation.angular_coverage(torch.stack([edge, spot, ~brain]), brain, edge)
    assert covered[0] > 0.9 and 0 < covered[1] < 0.3 and covered[2] == 0


def test_a_slice_without_brain_uses_the_whole_image():
    maps = torch.zeros(1, 1, 6, 5)
    maps[0, 0, 0, 4] = 1
    got = localisation.localise_in_slice(maps, torch.zeros(SIZE, dtype=torch.bool), torch.zeros(SIZE, dtype=torch.bool))
    assert got["centroid_column"] > 0.8 and got["centroid_row"] < 0.2 and got["angular_coverage"] == 0


def test_maps_are_put_over_their_own_slices(brain):
    brains = torch.stack([brain, brain.roll(2, 2), brain.roll(-1, 1)])
    slices = SliceSet.from_tensors(
        torch.zeros(3, 1, *SIZE),
        torch.zeros(3, *SIZE, dtype=torch.uint8),
        brains,
        pl.DataFrame({"case": ["a", "b", "c"], "spacing_row_mm": [1.0, 2.0, 1.0]}),
        name="x",
        sequences=["T1"],
        labels={0: "background"},
    )
    rows = torch.tensor([2, 0, 2, 1, 0])
    maps = torch.rand(5, 1, 6, 5, generator=torch.Generator().manual_seed(3))
    got = localisation.localise(maps, rows, slices)
    depth = geometry.brain_depth(brains, [(1.0, mm, 1.0) for mm in (1.0, 2.0, 1.0)])
    edges = geometry.edge_band(depth, brains)
    for number, row in enumerate(rows.tolist()):
        expected = localisation.localise_in_slice(maps[number : number + 1], brains[row], edges[row])
        for name in localisation.METRICS:
            torch.testing.assert_close(got[name][number : number + 1], expected[name])
