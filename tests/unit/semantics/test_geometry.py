import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional

from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.codes import Codes
from seglens.semantics import geometry

LABELS = {0: "background", 1: "necrotic_core", 2: "edema"}


@pytest.fixture(params=[1, 4], ids=["slices", "volumes"])
def scene(request):
    """Three samples of 24x20: an elliptic brain, a lesion, random sparse codes on a 6x5 grid."""
    generator, depth = torch.Generator().manual_seed(0), request.param
    axes = (torch.arange(n) for n in (depth, 24, 20))
    slices, rows, columns = torch.meshgrid(*axes, indexing="ij")
    brain = ((slices - 1) / 3) ** 2 * (depth > 1) + ((rows - 11.5) / 10) ** 2 + ((columns - 9) / 8) ** 2 < 1
    brains = torch.stack([brain, brain.roll(1, 1), torch.zeros_like(brain)])
    masks = torch.zeros(3, depth, 24, 20, dtype=torch.uint8)
    masks[0, :2, 6:12, 4:9] = 2
    masks[0, :1, 8:10, 5:7] = 1
    masks[1, :, 3:6, 10:16] = 2
    z = torch.rand(3, min(depth, 2), 6, 5, 7, generator=generator)
    z[z < 0.7] = 0
    z[..., 6] = 0
    return masks, brains, z


def slow_edt(brain, spacing):
    """Distance from each brain pixel to the nearest pixel outside, outside the image included; of a slice in plane."""
    above = 0 if len(brain) == 1 else 1
    padded = np.pad(brain.numpy(), [(above, above), (1, 1), (1, 1)])
    outside = np.argwhere(~padded) * spacing
    distance = np.zeros(padded.shape)
    for place in np.argwhere(padded):
        distance[tuple(place)] = np.sqrt(((place * np.array(spacing) - outside) ** 2).sum(1).min())
    return torch.from_numpy(distance[above : above + len(brain), 1:-1, 1:-1]).float()


def slow_boundary(mask, pixels):
    out = torch.zeros(mask.shape, dtype=torch.bool)
    for place in np.ndindex(*mask.shape):
        window = mask[tuple(slice(max(at - pixels, 0), at + pixels + 1) for at in place)]
        out[place] = len(window.unique()) > 1
    return out


def slow_edge(depth, brains):
    """Brain of at most the threshold's depth, or where none is so shallow, what is shallowest."""
    least = [max(geometry.EDGE_DEPTH, float(own[brain].min())) for own, brain in zip(depth, brains, strict=True)]
    return torch.stack([brain & (own <= least[n]) for n, (own, brain) in enumerate(zip(depth, brains, strict=True))])


def interpolated(maps, size):
    """By torch, on all three axes."""
    return functional.interpolate(maps[:, None], size=size, mode="trilinear", align_corners=False)[:, 0]


def test_upsampling_is_torchs(scene):
    maps, size = scene[2][..., 0], scene[0].shape[1:]
    torch.testing.assert_close(geometry.upsample(maps, size), interpolated(maps, size))


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("grid", [(1, 6, 5), (1, 3, 20), (1, 24, 20), (1, 7, 9), (2, 6, 5), (3, 7, 9), (4, 24, 20)])
def test_pooling_is_the_adjoint_of_upsampling(grid, depth):
    maps, regions = torch.rand(2, *grid), torch.rand(2, 1, depth, 24, 20)
    expected = (interpolated(maps, (depth, 24, 20)) * regions[:, 0]).sum()
    torch.testing.assert_close((geometry.pool_regions(regions, grid)[:, 0] * maps).sum(), expected)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.0, 0.5)])
def test_brain_depth_is_the_distance_to_the_boundary(scene, spacing):
    brains = scene[1]
    depth = geometry.brain_depth(brains, [spacing] * 3)
    for brain, got in zip(brains[:2], depth, strict=False):
        expected = slow_edt(brain, spacing)
        torch.testing.assert_close(got, expected / expected.max())
    assert depth[2].sum() == 0
    torch.testing.assert_close(geometry.brain_depth(brains, [tuple(7 * mm for mm in spacing)] * 3), depth)


