import numpy as np
import pytest

from seglens.cohorts.foreground import (
    RULES,
    body_of,
    brain_foreground,
    check_rule,
    is_stripped,
    is_stripped_brain,
    otsu_threshold,
)

RNG = np.random.default_rng(0)


def disc(n: int = 64, radius: float = 0.7) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n), indexing="ij")
    return x**2 + y**2 < radius**2


def stripped() -> np.ndarray:
    """One slice [1 64 64] of a stripped brain."""
    return np.where(disc(), RNG.uniform(50, 100, (64, 64)), 0).astype(np.float32)[None]


def test_a_stripped_brain_is_what_is_not_zero_in_any_sequence() -> None:
    first, second = np.zeros((2, 3, 8, 8), np.float32)
    first[:, 2:5, 2:5] = RNG.uniform(50, 100, (3, 3, 3))
    second[:, 3:7, 3:7] = RNG.uniform(50, 100, (3, 4, 4))
    (brain,) = brain_foreground([[first, second]])
    np.testing.assert_array_equal(brain, (first != 0) | (second != 0))


def test_a_body_in_noise_is_found_whole() -> None:
    inside = disc()
    picture = np.where(inside, 120.0, 0.0) + RNG.uniform(1, 8, inside.shape)
    picture[28:36, 28:36] = 3  # dark fluid within the head
    picture[2:4, 2:4] = 120  # a label burnt into the corner
    values = picture[None].astype(np.float32)
    assert not is_stripped(values)
    (brain,) = brain_foreground([[values]])
    agreement = 2 * (brain[0] & inside).sum() / (brain.sum() + inside.sum())
    assert agreement > 0.98
    assert not brain[0, :5, :5].any()
    assert brain[0, 30, 30]


def test_the_threshold_is_the_volumes_not_the_slices() -> None:
    bright = (np.where(disc(), 120.0, 0.0) + RNG.uniform(1, 8, (64, 64))).astype(np.float32)[None]
    noise = RNG.uniform(1, 8, (1, 50, 40)).astype(np.float32)
    first, second = brain_foreground([[bright], [noise]])
    assert first.any()
    assert not second.any()
    assert second.shape == (1, 50, 40)
    assert not body_of(noise, 10.0).any()


def test_otsu_against_brute_force() -> None:
    values = np.concatenate([RNG.normal(10, 2, 3000), RNG.normal(60, 8, 1000)]).astype(np.float32)
    clipped = np.clip(values, values.min(), np.percentile(values, 99.5))

    def within(threshold: float) -> float:
        low, high = clipped[clipped <= threshold], clipped[clipped > threshold]
        return float(low.var() * low.size + high.var() * high.size)

    candidates = np.linspace(clipped.min() + 0.5, clipped.max() - 0.5, 400)
    best = min(within(threshold) for threshold in candidates)
    assert within(otsu_threshold(values)) <= best * 1.001


def test_rules_by_name() -> None:
    values = stripped()
    values[0, 32, 32] = 0
    foreground = {name: rule([[values, values]])[0] for name, rule in RULES.items()}
    np.testing.assert_array_equal(foreground["nonzero"], values != 0)
    np.testing.assert_array_equal(foreground["brain"], values != 0)
    assert foreground["none"].all()
    for name in ("auto", *RULES):
        check_rule(name)
    with pytest.raises(ValueError, match="no foreground rule 'brian'; did you mean 'brain'"):
        check_rule("brian")


def test_a_stripped_brain_is_recognised() -> None:
    values = stripped()
    assert is_stripped_brain([[values]])
    assert is_stripped_brain([[values], [np.roll(values, 5, axis=1)]])
    assert is_stripped_brain([[values, values * 3]])


def _framed_dark_organ() -> np.ndarray:
    values = RNG.uniform(80, 100, (1, 64, 64)).astype(np.float32)
    values[:, :8] = 0
    values[:, 20:40, 20:30] = 0  # an organ as black as the frame
    return values


def _two_pieces() -> np.ndarray:
    values = np.zeros((1, 64, 64), np.float32)
    values[:, 5:30, 5:60] = RNG.uniform(50, 100, (1, 25, 55))
    values[:, 35:55, 5:60] = RNG.uniform(50, 100, (1, 20, 55))
    return values


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(stripped() + RNG.uniform(1, 4, (1, 64, 64)).astype(np.float32), id="noise around it"),
        pytest.param(RNG.uniform(50, 100, (1, 64, 64)).astype(np.float32), id="fills the frame"),
        pytest.param(_framed_dark_organ(), id="an organ as black as the frame"),
        pytest.param(_two_pieces(), id="two pieces"),
        pytest.param(np.zeros((1, 8, 8), np.float32), id="nothing"),
    ],
)
def test_what_is_no_stripped_brain(values: np.ndarray) -> None:
    assert not is_stripped_brain([[values]])
