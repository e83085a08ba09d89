import polars as pl
import torch

from seglens.cohorts.slice_set import SliceSet
from seglens.reports.shown_planes import place_of, plane_at, planes_of, strongest_planes, token_planes

LABELS = {0: "background", 1: "tumour"}


def volumes():
    """Two volumes of four planes: the first is labelled most in its third, the second not at all."""
    images = torch.arange(2 * 4.0)[:, None, None].reshape(2, 1, 4, 1, 1).expand(2, 1, 4, 3, 3).clone()
    masks, brains = torch.zeros(2, 4, 3, 3, dtype=torch.uint8), torch.zeros(2, 4, 3, 3, dtype=torch.bool)
    masks[0, 1, 0, 0], masks[0, 2] = 1, 1
    brains[:, 3], brains[:, 1, 0, 0] = True, True
    index = pl.DataFrame({"case": ["a", "b"], "position": [7, 8]})
    return SliceSet.from_tensors(images, masks, brains, index, name="x", sequences=["T1"], labels=LABELS)


def test_the_plane_with_the_most_labels_is_shown_else_the_one_with_the_most_foreground():
    (images, masks, brains), numbers = planes_of(volumes(), [0, 1])
    assert numbers.tolist() == [2, 3]
    assert images[:, 0, 0, 0].tolist() == [2.0, 7.0] and masks[0].all() and brains[1].all()
    (images, _, _), numbers = planes_of(volumes(), [1], torch.tensor([0]))
    assert numbers.tolist() == [0] and images[0, 0, 0, 0] == 4.0


def test_the_strongest_plane_of_tokens_is_that_of_the_sample_at_its_middle():
    maps = torch.zeros(2, 2, 3, 3)
    maps[0, 1], maps[1, 0] = 1.0, 2.0
    heat, numbers = strongest_planes(maps, 8)
    assert heat.shape == (2, 3, 3) and heat.max() == 2.0 and heat.min() == 1.0
    assert numbers.tolist() == [6, 2]  # 5.5 and 1.5, the middles of blocks of four
    assert token_planes(numbers, 8, 2).tolist() == [1, 0]
    assert plane_at(maps, torch.tensor([1, 0])).sum() == 27.0


def test_a_slice_and_a_plane_of_a_window_are_named():
    samples = volumes()
    assert place_of(samples.index.row(0, named=True), 2, samples) == "a, window 7, its plane 3 of 4"
    flat = SliceSet.from_tensors(
        samples.images()[:, :, :1], samples.masks()[:, :1], samples.brains()[:, :1], samples.index,
        name="x", sequences=["T1"], labels=LABELS,
    )  # fmt: skip
    assert place_of(flat.index.row(1, named=True), 0, flat) == "b, slice 8"