def test_brain_depth_counts_the_images_border_as_outside():
    depth = geometry.brain_depth(torch.ones(1, 1, 5, 5, dtype=torch.bool))
    torch.testing.assert_close(depth[0, 0, 2], torch.tensor([1, 2, 3, 2, 1]) / 3)
    depth = geometry.brain_depth(torch.ones(1, 5, 5, 5, dtype=torch.bool))
    torch.testing.assert_close(depth[0, :, 2, 2], torch.tensor([1, 2, 3, 2, 1]) / 3)
    assert float(depth[0, 0].max()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("bad", [(1.0, None, 1.0), (2.0, 0.0, 1.0), (1.0, float("nan"), 2.0), (1.0, float("inf"), 1.0)])
def test_without_spacing_pixels_are_square(scene, bad):
    torch.testing.assert_close(geometry.brain_depth(scene[1], [bad] * 3), geometry.brain_depth(scene[1]))


def test_label_boundary_is_a_band_on_both_sides(scene):
    for mask, band in zip(scene[0], geometry.label_boundary(scene[0], (2, 2, 2)), strict=True):
        assert torch.equal(band, slow_boundary(mask, 2))
    straight = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    straight[..., 4:] = 3
    band = [False, False, True, True, True, True, False, False]
    assert geometry.label_boundary(straight, (2, 2, 2))[0, 0, 0].tolist() == band
    assert geometry.label_boundary(straight.permute(0, 3, 1, 2), (2, 2, 2))[0, :, 0, 0].tolist() == band


def test_what_is_not_known_is_only_the_distance_between_slices_of_a_slice():
    brains = torch.ones(1, 1, 7, 9, dtype=torch.bool)
    known, unknown = ((mm, 2.0, 0.5) for mm in (3.0, None))
    torch.testing.assert_close(geometry.brain_depth(brains, [known]), geometry.brain_depth(brains, [unknown]))
    volumes = torch.ones(1, 3, 7, 9, dtype=torch.bool)
    torch.testing.assert_close(geometry.brain_depth(volumes, [unknown]), geometry.brain_depth(volumes))
    assert not geometry.brain_depth(volumes, [known]).allclose(geometry.brain_depth(volumes))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 7), (1, 9, 1), (1, 6, 8), (2, 3, 4), (7, 2, 1)])
@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_label_boundary_of_slices_smaller_than_its_window(shape, pixels):
    mask = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(shape[1])).to(torch.uint8) * 85
    assert torch.equal(geometry.label_boundary(mask[None], (pixels, pixels, pixels))[0], slow_boundary(mask, pixels))


def test_edge_band_is_shallow_brain_and_never_empty(scene):
    depth = geometry.brain_depth(scene[1])
    edge = geometry.edge_band(depth, scene[1])
    assert torch.equal(edge[:2], slow_edge(depth[:2], scene[1][:2]))
    assert not edge[2].any()
    dot = torch.zeros(1, 3, 5, 5, dtype=torch.bool)
    dot[0, 1, 2, 2] = True
    assert torch.equal(geometry.edge_band(geometry.brain_depth(dot), dot), dot)


@pytest.mark.parametrize("n", [3, 1])
@pytest.mark.parametrize("grid", [(1, 6, 5), (1, 7, 9), (1, 24, 20), (1, 1, 1), (2, 7, 3)])
def test_linear_metrics_equal_those_of_upsampled_maps(scene, grid, n):
    """The slow reference: every metric of appendix C by its formula on explicit full-resolution maps."""
    masks, brains = scene[0][:n], scene[1][:n]
    z = torch.rand(n, *grid, 7, generator=torch.Generator().manual_seed(1)) + 0.01
    z[(z < 0.5) & (torch.arange(grid[0] * grid[1] * grid[2]).view(*grid, 1) > 0)] = 0
    z[..., 6] = 0
    depth = geometry.brain_depth(brains)
    regions = geometry.slice_regions(masks, brains, depth, LABELS, (2, 2, 2))
    pooled = geometry.pool_regions(regions, grid).movedim(1, -1).reshape(-1, regions.shape[1])
    codes = Codes.from_dense(z.reshape(-1, 7))
    got = geometry.linear_metrics(geometry.mass_in_regions(codes, pooled), LABELS)
    for latent in range(6):
        h = interpolated(z[..., latent], masks.shape[1:])
        total, in_brain = h.sum(), h[brains].sum()
        shown = brains.flatten(1).any(1)
        edge = torch.zeros_like(brains)
        edge[shown] = slow_edge(depth[shown], brains[shown])
        boundary = torch.stack([slow_boundary(mask, 2) for mask in masks])
        expected = {
            "p_background": h[masks == 0].sum() / total,
            "p_necrotic_core": h[masks == 1].sum() / total,
            "p_edema": h[masks == 2].sum() / total,
            "inside": h[masks > 0].sum() / total,
            "boundary": h[boundary].sum() / total,
            "brain": in_brain / total,
            "edge": h[edge].sum() / in_brain,
            "depth": (h * depth)[brains].sum() / in_brain,
        }
        assert set(expected) == set(got)
        for name, value in expected.items():
            assert abs(float(got[name][latent]) - float(value)) < 1e-5, name
    assert got["p_edema"][6].isnan()
    assert all(got[name][:6].isfinite().all() for name in got)


