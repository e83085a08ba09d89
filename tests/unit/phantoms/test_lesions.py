import math

import numpy as np
import pytest
import torch
from numpy.random import default_rng

from seglens.phantoms.anatomy import load_template, make_head, sample_anatomy, smooth_field
from seglens.phantoms.lesions import STEP_MM, arrival_time, compartments, equivalent_radius, grow


@pytest.fixture(scope="module")
def grown():
    template = load_template()
    head = make_head(
        scale=1.0,
        proportions=(1.0, 1.0, 1.0),
        degrees=(2.0, 1.0, -3.0),
        displacement=smooth_field(default_rng(5), channels=3, knot_mm=32.0),
        amplitude_mm=2.0,
    )
    lesion = grow(
        template,
        head,
        (28.0, 30.0, 20.0),
        core_mm=18.0,
        necrosis_share=0.65,
        edema_mm=9.0,
        coverage=1.0,
        irregularity=smooth_field(default_rng(6), channels=1, knot_mm=14.0),
        pattern=smooth_field(default_rng(7), channels=1, knot_mm=18.0),
    )
    return template, head, lesion


def bellman_ford(speed: np.ndarray, sources: list[int]) -> np.ndarray:
    """The obvious reference of the shortest paths: relax every pair of neighbours until nothing changes."""
    times = np.full(speed.size, np.inf)
    times[sources] = 0
    places = list(np.ndindex(speed.shape))
    changed = True
    while changed:
        changed = False
        for here, a in enumerate(places):
            for there, b in enumerate(places):
                step = np.abs(np.subtract(a, b))
                if here != there and step.max() <= 1:
                    cost = math.sqrt((step**2).sum()) * (1 / speed[a] + 1 / speed[b]) / 2
                    if times[here] + cost < times[there] - 1e-12:
                        times[there] = times[here] + cost
                        changed = True
    return times.reshape(speed.shape)


def test_arrival_times_equal_bellman_ford():
    speed = default_rng(0).uniform(0.05, 1.0, (3, 4, 5))
    for sources in ([0], [7, 41]):
        assert np.allclose(arrival_time(speed, sources), bellman_ford(speed, sources))


def test_equivalent_radius_is_that_of_a_ball_of_the_same_volume():
    radius = equivalent_radius(default_rng(1).permutation(1000).reshape(10, 10, 10).astype(float))
    for limit in (5.0, 9.0, 15.0):
        volume = (radius <= limit).sum() * STEP_MM**3
        assert volume == pytest.approx(4 / 3 * math.pi * limit**3, abs=STEP_MM**3)


def test_equivalent_radius_ranks_ties_by_position():
    radius = equivalent_radius(np.array([[[2.0, 1.0], [1.0, 2.0]], [[0.0, 1.0], [3.0, 0.0]]]))
    assert np.argsort(radius, axis=None).tolist() == [4, 7, 1, 2, 5, 0, 3, 6]


def test_compartments_have_the_planted_volumes(grown):
    template, head, lesion = grown
    axis = torch.arange(-60.0, 61.0, 2.0)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3) + torch.tensor(lesion.seed)
    anatomy = sample_anatomy(template, head.to_template(points))
    parts = compartments(lesion, points, anatomy)

    def ball(radius: float) -> float:
        return 4 / 3 * math.pi * radius**3

    voxel = 8.0
    assert float(parts.necrosis.sum()) * voxel == pytest.approx(ball(0.65 * 18), rel=0.15)
    core = parts.necrosis + parts.solid + parts.enhancing
    assert float(core.sum()) * voxel == pytest.approx(ball(18.0), rel=0.15)
    total = core + parts.edema
    assert float(total.max()) <= 1 + 1e-5
    assert ball(18.0) < float(total.sum()) * voxel < 1.05 * ball(27.0)
    assert float(parts.solid.max()) < 1e-6, "everything viable enhances when coverage is 1"
    assert float(parts.edema[anatomy.fluid > 0.9].max()) < 0.1
    outside = anatomy.brain == 0
    assert float(total[outside].abs().max()) == 0


def test_edema_prefers_white_matter(grown):
    template, head, lesion = grown
    axis = torch.arange(-54.0, 55.0, 3.0)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3) + torch.tensor(lesion.seed)
    anatomy = sample_anatomy(template, head.to_template(points))
    near = (points - torch.tensor(lesion.seed)).norm(dim=1) < 34
    edema = compartments(lesion, points, anatomy).edema
    white = edema[near & (anatomy.white > 0.8)].mean()
    grey = edema[near & (anatomy.grey > 0.8)].mean()
    assert float(white) > 2 * float(grey)


def test_half_coverage_enhances_about_half_of_the_viable_core():
    template = load_template()
    head = make_head(
        scale=1.0,
        proportions=(1.0, 1.0, 1.0),
        degrees=(0.0, 0.0, 0.0),
        displacement=smooth_field(default_rng(5), channels=3, knot_mm=32.0),
        amplitude_mm=0.0,
    )
    shares = []
    for coverage in (0.25, 0.5, 0.75):
        lesion = grow(
            template,
            head,
            (28.0, 30.0, 20.0),
            core_mm=16.0,
            necrosis_share=0.1,
            edema_mm=5.0,
            coverage=coverage,
            irregularity=smooth_field(default_rng(6), channels=1, knot_mm=14.0),
            pattern=smooth_field(default_rng(7), channels=1, knot_mm=18.0),
        )
        axis = torch.arange(-36.0, 37.0, 2.0)
        points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        points = points + torch.tensor(lesion.seed)
        parts = compartments(lesion, points, sample_anatomy(template, head.to_template(points)))
        shares.append(float(parts.enhancing.sum() / (parts.enhancing + parts.solid).sum()))
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=0.08)


def test_a_lesion_tells_its_heights_and_its_truth(grown):
    _, _, lesion = grown
    low, high = lesion.heights_mm()
    assert low < lesion.seed[2] < high
    assert 36 <= high - low <= 80
    assert lesion.truth()["core_mm"] == 18.0
    assert lesion.truth()["necrosis_mm"] == pytest.approx(11.7)
