"""A tiny segmenter and its activations."""

import polars as pl
import pytest
import torch

from seglens.activations.extraction import extract
from seglens.cohorts.slice_set import SliceSet
from seglens.segmenters.segmenter import Hookpoint, Segmenter

LABELS = {0: "background", 1: "edema"}


@pytest.fixture(scope="session")
def slices():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 1, 8, 8, generator=generator)
    masks = (images[:, 0] > 0.5).to(torch.uint8)
    index = pl.DataFrame({"case": [f"c{row}" for row in range(6)]})
    return SliceSet.from_tensors(images, masks, masks < 9, index, name="toy", sequences=("T1",), labels=LABELS)


@pytest.fixture(scope="session")
def segmenter():
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(6, 2, 1))
    return Segmenter.wrap(
        network.eval(), sequences=("T1",), labels=LABELS, hookpoints={"middle": Hookpoint("1")}, size=8
    )


@pytest.fixture(scope="session")
def store(segmenter, slices):
    return extract(segmenter, slices, "middle")
