from collections import Counter

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from seglens.audit.hospitals import HOSPITALS, KINDS, add_noise, bend, blur, coarsen, hospitals_of, shade, thicken

SPACING = (5.0, 1.0, 2.0)


def head(seed=0, value=100.0):
    values = np.zeros((2, 10, 64, 64), np.float32)
    values[:, :, 8:56, 8:56] = value
    return values


def generator():
    return np.random.default_rng(1)


def test_noise_has_the_ratio_that_it_is_asked_for():
    for snr in (20.0, 5.0):
        noisy = add_noise(head(), SPACING, snr, generator())
        inside, outside = noisy[:, :, 10:54, 10:54], noisy[:, :, :6]
        assert 100 / inside.std() == pytest.approx(snr, rel=0.05)
        assert noisy.min() >= 0
        assert outside.mean() == pytest.approx(100 / snr * np.sqrt(np.pi / 2), rel=0.05)  # Rayleigh where no signal is
    hounsfield = add_noise(head() - 50, SPACING, 5.0, generator())
    assert hounsfield[:, :, :6].mean() == pytest.approx(-50, abs=0.5)  # with negative values, Gaussian


def test_widths_are_in_millimetres():
    point = np.zeros((1, 21, 41, 41), np.float32)
    point[0, 10, 20, 20] = 1

    def width(values, axis, side):
        profile = values[0].sum(tuple(other for other in range(3) if other != axis))
        places = np.arange(len(profile)) * side
        mean = (profile * places).sum() / profile.sum()
        return 2.3548 * np.sqrt((profile * (places - mean) ** 2).sum() / profile.sum())

    blurred = blur(point, SPACING, 8.0, generator())
    assert width(blurred, 1, 1.0) == pytest.approx(8, rel=0.05) == width(blurred, 2, 2.0)
    assert width(blurred, 0, 5.0) == 0
    thick = thicken(point, SPACING, 20.0, generator())
    assert width(thick, 0, 5.0) == pytest.approx(20, rel=0.05) and width(thick, 1, 1.0) == 0


def test_large_pixels_lose_fine_detail_and_keep_the_grid():
    values = head() + np.random.default_rng(0).normal(0, 10, head().shape).astype(np.float32)
    coarse = coarsen(values, SPACING, 4.0, generator())
    assert coarse.shape == values.shape
    fine = [own - gaussian_filter(own, (0, 0, 2, 2)) for own in (values, coarse)]
    assert fine[1][:, :, 16:48, 16:48].std() < 0.4 * fine[0][:, :, 16:48, 16:48].std()
    assert coarsen(values, SPACING, 0.5, generator()) is values  # smaller than they are: nothing to do


def test_shading_is_smooth_within_its_reach_and_the_same_for_all_sequences():
    shaded = shade(head(), SPACING, 0.4, generator()) / np.maximum(head(), 1)
    inside = shaded[:, :, 8:56, 8:56]
    assert inside.min() >= 0.6 - 1e-5 and inside.max() <= 1.4 + 1e-5 and np.ptp(inside) > 0.2
    assert np.array_equal(inside[0], inside[1]) and np.abs(np.diff(inside, axis=-1)).max() < 0.1


def test_contrast_keeps_the_order():
    values = np.random.default_rng(0).gamma(2.0, 50.0, (2, 4, 16, 16)).astype(np.float32)
    bent = bend(values, SPACING, 0.8, generator())
    for before, after in zip(values, bent, strict=True):
        assert np.array_equal(before.ravel().argsort(), after.ravel().argsort())
    assert not np.allclose(bent, values, rtol=0.05)


def test_amounts_rise_in_effect():
    values = np.random.default_rng(0).gamma(2.0, 50.0, (1, 12, 48, 48)).astype(np.float32)
    values = gaussian_filter(values, (0, 1, 2, 2)).astype(np.float32)
    for kind in KINDS:
        changes = [
            np.abs(kind.simulate(values, SPACING, amount, generator()) - values).mean() for amount in kind.amounts
        ]
        assert changes == sorted(changes) and changes[0] < changes[-1], kind.name


def test_a_volume_always_meets_the_same_hospital():
    change = HOSPITALS[0].change("v")
    first, again, other = change(head(), SPACING), change(head(), SPACING), HOSPITALS[0].change("w")(head(), ())
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_hospitals_are_many_and_come_up_alike():
    assert len({one.name for one in HOSPITALS}) == len(HOSPITALS) == 30
    names = [f"p{number}" for number in range(30)]
    dealt = hospitals_of(names[::-1] * 2, 4)
    assert dealt == hospitals_of(names, 4)
    assert set(Counter(one.name for own in dealt.values() for one in own).values()) == {4}
    assert all(len(set(own)) == 4 for own in dealt.values())
    with pytest.raises(ValueError, match="0 to 30"):
        hospitals_of(names, 31)
