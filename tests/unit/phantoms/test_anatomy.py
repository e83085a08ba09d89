import hashlib
import math

import numpy as np
import pytest
import torch
from numpy.random import default_rng

from seglens.phantoms import anatomy
from seglens.phantoms.anatomy import (
    BOX_HIGH,
    BOX_LOW,
    CENTRE,
    REGIONS,
    load_template,
    make_head,
    rotation,
    sample_anatomy,
    sample_brain,
    smooth_field,
)

TISSUE_SHA256 = "4caa26d36746b341e5aa4025ea9946d6ad4f44c30399c5daa72ee970f10415b5"
"""Of the tissue maps as they were made of nilearn's three files when a phantom was first drawn."""


@pytest.fixture(scope="module")
def template():
    return load_template()


@pytest.fixture(scope="module")
def head():
    return make_head(
        scale=0.95,
        proportions=(1.02, 0.98, 1.01),
        degrees=(4.0, -3.0, 5.0),
        displacement=smooth_field(default_rng(1), channels=3, knot_mm=32.0),
        amplitude_mm=3.0,
    )


def trilinear(grid: np.ndarray, at: tuple[float, float, float]) -> float:
    """The obvious reference of the sampler: eight corners, one point; axes z, y, x."""
    total = 0.0
    base = [math.floor(value) for value in at]
    for corner in np.ndindex(2, 2, 2):
        place = [b + c for b, c in zip(base, corner, strict=True)]
        weight = math.prod(1 - abs(value - p) for value, p in zip(at, place, strict=True))
        if all(0 <= p < n for p, n in zip(place, grid.shape, strict=True)):
            total += weight * float(grid[tuple(place)])
    return total


def test_sampling_equals_a_slow_trilinear_twin(template):
    points = torch.tensor([[12.3, -18.6, 7.9], [-30.1, 20.2, 10.4], [0.0, -50.5, -30.2], [55.0, -20.0, 30.7]])
    sampled = sample_anatomy(template, points)
    for number, (x, y, z) in enumerate(points.tolist()):
        low = template.tissue_low
        at = (z - low[2], y - low[1], x - low[0])
        for channel, got in enumerate((sampled.grey, sampled.white, sampled.fluid)):
            assert float(got[number]) == pytest.approx(trilinear(template.tissue[0, channel].numpy(), at), abs=1e-4)


@pytest.mark.parametrize("amplitude", [0.0, 3.0, 25.0])
def test_the_brain_is_sampled_as_if_everything_were(template, amplitude):
    head = make_head(
        scale=1.1,
        proportions=(1.02, 0.98, 1.01),
        degrees=(4.0, -3.0, 5.0),
        displacement=smooth_field(default_rng(1), channels=3, knot_mm=32.0),
        amplitude_mm=amplitude,
    )
    points = torch.from_numpy(default_rng(2).uniform(-110, 110, (20000, 3)).astype(np.float32))
    everywhere = sample_anatomy(template, head.to_template(points))
    for least in (0.0, 0.02, 2.0):
        wanted = everywhere.brain > least
        kept, found = sample_brain(template, head, points, least=least)
        assert torch.equal(kept, wanted)
        for name in ("grey", "white", "fluid"):
            assert torch.equal(getattr(found, name), getattr(everywhere, name)[wanted])
        assert torch.equal(found.regions, everywhere.regions[:, wanted])


def test_tissue_shares_are_shares_and_vanish_outside_the_brain(template):
    total = template.tissue.sum(1)
    assert float(template.tissue.min()) >= 0
    assert float(total.max()) <= 1 + 1e-5
    outside = sample_anatomy(template, torch.tensor([[0.0, 105.0, 0.0], [99.0, 0.0, 0.0]]))
    assert float(outside.brain.abs().max()) == 0


