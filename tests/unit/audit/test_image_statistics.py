import numpy as np
import pytest
import torch

from seglens.audit.image_statistics import image_statistics
from seglens.audit.volume_samples import VolumeSamples


def statistics_of(images, spacing=(5.0, 1.0, 2.0)):
    inside = torch.ones(images.shape[0], *images.shape[2:], dtype=torch.bool)
    return image_statistics(VolumeSamples("v", "p", images, inside, None, spacing), ("T1",))


def smooth(n=2, side=64):
    axis = torch.linspace(0, 3, side)
    return (torch.sin(axis)[:, None] * torch.cos(axis)[None]).expand(n, 1, 1, side, side).clone()


def test_noise_is_measured_in_its_own_unit_and_edges_hardly_move_it():
    generator = torch.Generator().manual_seed(0)
    images = smooth()
    images[..., 30:, :] += 3  # an edge
    for spread in (0.05, 0.2):
        noisy = images + spread * torch.randn(images.shape, generator=generator)
        # the second difference of white noise has sqrt(6) times its spread; a median deviation is .6745 of it
        assert statistics_of(noisy)["image.T1.noise"] == pytest.approx(0.6745 * 6**0.5 * spread, rel=0.1)


def test_blur_lowers_what_the_second_difference_keeps():
    generator = torch.Generator().manual_seed(0)
    sharp = torch.randn(2, 1, 1, 64, 64, generator=generator)
    blurred = torch.nn.functional.avg_pool2d(sharp[:, :, 0], 3, 1, 1)[:, :, None]
    assert statistics_of(blurred)["image.T1.blur"] < 0.7 * statistics_of(sharp)["image.T1.blur"]


def test_spacing_is_in_millimetres_and_unknown_is_no_number():
    found = statistics_of(smooth())
    assert found["image.spacing_slice_log_mm"] == pytest.approx(np.log(5))
    assert found["image.spacing_column_log_mm"] == pytest.approx(np.log(2))
    assert np.isnan(statistics_of(smooth(), ())["image.spacing_row_log_mm"])


def test_only_the_foreground_counts():
    images = smooth()
    inside = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    inside[..., :32, :] = True
    other = images.clone()
    other[..., 32:, :] = 50.0
    first, second = (
        image_statistics(VolumeSamples("v", "p", own, inside, None, (1.0, 1.0, 1.0)), ("T1",))
        for own in (images, other)
    )
    assert first == second and first["image.foreground_share"] == 0.5
