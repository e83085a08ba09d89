from functools import cache

import numpy as np
import pytest
import torch

from seglens.phantoms.populations import FACTORS, LESION_FACTORS, resolve
from seglens.phantoms.subject import make_subject, stream
from seglens.phantoms.tissue import HEALTHY_LABELS

SIZE, SLICES = 48, 4


@cache
def make(population: str, *factors: tuple[str, str], subject: int = 0, seed: int = 3):
    return remake(population, *factors, subject=subject, seed=seed)


def remake(population: str, *factors: tuple[str, str], subject: int = 0, seed: int = 3):
    return make_subject(resolve(population, dict(factors)), seed=seed, subject=subject, size=SIZE, slices=SLICES)


@pytest.fixture(scope="module")
def adult():
    return make("adult")


def test_equal_seeds_give_equal_subjects_and_others_do_not(adult):
    again = remake("adult")
    assert np.array_equal(adult.images, again.images) and np.array_equal(adult.labels, again.labels)
    assert np.array_equal(adult.affine, again.affine) and adult.truth == again.truth
    assert not np.array_equal(adult.images, make("adult", subject=1).images)
    assert not np.array_equal(adult.images, make("adult", seed=4).images)


def test_streams_are_independent():
    draws = {
        stream(seed, subject, name).random() for seed in (0, 1) for subject in (0, 1) for name in (*FACTORS, "shape")
    }
    assert len(draws) == 4 * (len(FACTORS) + 1)


def test_the_bits_do_not_depend_on_the_threads(adult):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert np.array_equal(adult.images, remake("adult").images)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("factor", FACTORS)
def test_one_factor_redraws_that_factor_alone(adult, factor):
    source = "pediatric" if factor in {"head", "tissue", "place", "edema", "enhancement"} else "ssa"
    other = make("adult", (factor, source))
    for name in FACTORS:
        same = other.truth["factors"][name] == adult.truth["factors"][name]
        assert same is (name != factor), name
    assert not np.array_equal(other.images, adult.images)
    if factor not in {*LESION_FACTORS, "head", "thickness"}:
        assert np.array_equal(other.labels, adult.labels), "the scanner does not change what is true"
        assert np.array_equal(other.affine, adult.affine)
    if factor == "thickness":
        assert np.array_equal(other.affine, adult.affine)
        assert (other.labels == adult.labels).mean() > 0.97
    if factor == "enhancement":
        assert np.array_equal(other.labels == 2, adult.labels == 2), "edema stays where it was"
    if factor == "edema":
        inner = other.truth["lesion"]
        assert (
            inner["core_mm"] == adult.truth["lesion"]["core_mm"]
            and inner["seed_mm"] == adult.truth["lesion"]["seed_mm"]
        )


def test_more_noise_is_the_same_picture_with_more_noise(adult):
    noisy = make("adult", ("noise", "ssa"))
    inside = adult.images[0] > 0
    assert np.array_equal(inside, noisy.images[0] > 0)
    difference = (noisy.images[0].astype(float) - adult.images[0])[inside]
    assert abs(difference.mean()) < 10 < difference.std()


def test_a_tumour_has_its_classes_and_its_contrast():
    subjects = [make("adult", subject=number) for number in range(3)]
    for made in subjects:
        assert set(np.unique(made.labels)) == {0, 1, 2, 3}
        lesion_free = (made.labels > 0).any(axis=(0, 1))
        assert lesion_free.sum() >= 0.6 * SLICES
        t1, t1c, _, flair = made.images.astype(float)
        brain = made.images[0] > 0
        healthy = brain & (made.labels == 0)
        assert t1c[made.labels == 3].mean() > 1.5 * t1c[healthy].mean()
        assert flair[made.labels == 2].mean() > 1.2 * flair[healthy].mean()
        assert t1[made.labels == 1].mean() < t1[healthy].mean()
        assert (made.images[:, ~brain] == 0).all() and (made.images[:, brain] > 0).all()


def test_populations_look_as_their_priors_say():
    def edema_share(made) -> float:
        return float((made.labels == 2).sum() / (made.labels > 0).sum())

    adults = [make("adult", subject=number) for number in range(3)]
    children = [make("pediatric", subject=number) for number in range(3)]
    assert np.mean([edema_share(made) for made in children]) < np.mean([edema_share(made) for made in adults])
    late = [make("ssa", subject=number) for number in range(3)]
    for early, later in zip(adults, late, strict=True):
        assert later.truth["lesion"]["seed_mm"] == early.truth["lesion"]["seed_mm"], (
            "paired by seed: same head and place"
        )
        assert later.truth["lesion"]["core_mm"] > early.truth["lesion"]["core_mm"]
        assert later.truth["slices"]["thickness_mm"] > early.truth["slices"]["thickness_mm"]
    heights = [made.truth["factors"]["place"]["template_mm"] for made in children]
    assert np.mean([z for _, _, z in heights]) < 0


def test_a_healthy_subject_has_all_structures_and_no_lesion():
    made = make_subject(resolve("healthy", {}), seed=0, subject=0, size=64, slices=10)
    counts = np.bincount(made.labels.ravel(), minlength=len(HEALTHY_LABELS))
    assert (counts > 30).all(), dict(zip(HEALTHY_LABELS.values(), counts.tolist(), strict=True))
    assert made.truth["lesion"] is None
    assert not set(made.truth["factors"]) & set(LESION_FACTORS)
    halves = made.labels[:32], made.labels[32:]
    assert all((half == value).any() for half in halves for value in (4, 5, 6))
    assert not np.array_equal(made.labels, made.labels[::-1]), "no head is its own mirror image"


@pytest.mark.parametrize(("size", "slices"), [(32, 1), (48, 3)])
def test_spacing_and_shape_follow_the_request(size, slices):
    made = make_subject(resolve("pediatric", {}), seed=0, subject=0, size=size, slices=slices)
    assert made.images.shape == (4, size, size, slices) and made.images.dtype == np.int16
    assert made.labels.shape == (size, size, slices) and made.labels.dtype == np.uint8
    assert made.affine[0, 0] == pytest.approx(208 / size) and made.affine[1, 1] == pytest.approx(208 / size)
    heights = made.truth["slices"]["heights_mm"]
    assert made.affine[2, 3] == pytest.approx(heights[0])
    if slices > 1:
        assert np.diff(heights) == pytest.approx(made.affine[2, 2], abs=1e-3)
