import polars as pl
import torch

from seglens.cohorts.slice_set import SliceSet
from seglens.steering.style_transfer import (
    brains_of,
    map_quantiles,
    quantiles_of,
    restyled,
    style_of,
    with_random_contrast,
)

LABELS = {0: "background", 1: "core", 2: "edema"}


def images_and_masks(seed=0, n=6, side=32):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 2, 1, side, side, generator=generator)
    images[..., :4, :] = 0
    masks = torch.zeros(n, 1, side, side, dtype=torch.uint8)
    masks[..., 10:22, 10:24] = 1
    masks[..., 12:16, 12:16] = 2
    return images, masks


def slice_set(images, masks):
    index = pl.DataFrame({"case": [f"p{number // 2}" for number in range(len(images))]})
    return SliceSet.from_tensors(
        images, masks, brains_of(images), index, name="source", sequences=("T1", "FLAIR"), labels=LABELS
    )


def test_a_monotone_change_is_mapped_back():
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    changed = torch.where(values > 0, 3 * values, values / 2) + 5
    back = map_quantiles(changed, quantiles_of(changed), quantiles_of(values))
    assert torch.allclose(back, values, atol=0.05)
    inner = values.abs() < 2
    assert torch.allclose(back[inner], values[inner], atol=5e-3)


def test_values_beyond_the_quantiles_keep_their_distance():
    own, other = torch.linspace(0, 1, 201), torch.linspace(10, 30, 201)
    mapped = map_quantiles(torch.tensor([-2.0, 0.0, 0.5, 1.0, 4.0]), own, other)
    assert torch.allclose(mapped, torch.tensor([8.0, 10.0, 20.0, 30.0, 33.0]), atol=1e-4)


def test_too_few_values_have_no_quantiles():
    assert quantiles_of(torch.ones(499)) is None
    assert quantiles_of(torch.ones(500)) is not None


def test_a_cohort_in_its_own_style_stays_as_it_is():
    images, masks = images_and_masks()
    style = style_of(images, masks > 0)
    same = restyled(slice_set(images, masks), style, style)
    assert torch.allclose(same.images(), images, atol=0.02)
    assert torch.equal(same.masks(), masks)
    assert same.index["patient"].to_list() == [f"p{number // 2}" for number in range(6)]


def test_lesion_and_healthy_tissue_get_their_own_intensities():
    images, masks = images_and_masks()
    lesions = masks > 0
    other = images.clone()
    other[:, 0][lesions] = 2 * images[:, 0][lesions] + 7
    other[:, 1][brains_of(images) & ~lesions] -= 3
    own, wanted = style_of(images, lesions), style_of(other, lesions)
    # amplitudes of the source: intensities alone are moved
    wanted = type(wanted)(own.amplitudes, wanted.quantiles)
    moved = restyled(slice_set(images, masks), own, wanted).images()
    assert torch.allclose(moved, other, atol=0.15)
    assert (moved - other).abs().mean() < 0.01
    assert torch.equal(brains_of(moved), brains_of(images))


def test_blur_is_taken_over():
    images, masks = images_and_masks(n=20)
    images[..., :4, :] = torch.randn(20, 2, 1, 4, 32, generator=torch.Generator().manual_seed(9))
    blurred = (images + torch.nn.functional.avg_pool2d(images[:, :, 0], 3, 1, 1)[:, :, None]) / 2
    nowhere = torch.zeros_like(masks, dtype=torch.bool)
    own, wanted = style_of(images, nowhere), style_of(blurred, nowhere)
    moved = restyled(slice_set(images, torch.zeros_like(masks)), own, wanted).images()
    again = style_of(moved, nowhere).amplitudes
    before = (own.amplitudes / wanted.amplitudes).log().abs()[:, 1:12]
    after = (again / wanted.amplitudes).log().abs()[:, 1:12]
    assert float(before.mean()) > 0.2
    assert float(after.mean()) < 0.05


def test_random_contrast_moves_each_class_of_a_slice_by_one_number():
    images, masks = images_and_masks()
    slices = slice_set(images, masks)
    moved = with_random_contrast(slices, seed=4, spread=2.0)
    difference = moved.images() - images
    assert torch.equal(moved.masks(), masks)
    assert not difference[..., :8, :].any()
    inner = difference[..., 18:20, 12:22]  # core, away from its border
    assert torch.allclose(inner, inner[..., :1, :1].expand_as(inner), atol=1e-5)
    assert len({round(float(value), 4) for value in inner[..., 0, 0].flatten()}) == 12
    assert torch.equal(moved.images(), with_random_contrast(slices, seed=4, spread=2.0).images())