@pytest.mark.parametrize(
    ("region", "point", "tissue"),
    [
        ("ventricles", (-26.0, -40.0, 12.0), "fluid"),
        ("caudate", (12.0, 14.0, 8.0), "grey"),
        ("caudate", (-12.0, 14.0, 8.0), "grey"),
        ("lentiform", (-27.0, 2.0, 3.0), "grey"),
        ("thalamus", (12.0, -20.0, 8.0), "grey"),
        ("cerebellum", (25.0, -60.0, -35.0), "white"),
        ("brainstem", (0.0, -25.0, -32.0), "white"),
    ],
)
def test_structures_lie_where_an_atlas_has_them(template, region, point, tissue):
    sampled = sample_anatomy(template, torch.tensor([point]))
    assert float(sampled.region(region)) > 0.6
    assert float(getattr(sampled, tissue)) > 0.3
    # the ventricles are only marked roughly: they are what is fluid there
    others = [name for name in REGIONS if name not in {region, "ventricles"}]
    assert all(float(sampled.region(name)) < 0.4 for name in others)


def test_the_occipital_lobe_is_not_cerebellum(template):
    sampled = sample_anatomy(template, torch.tensor([[20.0, -90.0, 0.0], [-45.0, -65.0, -5.0], [0.0, -55.0, 20.0]]))
    assert float(sampled.region("cerebellum").max()) < 0.05


def test_from_template_inverts_to_template(head):
    for point in ((30.0, 20.0, 15.0), (-40.0, -50.0, -20.0), CENTRE):
        assert torch.allclose(head.to_template(head.from_template(point)[None])[0], torch.tensor(point), atol=1e-3)


def test_a_head_without_differences_is_the_template():
    still = make_head(
        scale=1.0,
        proportions=(1.0, 1.0, 1.0),
        degrees=(0.0, 0.0, 0.0),
        displacement=smooth_field(default_rng(0), channels=3, knot_mm=40.0),
        amplitude_mm=0.0,
    )
    points = torch.tensor([[3.0, -40.0, 25.0], [-60.0, 0.0, 0.0]])
    assert torch.allclose(still.to_template(points), points, atol=1e-5)


def test_a_larger_head_reaches_further(template):
    def width(scale: float) -> int:
        grown = make_head(
            scale=scale,
            proportions=(1.0, 1.0, 1.0),
            degrees=(0.0, 0.0, 0.0),
            displacement=smooth_field(default_rng(0), channels=3, knot_mm=40.0),
            amplitude_mm=0.0,
        )
        line = torch.stack([torch.arange(-90.0, 90.0), torch.full((180,), -17.0), torch.full((180,), 10.0)], 1)
        return int((sample_anatomy(template, grown.to_template(line)).brain > 0.5).sum())

    assert width(1.1) == pytest.approx(1.1 / 0.9 * width(0.9), rel=0.03)


def test_rotations_are_orthonormal_and_turn_the_right_way():
    turn = rotation((10.0, -20.0, 30.0))
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6)
    assert torch.allclose(rotation((0.0, 0.0, 90.0)) @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6)


def test_a_smooth_field_passes_through_its_knots_and_is_smooth():
    knots = [7, 8, 6]
    field = smooth_field(default_rng(3), channels=2, knot_mm=42.0)
    draws = default_rng(3).standard_normal((2, 6, 7, 6), dtype=np.float32)
    assert field.values.shape == (1, 2, 16, 19, 16), knots
    assert np.allclose(field.values[0, :, ::3, ::3, ::3].numpy(), draws, atol=1e-5)
    corners = torch.tensor([BOX_LOW, BOX_HIGH])
    assert torch.allclose(field(corners)[:, 0], torch.from_numpy(draws[:, 0, 0, 0]), atol=1e-4)
    line = torch.stack([torch.linspace(-90, 90, 400), torch.zeros(400), torch.zeros(400)], 1)
    assert float(field(line).diff(dim=1).abs().max()) < 0.1


def test_spline_weights_reproduce_straight_lines():
    weights = anatomy._refine(7)
    assert torch.allclose(weights.sum(1), torch.ones(19), atol=1e-6)
    inside = weights[3:-3] @ torch.arange(7.0)
    assert torch.allclose(inside, torch.arange(3, 16) / 3.0, atol=1e-5)


def test_the_template_is_that_of_nilearns_files_bit_for_bit():
    template = load_template()
    assert template.tissue.shape == (1, 3, 158, 187, 151) and template.tissue_low == (-75.0, -110.0, -72.0)
    assert hashlib.sha256(template.tissue.numpy().tobytes()).hexdigest() == TISSUE_SHA256
    assert torch.equal(template.tissue, template.tissue.flip(-1))
