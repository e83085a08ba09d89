import pytest
import torch

from seglens.activations.store import ActivationStore
from seglens.dictionaries.archetypal import Hull, archetypal_points, fit_archetypal
from seglens.dictionaries.fitting import FitPlan, FitSettings, fit_dictionaries

SETTINGS = FitSettings(k=3, expansion=4, steps=60, batch_size=256, learning_rate=2e-3)


def _store(seed: int = 0) -> ActivationStore:
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randn(24, 12, generator=generator)
    active = (torch.rand(40, 5, 5, 24, generator=generator) < 0.1).float()
    return ActivationStore.from_grids(active @ sources, hookpoint="here", segmenter_hash="a", slices_hash="b")


def _distance_to_hull(point: torch.Tensor, vertices: torch.Tensor) -> float:
    """Slow and sure: non-negative least squares with a heavily weighted row of ones."""
    from scipy.optimize import nnls

    heavy = 1e4
    matrix = torch.cat([vertices.T, heavy * torch.ones(1, len(vertices))]).double().numpy()
    weights, _ = nnls(matrix, torch.cat([point, torch.tensor([heavy])]).double().numpy())
    return float((torch.from_numpy(weights) @ vertices.double() - point.double()).norm())


def test_hull_points_stay_in_the_hull_and_rows_near_them() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(8, 5, generator=generator) + 2
    hull = Hull(points, relaxation=0.2)
    rows = points / points.norm(dim=1, keepdim=True)
    for _ in range(15):
        rows += 0.3 * torch.randn(8, 5, generator=generator)
        rows /= rows.norm(dim=1, keepdim=True)
        hull(rows)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(8))
    assert hull.hull_points is not None
    for row, hull_points in zip(rows, hull.hull_points, strict=True):
        assert _distance_to_hull(hull_points, points) < 1e-3
        assert 1 - float(row @ hull_points) ** 2 / float(hull_points @ hull_points) <= 0.2**2 + 1e-6


def test_a_row_inside_the_hull_is_left_where_it_wants_to_be() -> None:
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    hull = Hull(points, relaxation=0.0)
    wanted = torch.tensor([[1.0, 1.0], [1.0, 3.0]])
    wanted /= wanted.norm(dim=1, keepdim=True)
    for _ in range(200):
        rows = wanted.clone()
        hull(rows)
    torch.testing.assert_close(rows, wanted, atol=0.02, rtol=0)


def test_points_find_the_centres_of_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(4, 12, generator=generator)
    grids = centres[torch.randint(4, (40, 5, 5), generator=generator)]
    grids = grids + 0.01 * torch.randn(grids.shape, generator=generator)
    store = ActivationStore.from_grids(grids, hookpoint="here", segmenter_hash="a", slices_hash="b")
    points = archetypal_points(store, 16, seed=3) / store.scale + store.centre
    assert float(torch.cdist(centres, points).min(dim=1).values.max()) < 0.05


def test_two_seeds_end_at_nearly_the_same_rows_and_plain_fits_do_not() -> None:
    store = _store()
    one, other = (fit_archetypal(store, settings=SETTINGS, seed=seed) for seed in (0, 1))
    plain = fit_dictionaries([FitPlan(store, SETTINGS, seed=seed) for seed in (0, 1)])

    def nearest(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b.T).max(dim=1).values.mean())

    assert nearest(one.W_dec, other.W_dec) > 0.95
    assert nearest(plain[0].W_dec, plain[1].W_dec) < 0.9


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="give as many points"):
        Hull(torch.ones(3, 2), 0.1)(torch.ones(4, 2))
    with pytest.raises(ValueError, match="relaxation of -1"):
        Hull(torch.ones(3, 2), -1.0)


def test_a_constrained_fit_keeps_no_checkpoint(tmp_path) -> None:
    plan = FitPlan(_store(), SETTINGS, checkpoint=tmp_path, constrain=Hull(torch.ones(48, 12), 0.1))
    with pytest.raises(ValueError, match="keeps no checkpoints"):
        fit_dictionaries([plan])
