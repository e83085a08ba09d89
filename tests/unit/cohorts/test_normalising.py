import numpy as np
import pytest
import torch

from seglens.cohorts.normalising import Intensities, resize

RNG = np.random.default_rng(0)


def disc(n: int = 64, radius: float = 0.7) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n), indexing="ij")
    return x**2 + y**2 < radius**2


def test_intensities_against_a_plain_calculation() -> None:
    parts = [RNG.gamma(2, 50, (2, 6, 5)).astype(np.float32), RNG.gamma(2, 50, (1, 4, 7)).astype(np.float32)]
    brains = [part > 20 for part in parts]
    scale = Intensities.of(parts, brains, (2.0, 98.0))
    everything = np.concatenate([part[brain] for part, brain in zip(parts, brains, strict=True)]).astype(np.float64)
    clipped = np.clip(everything, np.percentile(everything, 2), np.percentile(everything, 98))
    normal = [scale.normalise(part, brain) for part, brain in zip(parts, brains, strict=True)]
    inside = np.concatenate([part[brain] for part, brain in zip(normal, brains, strict=True)])
    np.testing.assert_allclose(inside, (clipped - clipped.mean()) / clipped.std(), atol=1e-4)
    assert all((part[~brain] == 0).all() for part, brain in zip(normal, brains, strict=True))
    assert normal[0].dtype == np.float32


def test_a_constant_brain_becomes_zero_and_not_nan() -> None:
    flat = np.full((1, 4, 4), 7, np.float32)
    brain = np.ones_like(flat, bool)
    assert (Intensities.of([flat], [brain], (0.5, 99.5)).normalise(flat, brain) == 0).all()


@pytest.mark.parametrize(("height", "width"), [(10, 16), (16, 9), (16, 16)])
def test_padding_alone_moves_pixels_and_changes_none(height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width)
    masks = torch.randint(0, 4, (2, height, width), dtype=torch.uint8)
    brains = torch.rand(2, height, width) > 0.2
    out, labels, inside = resize(images, masks, brains, 16)
    top, left = (16 - height) // 2, (16 - width) // 2
    window = (slice(top, top + height), slice(left, left + width))
    torch.testing.assert_close(out[:, :, *window], images * brains[:, None], rtol=0, atol=0)
    assert torch.equal(labels[:, *window], masks)
    assert torch.equal(inside[:, *window], brains)
    assert labels.sum() == masks.sum()
    assert inside.sum() == brains.sum()


@pytest.mark.parametrize("size", [8, 32])
def test_halving_averages_and_doubling_repeats_labels(size: int) -> None:
    images = torch.linspace(0, 1, 16)[None, None, None, :].repeat(1, 1, 16, 1)
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[:, 4:8, 8:12] = 3
    out, labels, inside = resize(images, masks, torch.ones(1, 16, 16, dtype=torch.bool), size)
    zoom = size / 16
    assert out.shape == (1, 1, size, size)
    assert inside.all()
    assert labels.unique().tolist() == [0, 3]
    rows, columns = (labels[0] == 3).nonzero(as_tuple=True)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (4 * zoom, 8 * zoom, 8 * zoom, 12 * zoom)
    centres = (torch.arange(size) + 0.5) / zoom - 0.5
    torch.testing.assert_close(out[0, 0, 0, 2:-2], centres[2:-2] / 15, rtol=0, atol=1e-5)


def test_images_are_zero_outside_the_resized_brain() -> None:
    brain = torch.from_numpy(disc(50))[None]
    out, _, inside = resize(torch.ones(1, 1, 50, 50), torch.zeros(1, 50, 50, dtype=torch.uint8), brain, 32)
    assert (out[0, 0][~inside[0]] == 0).all()
    assert (out[0, 0][inside[0]] > 0).all()
