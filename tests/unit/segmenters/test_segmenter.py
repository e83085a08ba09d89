from dataclasses import replace

import pytest
import torch
from tests.toys import LABELS, TINY_SEGFORMER
from torch import nn

from seglens.artifacts import ArtifactError, hash_of, hash_tensors
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.decision import Decision, most_likely
from seglens.segmenters.segmenter import (
    Hookpoint,
    Segmenter,
    raw_logits,
    resized,
)


def tiny(seed=0):
    return build_segmenter(
        "segformer-b0", sequences=("T1", "T2"), labels=LABELS, size=32, seed=seed, settings=TINY_SEGFORMER
    )


def network(n_classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, n_classes, 1))


def wrapped(n_classes=3, **changes):
    settings = {"sequences": ["T1", "T2"], "labels": LABELS, "hookpoints": {"first": "0"}, "size": 16, **changes}
    return Segmenter.wrap(network(n_classes), **settings)


def test_logits_are_resized_bilinearly_to_the_image_and_predictions_are_their_largest():
    segmenter, images = tiny(), torch.randn(3, 2, 1, 32, 64)
    raw = segmenter.network(images[:, :, 0]).logits
    assert raw.shape == (3, 3, 8, 16)
    logits = segmenter.logits(images)
    resized_raw = nn.functional.interpolate(raw, scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.equal(logits, resized_raw[:, :, None])
    assert torch.equal(segmenter.predict(images).long(), logits.argmax(1))
    assert logits.requires_grad


def test_logits_of_a_plain_tensor_at_image_size_are_left_alone():
    logits = torch.randn(1, 3, 2, 8, 8)
    assert resized(logits, (2, 8, 8)) is logits
    assert raw_logits(nn.Identity(), logits, 3) is logits
    assert torch.equal(raw_logits(nn.Identity(), logits[:, :, :1], 2), logits[:, :, :1])


def test_logits_of_volumes_are_resized_along_all_axes():
    coarse = torch.randn(2, 3, 2, 4, 5)
    expected = nn.functional.interpolate(coarse, size=(6, 8, 15), mode="trilinear", align_corners=False)
    assert torch.equal(resized(coarse, (6, 8, 15)), expected)
    one = resized(coarse[:, :, :1], (3, 4, 5))
    torch.testing.assert_close(one, coarse[:, :, :1].expand(-1, -1, 3, -1, -1))


def test_a_network_of_planes_refuses_volumes_and_one_of_volumes_takes_them():
    with pytest.raises(ValueError, match=r"samples of 4 slices .* where one slice is needed"):
        wrapped().logits(torch.randn(1, 2, 4, 16, 16))
    own = nn.Conv3d(2, 3, 3, stride=2, padding=1)
    segmenter = Segmenter.wrap(own, sequences=["T1", "T2"], labels=LABELS, hookpoints={"here": ""}, size=(4, 16, 8))
    assert (segmenter.spatial_dims, segmenter.extent) == (3, (4, 16, 8))
    assert (wrapped().spatial_dims, wrapped().extent) == (2, (1, 16, 16))
    assert segmenter.place("here").layout == "BCDHW"
    images = torch.randn(2, 2, 4, 16, 8)
    assert segmenter.predict(images).shape == (2, 4, 16, 8)
    assert torch.equal(segmenter.logits(images), resized(own(images), (4, 16, 8)))


def test_other_channels_or_classes_are_refused():
    with pytest.raises(ValueError, match=r"3 channels; this segmenter expects 2: T1, T2"):
        wrapped().logits(torch.randn(1, 3, 1, 16, 16))
    with pytest.raises(ValueError, match=r"gives 4 classes, labels name 3"):
        wrapped(n_classes=4).logits(torch.randn(1, 2, 1, 16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {0: "background", 2: "edema"}}, "without a gap"),
        ({"sequences": []}, "sequences is empty"),
        ({"hookpoints": {"first": "0.conv"}}, r"'first': the network has no module '0.conv'; near it are 0"),
    ],
)
def test_wrap_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        wrapped(**changes)


def test_an_unknown_hookpoint_names_the_nearest():
    segmenter = tiny()
    assert segmenter.module_at("stage2") is segmenter.network.segformer.stages[1]
    with pytest.raises(ValueError, match=r"no hookpoint 'stage_3'; did you mean 'stage3'"):
        segmenter.module_at("stage_3")
    with pytest.raises(ValueError, match=r"this segmenter has stage1, stage2, stage3, stage4"):
        segmenter.place("bottleneck")


def test_data_of_other_sequences_or_labels_is_refused_with_both_faults():
    segmenter = tiny()
    segmenter.check_data("mine", ("T1", "T2"), LABELS)
    segmenter.check_data("mine", ("T1", "T2"))
    with pytest.raises(ValueError, match=r"'mine' do not fit: its sequences are T2, T1, .*; its labels are"):
        segmenter.check_data("mine", ("T2", "T1"), {0: "background", 1: "tumour"})


def test_saved_and_loaded_is_the_same_network(tmp_path):
    segmenter, images = tiny(), torch.randn(2, 2, 1, 32, 32)
    segmenter.save(tmp_path / "model")
    loaded = Segmenter.load(tmp_path / "model")
    assert torch.equal(loaded.logits(images), segmenter.logits(images))
    assert loaded.hash == segmenter.hash
    assert (loaded.sequences, loaded.labels, loaded.size) == (segmenter.sequences, segmenter.labels, 32)
    assert loaded.hookpoints == segmenter.hookpoints
    assert list(loaded.hookpoints) == list(segmenter.hookpoints)
    assert not loaded.network.training
    assert (tmp_path / "model" / "model.safetensors").is_file()
    with pytest.raises(ArtifactError, match="exists"):
        segmenter.save(tmp_path / "model")


