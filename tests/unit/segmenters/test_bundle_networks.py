"""Ten networks of the model zoo's bundles, few features each: opened, hooked at every place, predicted, steered."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from tests.bundle_folder import SLIDING, config, metadata, network_of, write_bundle, write_images

from seglens.activations.hooks import capture, edit
from seglens.cohorts.case import Case, ImageRef
from seglens.segmenters.opened import open_model
from seglens.segmenters.windows import window_pass

SIMPLE = {"_target_": "SimpleInferer"}
SCALED = ({"_target_": "ScaleIntensityd", "keys": "@image_key"},)
NORMALISED = ({"_target_": "NormalizeIntensityd", "keys": "@image_key", "nonzero": True, "channel_wise": True},)
GRID = ({"_target_": "Resized", "keys": "@image_key", "spatial_size": [32, 32], "mode": "bilinear"},)


@dataclass(frozen=True)
class Zoo:
    """A bundle of the zoo, its network made small, and the modules that models.md lists for its class."""

    network: dict[str, Any]
    modules: tuple[str, ...]
    n_channels: int = 1
    steps: tuple[dict[str, Any], ...] = SCALED
    inferer: dict[str, Any] = field(default_factory=lambda: dict(SLIDING))
    decide: str = "softmax"
    shape: tuple[int, int, int] = (18, 16, 17)
    heads: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    entries: dict[str, Any] = field(default_factory=dict)


def _net(name, n_heads=2, n_channels=1, n_axes=3, **arguments):
    return {"_target_": name, "spatial_dims": n_axes, "in_channels": n_channels, "out_channels": n_heads, **arguments}


LEVELS = {"channels": [4, 6, 8], "strides": [2, 2], "num_res_units": 2}
DYNAMIC = {
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, [2, 2, 1]],
    "upsample_kernel_size": [2, [2, 2, 1]],
    "filters": [4, 6, 8],
    "norm_name": "instance",
    "res_block": True,
}
U_PLACES = ("model.0", "model.1.submodule.0", "model.1.submodule.1.submodule", "model.1.submodule.2")
RES_PLACES = tuple(f"down_layers.{n}" for n in range(3)) + tuple(f"up_layers.{n}" for n in range(2))
DYN_PLACES = ("input_block", "downsamples.0", "bottleneck", "upsamples.0", "upsamples.1")
RES = {"init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}
ZOO = {
    "brats_mri_segmentation": Zoo(
        _net("SegResNet", 3, 4, dropout_prob=0.2, **RES), RES_PLACES, 4, NORMALISED, decide="sigmoid",
        heads=("Tumor core", "Whole tumor", "Enhancing tumor"),
    ),
    "spleen_ct_segmentation": Zoo(_net("UNet", norm="batch", **LEVELS), U_PLACES),
    "swin_unetr_btcv_segmentation": Zoo(
        _net("SwinUNETR", 3, img_size=64, feature_size=12, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
        ("swinViT.layers1.0", "swinViT.layers4.0", "encoder1", "encoder10", "decoder5", "decoder1"),
        inferer={**SLIDING, "roi_size": [64, 64, 64]}, dropped=("img_size",),
    ),
    "wholeBody_ct_segmentation": Zoo(
        _net("SegResNet", 5, **RES), RES_PLACES,
        steps=({"_target_": "Spacingd", "keys": "image", "pixdim": "@pixdim", "mode": "bilinear"}, *SCALED),
        entries={"highres": True, "pixdim": "$[1.5, 1.5, 1.5] if @highres else [3.0, 3.0, 3.0]"},
    ),
    "prostate_mri_anatomy": Zoo(
        _net("UNet", 3, norm="batch", act="prelu", dropout=0.15, **LEVELS), U_PLACES,
        steps=(*SCALED, {"_target_": "NormalizeIntensityd", "keys": "image"}),
    ),
    "ventricular_short_axis_3label": Zoo(
        _net("UNet", 4, n_axes=2, **LEVELS), U_PLACES, inferer={"_target_": "SliceInferer", "roi_size": [16, 16],
                                                               "spatial_dim": 2},
    ),
    "endoscopic_tool_segmentation": Zoo(
        {"_target_": "FlexibleUNet", "in_channels": 3, "out_channels": 2, "backbone": "efficientnet-b0",
         "spatial_dims": 2, "pretrained": True, "is_pad": False, "pre_conv": None},
        tuple(f"decoder.blocks.{n}" for n in range(5)), 3, (*GRID, *SCALED), SIMPLE, shape=(40, 36, 1),
    ),
    "pathology_nuclick": Zoo(
        _net("BasicUNet", 1, 5, n_axes=2, features=[4, 4, 6, 6, 8, 4]),
        ("conv_0", "down_1", "down_4", "upcat_4", "upcat_1"), 5,
        ({"_target_": "SqueezeDimd", "keys": "image", "dim": -1}, *SCALED), SIMPLE, "sigmoid", (32, 32, 1),
        heads=("Nuclei",),
    ),
    "segmentation_template": Zoo(_net("UNet", 4, **LEVELS), U_PLACES, inferer=SIMPLE, shape=(16, 16, 16)),
    "pediatric_abdominal_ct_segmentation": Zoo(
        _net("monai.networks.nets.DynUNet", "$len(@label_names)", "$len(@image_keys) + 1 - 1", **DYNAMIC), DYN_PLACES,
        steps=(*SCALED, {"_target_": "CropForegroundd", "keys": ["@image_key"], "source_key": "@image_key",
                         "mode": ["minimum"]}),
        entries={"label_names": {"background": 0, "liver": 1, "spleen": 2}, "image_keys": ["image"]},
    ),
}  # fmt: skip


def opened(zoo, folder):
    plain = {key: {"$len(@label_names)": 3, "$len(@image_keys) + 1 - 1": 1}.get(str(value), value)
             for key, value in zoo.network.items()}  # fmt: skip
    described = config(zoo.network, steps=zoo.steps, inferer=zoo.inferer, decide=zoo.decide, **zoo.entries)
    network = network_of({**plain, "pretrained": False} if "pretrained" in plain else plain)
    names = [f"channel {number}" for number in range(zoo.n_channels)]
    heads = zoo.heads or ["background", *(f"organ {number}" for number in range(1, plain["out_channels"]))]
    folder = write_bundle(folder, described, metadata(names, heads), network=network)
    settings = {"pixdim": [1.5, 1.5, 1.5]} if "pixdim" in zoo.entries else None
    return open_model(folder, settings=settings), network


@pytest.mark.parametrize("name", ZOO)
def test_a_bundle_of_the_zoo_is_opened_hooked_predicted_and_steered(tmp_path, name):
    zoo = ZOO[name]
    model, network = opened(zoo, tmp_path / name)
    assert model.dropped == zoo.dropped
    segmenter = model.segmenter
    modules = [place.module for place in segmenter.hookpoints.values()]
    assert set(zoo.modules) <= set(modules)
    for own, other in zip(segmenter.network.state_dict().values(), network.state_dict().values(), strict=True):
        assert torch.equal(own, other)

    images = write_images(tmp_path / "images", zoo.n_channels, shape=zoo.shape, affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    refs = {sequence: ImageRef(path) for sequence, path in zip(model.sequences, images, strict=True)}
    volume = model.read(Case("case", "case", "case", "case", refs, None, {}))
    prepared = model.prepare(volume)
    plain = model.logits(prepared)
    mask = volume.in_file_order(model.labels_on_file_grid(plain.clone(), prepared))
    assert mask.shape == zoo.shape and set(np.unique(mask)) <= set(model.labels)

    first = next(iter(segmenter.hookpoints))
    starts = []

    def kept(tokens):
        starts.append(window_pass().placement.start)
        return tokens * 1.0

    with ExitStack() as stack:
        seen = [stack.enter_context(capture(segmenter, place)) for place in segmenter.hookpoints]
        stack.enter_context(edit(segmenter, first, kept))
        assert torch.equal(model.logits(prepared), plain)
    assert starts
    for one in seen:
        assert one.tokens.ndim == 5 and one.tokens.isfinite().all(), one.hookpoint
    with edit(segmenter, first, lambda tokens: tokens * 3 + 1):
        assert not torch.equal(model.logits(prepared), plain)


THREE = {"kernels": [3], "repeat": 1}
OTHERS = {
    "BasicUNetPlusPlus": (
        {"spatial_dims": 2, "features": [2, 2, 3, 3, 4, 2]}, 32, ("conv_0_0", "conv_4_0", "upcat_0_4", "upcat_3_1")
    ),
    "SegResNetDS": ({**RES, "blocks_up": None, "norm": "batch", "dsdepth": 2}, 8,
                    ("encoder.layers.0.blocks", "encoder.layers.2.blocks", "up_layers.0.blocks")),
    "SegResNetVAE": ({**RES, "input_image_size": [8, 8, 8], "vae_nz": 4}, 8, RES_PLACES),
    "UNETR": ({"img_size": [32, 32, 16], "feature_size": 2, "hidden_size": 12, "mlp_dim": 8, "num_heads": 2},
              (32, 32, 16), ("vit.blocks.0", "vit.blocks.11", "encoder1", "encoder4", "decoder5", "decoder2")),
    "AttentionUnet": ({"spatial_dims": 3, "channels": [2, 3, 4], "strides": [2, 2]}, 8,
                      ("model.0", "model.1.submodule.0", "model.1.submodule.1.submodule", "model.1.submodule.1.merge",
                       "model.1.merge")),
    "HighResNet": ({"layer_params": [{"name": "conv_0", "n_features": 2, "kernel_size": 3},
                                     {"name": "res_1", "n_features": 2, **THREE},
                                     {"name": "conv_1", "n_features": 3, "kernel_size": 1},
                                     {"name": "conv_2", "kernel_size": 1}]}, 8, ("blocks.0", "blocks.1", "blocks.2")),
    "MedNeXt": ({"init_filters": 2, "kernel_size": 3, "blocks_down": [1] * 4, "blocks_bottleneck": 1,
                 "blocks_up": [1] * 4}, 32, ("enc_stages.0", "enc_stages.3", "bottleneck", "dec_stages.3")),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_of_the_table_are_opened_where_models_md_says(tmp_path, name):
    arguments, side, modules = OTHERS[name]
    described = {"_target_": name, "in_channels": 1, "out_channels": 2, **arguments}
    n_axes = arguments.get("spatial_dims", 3)
    sides = list(side) if isinstance(side, tuple) else [side] * n_axes
    network = network_of(described)
    inferer = {**SLIDING, "roi_size": sides}
    model = open_model(write_bundle(tmp_path / name, config(described, inferer=inferer), network=network))
    segmenter = model.segmenter
    found = [place.module for place in segmenter.hookpoints.values()]
    assert set(modules) <= set(found)
    images = torch.randn(1, 1, *segmenter.extent, generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack, torch.no_grad():
        seen = [stack.enter_context(capture(segmenter, place)) for place in segmenter.hookpoints]
        logits = segmenter.logits(images)
        plain = network(images[:, :, 0] if n_axes == 2 else images)
    wanted = plain[0] if isinstance(plain, list | tuple) else plain
    assert torch.equal(logits[:, :, 0] if n_axes == 2 else logits, wanted)
    for one in seen:
        assert one.tokens.ndim == 5 and one.tokens.isfinite().all(), one.hookpoint
    if name == "UNETR":
        assert seen[0].tokens.shape == (1, 2, 2, 1, 12)
    assert found[-1] not in ("model.2", "blocks.3")