def test_nothing_fires_and_nothing_has_mass():
    empty = Codes.from_dense(torch.zeros(30, 4))
    assert torch.equal(geometry.mass_in_regions(empty, torch.ones(30, 3)), torch.zeros(4, 3, dtype=torch.float64))


def test_without_a_foreground_class_nothing_is_inside(scene):
    sums = torch.rand(2, 6, dtype=torch.float64)
    assert geometry.linear_metrics(sums, {0: "background"})["inside"].tolist() == [0, 0]


def test_spacing_comes_from_the_index():
    blank = torch.zeros(2, 1, 8, 8)
    index = pl.DataFrame({"case": ["a", "b"], "spacing_row_mm": [1.0, 2.0], "spacing_column_mm": [1.0, 0.5]})
    slices = SliceSet.from_tensors(
        blank, blank[:, 0].byte(), blank[:, 0].bool(), index, name="x", sequences=["T1"], labels=LABELS
    )
    assert slices.spacing_mm([1, 0]) == [(None, 2.0, 0.5), (None, 1.0, 1.0)]
    apart = SliceSet.from_tensors(
        blank[:, :, None],
        blank.byte(),
        blank.bool(),
        index.with_columns(spacing_slice_mm=pl.Series([4.0, 6.0])),
        name="x",
        sequences=["T1"],
        labels=LABELS,
    )
    assert apart.spacing_mm([1, 0]) == [(6.0, 2.0, 0.5), (4.0, 1.0, 1.0)]


def test_masks_alone_give_the_first_regions(scene):
    regions = geometry.slice_regions(*scene[:2], geometry.brain_depth(scene[1]), LABELS, (1, 2, 3))
    of_masks = geometry.mask_regions(scene[0], LABELS, (1, 2, 3))
    names = geometry.region_names(LABELS)
    assert names[of_masks.shape[1] - 1] == "boundary"
    assert torch.equal(of_masks, regions[:, : of_masks.shape[1]])


@pytest.mark.parametrize(
    ("size", "grid", "band"),
    [
        ((1, 256, 256), (1, 16, 16), (2, 12, 12)),
        ((1, 128, 128), (1, 16, 32), (2, 6, 3)),
        ((1, 64, 64), (1, 64, 64), (2, 2, 2)),
        ((32, 64, 64), (2, 32, 32), (12, 2, 2)),
    ],
)
def test_the_boundary_band_scales_with_the_token(size, grid, band):
    assert geometry.boundary_band(size, grid) == band


@pytest.mark.parametrize("edge", [120, 124, 128])
def test_a_token_on_a_straight_boundary_can_be_seen_there(edge):
    """At 256 pixels and 16 x 16 tokens; by a band of 2 pixels no token can (0.23 of its mass at most)."""
    mask = torch.zeros(1, 1, 256, 256, dtype=torch.uint8)
    mask[..., edge:] = 1
    brains = torch.ones_like(mask, dtype=torch.bool)

    def best(band):
        regions = geometry.slice_regions(mask, brains, brains.float(), {0: "background", 1: "lesion"}, band)
        total, *_, boundary = geometry.pool_regions(regions, (1, 16, 16))[0, :4, 0]
        return float((boundary / total)[8].max())

    assert best((2, 2, 2)) < 0.25
    assert best(geometry.boundary_band((1, 256, 256), (1, 16, 16))) > (0.7 if edge == 128 else 0.85)
