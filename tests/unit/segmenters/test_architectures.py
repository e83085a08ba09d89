import pytest
import torch
from tests.toys import LABELS, TINY_SEGFORMER
from torch import nn

from seglens.segmenters.architectures import (
    Architecture,
    architecture_named,
    architectures,
    build_network,
    build_segmenter,
    start_from,
)
from seglens.segmenters.segmenter import Hookpoint, Segmenter


def tiny(**changes):
    settings = {"sequences": ("T1", "T2"), "labels": LABELS, "size": 32, "settings": TINY_SEGFORMER, **changes}
    return build_segmenter("segformer-b0", **settings)


@pytest.mark.parametrize(
    ("name", "millions"),
    # the encoder of the SegFormer paper's Table 1a, and its decoder
    [("b0", 3.8), ("b1", 13.7), ("b2", 27.5), ("b3", 47.3), ("b4", 64.1), ("b5", 84.7)],
)
def test_sizes_of_the_segformer_paper(name, millions):
    description = architecture_named(f"segformer-{name}").describe(3, 150)
    with torch.device("meta"):
        network = build_network(description)
    own = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert own == pytest.approx(millions, abs=0.25)


def test_random_weights_follow_from_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    weights = [tiny(seed=seed).network.state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    name = "segformer.stages.0.patch_embeddings.proj.weight"
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[0][name], weights[2][name])


def test_unet_hookpoints_and_logits():
    segmenter = build_segmenter(
        "unet", sequences=("T1",), labels=LABELS, size=32, settings={"features": (4, 4, 8, 8, 8, 4)}
    )
    names = ["encoder0", "encoder1", "encoder2", "encoder3", "encoder4", "decoder4", "decoder3", "decoder2", "decoder1"]
    assert list(segmenter.hookpoints) == names
    assert segmenter.logits(torch.randn(1, 1, 1, 32, 32)).shape == (1, 3, 1, 32, 32)
    assert segmenter.module_at("encoder4") is segmenter.network.down_4
    assert segmenter.module_at("decoder1") is segmenter.network.upcat_1


def test_a_description_rebuilds_the_network():
    segmenter = tiny()
    again = build_network(segmenter.architecture)
    again.load_state_dict(segmenter.network.state_dict())
    images = torch.randn(1, 2, 32, 32)
    assert torch.equal(again.eval()(images).logits, segmenter.network(images).logits)
    row = architecture_named(segmenter.architecture["name"])
    assert row.hookpoints(segmenter.architecture["settings"]) == segmenter.hookpoints


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: architecture_named("segformer-b9"), r"no architecture 'segformer-b9'; .*there are segformer-b0"),
        (
            lambda: architecture_named("unet").describe(1, 2, {"depth": 3}),
            "no settings depth; it has features",
        ),
        (lambda: tiny(size=40), "segformer-b0 needs a multiple of 32"),
        (
            lambda: build_segmenter("unet", sequences=("T1",), labels=LABELS, size=16, pretrained="x"),
            "no pretrained weights for unet; leave that out, or take segformer-b0",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_start_from_another_number_of_classes_keeps_all_but_the_last_layer():
    source, target = tiny(seed=1), tiny(seed=2, labels={0: "background", 1: "tumour"})
    own = {name: value.clone() for name, value in target.network.state_dict().items()}
    fresh = start_from(target, source)
    assert fresh == ["decode_head.classifier.weight", "decode_head.classifier.bias"]
    for name, value in target.network.state_dict().items():
        expected = own[name] if name in fresh else source.network.state_dict()[name]
        assert torch.equal(value, expected), name


def test_start_from_another_architecture_is_refused():
    unet = build_segmenter("unet", sequences=("T1",), labels=LABELS, size=32, settings={"features": (4, 4, 8, 8, 8, 4)})
    with pytest.raises(ValueError, match="no tensor that fits"):
        start_from(unet, tiny())


def test_a_pretrained_encoder_from_a_folder(tmp_path):
    from transformers.models.segformer.modeling_segformer import SegformerModel

    photographs = tiny(sequences=("red", "green", "blue"), seed=9)
    foreign = SegformerModel(photographs.network.config)
    foreign.save_pretrained(tmp_path / "hub")
    segmenter = tiny(sequences=("T1", "T2"), seed=1, pretrained=str(tmp_path / "hub"))
    own, theirs = segmenter.network.segformer.state_dict(), foreign.state_dict()
    first = "stages.0.patch_embeddings.proj.weight"
    assert all(torch.equal(own[name], theirs[name]) for name in theirs if name != first)
    # a grey photograph and two equal sequences look the same to the first layer
    grey = torch.randn(1, 1, 32, 32)
    assert torch.allclose(
        nn.functional.conv2d(grey.expand(-1, 2, -1, -1), own[first]),
        nn.functional.conv2d(grey.expand(-1, 3, -1, -1), theirs[first]),
        atol=1e-5,
    )


def test_every_segformer_has_four_stages():
    rows = [row for name, row in architectures().items() if name.startswith("segformer")]
    assert len(rows) == 6
    assert all(len(row.defaults["hidden_sizes"]) == len(row.defaults["depths"]) == 4 for row in rows)


class Plain(nn.Module):
    def __init__(self, n_sequences, n_classes, width):
        super().__init__()
        self.wide = nn.Conv2d(n_sequences, width, 3, padding=1)
        self.head = nn.Conv2d(width, n_classes, 1)

    def forward(self, images):
        return self.head(self.wide(images).relu())


PLAIN = Architecture(
    "plain",
    build=lambda n_sequences, n_classes, settings: Plain(n_sequences, n_classes, settings["width"]),
    hookpoints=lambda settings: {"wide": Hookpoint("wide")},
    defaults={"width": 8},
    multiple_of=4,
)


def test_a_row_of_an_installed_package_is_built_saved_and_read(installed, tmp_path):
    installed("seglens.architectures", plain=PLAIN)
    segmenter = build_segmenter("plain", sequences=("T1",), labels=LABELS, size=12, settings={"width": 6})
    assert segmenter.logits(torch.zeros(2, 1, 1, 12, 12)).shape == (2, 3, 1, 12, 12)
    again = Segmenter.load(segmenter.save(tmp_path / "saved"))
    assert again.hash == segmenter.hash and list(again.hookpoints) == ["wide"]
    with pytest.raises(ValueError, match="size 10: plain needs a multiple of 4"):
        build_segmenter("plain", sequences=("T1",), labels=LABELS, size=10)
    with pytest.raises(ValueError, match="plain has no settings depth; it has width"):
        PLAIN.describe(1, 2, {"depth": 1})


def test_a_segmenter_whose_package_is_gone_says_so(installed, tmp_path):
    installed("seglens.architectures", plain=PLAIN)
    path = build_segmenter("plain", sequences=("T1",), labels=LABELS, size=12).save(tmp_path / "saved")
    installed("seglens.architectures")
    with pytest.raises(ValueError, match=r"no architecture 'plain'; .*there are segformer-b0"):
        Segmenter.load(path)
