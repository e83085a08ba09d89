import pytest
import torch
from torch import nn

from seglens.activations.replay import Replay, last_layer
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "edema"}
IMAGES = torch.randn(2, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("architecture", "layer", "giver"),
    [("segformer-b0", "decode_head.classifier", "decode_head.dropout"), ("unet", "final_conv", "upcat_1")],
)
def test_the_last_layer_of_both_architectures(architecture, layer, giver):
    segmenter = build_segmenter(architecture, sequences=("T1",), labels=LABELS, size=32, seed=0)
    found = last_layer(segmenter, IMAGES[:1])
    assert found[0] == layer
    assert found[1].startswith(giver)


def test_a_network_that_ends_otherwise_is_refused():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, images):
            return 2 * self.head(self.stem(images))

    segmenter = Segmenter.wrap(Scaled(), sequences=("T1",), labels=LABELS, hookpoints={"here": "stem"}, size=32)
    with pytest.raises(ValueError, match="'head' does not give the logits"):
        last_layer(segmenter, IMAGES[:1])


def test_another_replay_of_the_same_place_knows_its_plan():
    segmenter = build_segmenter("unet", sequences=("T1",), labels=LABELS, size=32, seed=0)
    first = Replay(segmenter, next(iter(segmenter.hookpoints)))
    first.record(IMAGES[:1])
    other = first.again()
    assert other.replayed_modules == first.replayed_modules
    assert torch.equal(other.record(IMAGES[1:]), segmenter.logits(IMAGES[1:]))
    assert torch.equal(other.logits(), segmenter.logits(IMAGES[1:]))