def test_the_hash_is_that_of_the_weights():
    assert tiny(0).hash == tiny(0).hash != tiny(1).hash


def test_a_wrapped_network_is_saved_and_needs_the_network_to_load(tmp_path):
    segmenter = wrapped(hookpoints={"first": Hookpoint("0", "BCHW"), "tokens": Hookpoint("1", "BNC", 1)})
    segmenter.save(tmp_path / "model")
    with pytest.raises(ValueError, match="give network="):
        Segmenter.load(tmp_path / "model")
    other = network()
    nn.init.zeros_(other[0].weight)
    loaded = Segmenter.load(tmp_path / "model", other)
    images = torch.randn(1, 2, 1, 16, 16)
    assert torch.equal(loaded.logits(images), segmenter.logits(images))
    assert loaded.hookpoints["tokens"] == Hookpoint("1", "BNC", 1)
    with pytest.raises(ValueError, match=r"not of this network: 2.weight is \(3, 4, 1, 1\), the network needs \(5, 4"):
        Segmenter.load(tmp_path / "model", network(5))


def test_tokens_of_volumes_without_a_grid_are_refused():
    """64 positions may be 8 x 8 and 4 x 4 x 4: a network of volumes has to say."""
    settings = {"sequences": ["T1"], "labels": LABELS, "size": (4, 4, 4)}
    with pytest.raises(ValueError, match=r"hookpoint 'here': how many slices, .*Hookpoint\(grid="):
        Segmenter.wrap(nn.Conv3d(1, 3, 1), hookpoints={"here": Hookpoint("", "BNC")}, **settings)


def test_a_network_of_volumes_is_saved_and_loaded(tmp_path):
    hookpoints = {"here": "", "tokens": Hookpoint("", "BNC", grid=(2, 3, 4))}
    settings = {"sequences": ["T1"], "labels": LABELS, "hookpoints": hookpoints, "size": (4, 16, 8)}
    Segmenter.wrap(nn.Conv3d(1, 3, 1), **settings).save(tmp_path / "model")
    loaded = Segmenter.load(tmp_path / "model", nn.Conv3d(1, 3, 1))
    assert (loaded.size, loaded.place("tokens").grid) == ((4, 16, 8), (2, 3, 4))


def test_tied_weights_can_be_saved(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(2, 2, 1)
            self.second = self.first

        def forward(self, images):
            return self.second(self.first(images))

    segmenter = Segmenter.wrap(
        Tied(), sequences=("T1", "T2"), labels={0: "background", 1: "tumour"}, hookpoints={}, size=8
    )
    segmenter.save(tmp_path / "model")
    assert Segmenter.load(tmp_path / "model", Tied()).hash == segmenter.hash


def test_device_and_number_of_classes():
    segmenter = tiny()
    assert segmenter.to("cpu") is segmenter
    assert (segmenter.device, segmenter.n_classes) == (torch.device("cpu"), 3)
    parameterless = Segmenter.wrap(nn.Identity(), sequences=("a", "b", "c"), labels=LABELS, hookpoints={}, size=8)
    assert parameterless.device == torch.device("cpu")


@pytest.mark.parametrize("n_classes", [1, 2, 4])
def test_most_likely_is_argmax_also_where_logits_are_equal_or_not_numbers(n_classes):
    logits = torch.randint(0, 3, (5, n_classes, 2, 7, 6), generator=torch.Generator().manual_seed(n_classes)).float()
    logits[0, 0, 0, 2:4] = float("nan")
    for kind in (logits, logits.to(memory_format=torch.channels_last_3d), torch.zeros_like(logits)):
        assert torch.equal(most_likely(kind), kind.argmax(dim=1).to(torch.uint8))


def test_regions_are_outputs_of_their_own(tmp_path):
    class Fixed(nn.Module):
        def forward(self, images):
            return images

    labels = {0: "background", 1: "whole", 2: "core"}
    plain = Segmenter.wrap(Fixed(), sequences=("a", "b"), labels=labels, hookpoints={}, size=(1, 1, 4))
    segmenter = replace(plain, decision=Decision(regions=True))
    assert (segmenter.spatial_dims, segmenter.channels_first) == (2, "BCHW")
    images = torch.tensor([[1.0, 1.0, -1.0, 0.0], [-1.0, 2.0, 3.0, 0.0]])[None, :, None, None]
    assert segmenter.predict(images).flatten().tolist() == [1, 2, 2, 0]
    with pytest.raises(ValueError, match="gives 2 classes, labels name 3"):
        plain.predict(images)
    with pytest.raises(ValueError, match="gives 2 regions, labels name 1"):
        replace(segmenter, labels={0: "background", 1: "whole"}).predict(images)
    with pytest.raises(ValueError, match="says regions, which overlap"):
        segmenter.check_data("toy", ("a", "b"))
    segmenter.save(tmp_path / "model")
    assert Segmenter.load(tmp_path / "model", Fixed()).regions


def test_an_identity_is_part_of_the_hash_and_none_changes_nothing():
    network = nn.Conv2d(1, 2, 1)
    plain = Segmenter.wrap(network, sequences=("a",), labels={0: "background", 1: "b"}, hookpoints={}, size=8)
    assert plain.hash == hash_of({"weights": hash_tensors(network.state_dict()), "architecture": None})
    one, other = (replace(plain, identity=identity) for identity in ("one", "other"))
    assert len({plain.hash, one.hash, other.hash}) == 3
