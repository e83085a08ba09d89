"""Toys that tests of several folders play on: small slices, segmenters and stores; and the command, answered here."""

import sys

import polars as pl
import pytest
import torch

from seglens import cli
from seglens.activations.extraction import extract
from seglens.cohorts.slice_set import SliceSet
from seglens.segmenters.architectures import build_segmenter

LABELS = {0: "background", 1: "edema", 2: "enhancing"}
TINY_SEGFORMER = {
    "hidden_sizes": (8, 16, 24, 32),
    "depths": (1, 1, 1, 1),
    "num_attention_heads": (1, 2, 3, 4),
    "decoder_hidden_size": 8,
}


def slices_of(n, sequences=("T1",), labels=LABELS):
    """Noise [n C 32 32] with masks of all labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, len(sequences), 32, 32, generator=generator)
    masks = torch.randint(0, len(labels), (n, 32, 32), generator=generator).to(torch.uint8)
    index = pl.DataFrame({"case": [f"case{row}" for row in range(n)], "position": list(range(n))})
    return SliceSet.from_tensors(images, masks, masks >= 0, index, name="toy", sequences=sequences, labels=labels)


def tiny_segmenter(seed=0, sequences=("T1",)):
    """A SegFormer of width 8, hookpoints stage1 to stage4."""
    return build_segmenter(
        "segformer-b0", sequences=sequences, labels=LABELS, size=32, seed=seed, settings=TINY_SEGFORMER
    )


def store_of(n):
    """Activations [n*64 8] at stage1."""
    return extract(tiny_segmenter(), slices_of(n), "stage1")


def answer(monkeypatch, *arguments):
    """The command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["seglens", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code
