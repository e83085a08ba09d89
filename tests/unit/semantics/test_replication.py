"""Names of planted latents: one that follows its class in every patient, and one that only seems to."""

import polars as pl
import pytest
import torch
from torch import nn

from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.segmenter import Hookpoint, Segmenter
from seglens.semantics.atlas import describe
from seglens.semantics.naming import words_of
from seglens.semantics.replication import replication

LABELS = {0: "background", 1: "edema"}
SIZE, PATIENTS = 32, 8


class Planted(nn.Module):
    """Activations that are the images' channels, averaged over tokens of 4 x 4 pixels."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.AvgPool2d(4)

    def forward(self, images):
        return nn.functional.interpolate(self.tokens(images), scale_factor=4.0)[:, :2]


@pytest.fixture(scope="module")
def planted():
    """Channel 0 follows the edema of every patient; channel 1 that of one patient of the first half, and one far off.

    On all patients together both have most of their mass in the edema, so by the figures alone both are named after it.
    """
    masks = torch.zeros(PATIENTS, SIZE, SIZE, dtype=torch.uint8)
    for number in range(PATIENTS):
        column = 4 + 16 * (number % 2)
        masks[number, 4 + 2 * number : 12 + 2 * number, column : column + 8] = 1
    images = torch.zeros(PATIENTS, 3, SIZE, SIZE)
    images[:, 0] = (masks == 1).float()
    images[0, 1] = 5.0 * (masks[0] == 1)
    images[1, 1, 24:28, 0:4] = 1.0
    index = pl.DataFrame({"case": [f"p{n}" for n in range(PATIENTS)], "patient": [f"p{n}" for n in range(PATIENTS)]})
    brains = torch.ones_like(masks, dtype=torch.bool)
    return SliceSet.from_tensors(images, masks, brains, index, name="planted", sequences=list("abc"), labels=LABELS)


@pytest.fixture(scope="module")
def lens():
    segmenter = Segmenter.wrap(
        Planted(), sequences=list("abc"), labels=LABELS, hookpoints={"tokens": Hookpoint("tokens")}, size=SIZE
    )
    dictionary = SparseAutoencoder(3, 3, k=1, hookpoint="tokens", segmenter_hash=segmenter.hash)
    dictionary.W_enc.copy_(torch.eye(3))
    dictionary.W_dec.copy_(torch.eye(3))
    dictionary.theta.fill_(0.1)
    return Lens(segmenter, dictionary)


def test_a_name_that_does_not_come_back_is_not_given(lens, planted):
    atlas = describe(lens, planted, top_k=3)
    follows, seems = atlas.of(0), atlas.of(1)
    assert follows["top_class"] == seems["top_class"] == "edema"
    assert follows["name"].startswith("edema") and follows["class_replicates"]
    assert seems["name"].startswith("(unreplicated)") and not seems["class_replicates"]
    assert "edema" in seems["withheld"]
    # the sides alternate with the halves, so no side comes back though every half has one
    assert not {"left", "right"} & set(follows["name"].split(", "))
    assert atlas.of(2)["name"] == "dead" and atlas.of(2)["class_replicates"] is None
    parts = {row["part"]: row for row in atlas.replication.iter_rows(named=True)}
    assert (parts["class"]["named"], parts["class"]["replicated"]) == (2, 1)
    assert parts["class"]["other_masks"] < 2 and parts["side"]["other_masks"] is None


def test_of_one_patient_nothing_can_come_back(lens, planted):
    alone = describe(lens, planted.select([0]), top_k=3)
    assert alone.of(0)["name"] == "(unreplicated)"
    assert alone.replication["replicated"].sum() == 0 and alone.replication["other_masks"].null_count() == 7


def test_chance_is_what_dealing_the_second_half_s_words_would_give():
    def word(name):
        shares = {"p_edema": float(name == "edema"), "p_background": float(name != "edema")}
        row = {**shares, "lift_edema": 20 * shares["p_edema"], "lift_background": shares["p_background"], "dead": False}
        rest = dict.fromkeys(
            ("boundary", "boundary_even", "brain", "edge", "depth", "spread", "angular_coverage", "side")
        )
        return words_of({**row, **rest}, LABELS)

    edema, background = word("edema"), word("background")
    every = [edema, edema, edema, background]
    table = replication(
        every, [[edema, edema, background, background], [edema, background, edema, background]], None, LABELS
    )
    row = table.row(by_predicate=pl.col("part") == "class", named=True)
    assert row == {"part": "class", "named": 3, "replicated": 1, "by_chance": 2 * 2 / 4, "other_masks": None}
