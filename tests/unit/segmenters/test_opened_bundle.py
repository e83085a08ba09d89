"""A MONAI bundle from files to masks, beside what MONAI's own transforms and inferers make of the same network."""

import json

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage
from tests.bundle_folder import CT, SLIDING, UNET, config, metadata, network_of, write_bundle, write_images

from seglens.activations.model_summary import summarise_model
from seglens.activations.volume_tokens import extract_volumes
from seglens.cohorts.case import Case, Cohort, ImageRef
from seglens.segmenters.opened import open_model
from seglens.segmenters.segmenter import Segmenter

NAMES = ("Tumor core", "Whole tumor", "Enhancing tumor")


def even(network, images, **how):
    """The same network, its outputs moved so that each of them wins somewhere in these images."""
    _, logits, _ = of_monai(images, network, **how)
    last = [one for one in network.modules() if getattr(one, "bias", None) is not None and hasattr(one, "weight")][-1]
    with torch.no_grad():
        last.bias -= logits.flatten(1).median(1).values
    return network


def case_of(model, images):
    refs = {sequence: ImageRef(path) for sequence, path in zip(model.sequences, images, strict=True)}
    return Case("case", "case", "case", "case", refs, None, {})


def of_monai(images, network, *, steps, inferer, decide, nearest=False, after=None):
    """Network's grid, logits and file's grid by MONAI alone."""
    from monai import inferers
    from monai.transforms import Activationsd, AsDiscreted, Compose, EnsureChannelFirstd, Invertd, LoadImaged

    made = [_transform(step) for step in steps]
    before = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), *made])
    data = before({"image": [str(path) for path in images] if len(images) > 1 else str(images[0])})
    infer = getattr(inferers, inferer["_target_"])(**{k: v for k, v in inferer.items() if k != "_target_"})
    with torch.no_grad():
        data["pred"] = infer(data["image"][None], network)[0]
    shown, logits = data["image"].numpy().copy(), data["pred"].as_tensor().clone()
    decided = AsDiscreted("pred", **({"argmax": True} if decide == "softmax" else {"threshold": 0.5}))
    back = Invertd("pred", transform=before, orig_keys="image", nearest_interp=nearest, to_tensor=True)
    order = [Activationsd("pred", **{decide: True}), back, decided] if after is None else after(back, decided)
    return shown, logits, Compose(order)(data)["pred"].numpy()


def _transform(step):
    from monai import transforms

    given = {key: value for key, value in step.items() if key not in ("_target_", "keys")}
    if step["_target_"] == "Orientationd":
        given["labels"] = (("L", "R"), ("P", "A"), ("I", "S"))
    return getattr(transforms, step["_target_"])(keys="image", **given)


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("nearest", [False, True])
def test_masks_are_those_of_monai(tmp_path, mode, nearest):
    images = write_images(tmp_path / "images")
    inferer = {**SLIDING, "mode": mode, "overlap": 0.25, "roi_size": [16, 12, 20]}
    network = even(network_of(UNET), images, steps=CT, inferer=inferer, decide="softmax")
    folder = write_bundle(tmp_path / "b", config(inferer=inferer, nearest=nearest), network=network)
    model = open_model(folder)
    shown, logits, labels = of_monai(images, network, steps=CT, inferer=inferer, decide="softmax", nearest=nearest)
    prepared = model.prepare(model.read(case_of(model, images)))
    np.testing.assert_array_equal(prepared.values, shown)
    torch.testing.assert_close(model.logits(prepared), logits, atol=1e-5, rtol=1e-5)
    assert 0.05 < labels.mean() < 0.95
    np.testing.assert_array_equal(model.predict(images), labels[0])


def test_regions_lie_as_brats_has_them(tmp_path):
    described = {**UNET, "in_channels": 2, "out_channels": 3}
    images = write_images(tmp_path / "images", 2, shape=(16, 20, 16), affine=np.eye(4))
    steps = (CT[0], {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True})
    network = even(network_of(described), images, steps=steps, inferer=SLIDING, decide="sigmoid")
    folder = write_bundle(
        tmp_path / "b",
        config(described, steps=steps, decide="sigmoid"),
        metadata(("T1c", "FLAIR"), NAMES),
        network=network,
    )
    model = open_model(folder)
    assert dict(model.labels) == {0: "background", 1: "Whole tumor", 2: "Tumor core", 3: "Enhancing tumor"}
    assert dict(model.codes) == {0: 0, 1: 2, 2: 1, 3: 4}
    _, _, (core, whole, enhancing) = of_monai(images, network, steps=steps, inferer=SLIDING, decide="sigmoid")
    wanted = np.where(enhancing > 0, 4, np.where(core > 0, 1, np.where(whole > 0, 2, 0)))
    assert set(np.unique(wanted)) == {0, 1, 2, 4}
    np.testing.assert_array_equal(model.predict(images), wanted)
    restored = Segmenter.load(model.segmenter.save(tmp_path / "saved"), network_of(described))
    assert restored.decision == model.segmenter.decision
    volume = torch.rand(1, 2, 16, 16, 16)
    torch.testing.assert_close(restored.logits(volume), model.segmenter.logits(volume))
    torch.testing.assert_close(restored.logits(volume), network(volume)[:, [1, 0, 2]])


def test_one_output_is_one_region(tmp_path):
    described = {**UNET, "out_channels": 1}
    images = write_images(tmp_path / "images")
    network = even(network_of(described), images, steps=CT, inferer=SLIDING, decide="sigmoid")
    folder = write_bundle(
        tmp_path / "b", config(described, decide="sigmoid"), metadata(heads=["lesion"]), network=network
    )
    model = open_model(folder)
    assert dict(model.labels) == {0: "background", 1: "lesion"} and model.regions
    _, _, labels = of_monai(images, network, steps=CT, inferer=SLIDING, decide="sigmoid")
    assert 0.05 < labels.mean() < 0.95
    np.testing.assert_array_equal(model.predict(images), labels[0])


def test_planes_of_a_volume(tmp_path):
    described = {**UNET, "spatial_dims": 2, "out_channels": 3}
    images = write_images(tmp_path / "images", shape=(20, 7, 15), affine=np.eye(4))
    steps = (CT[0], {"_target_": "ScaleIntensityd", "keys": "image"})
    inferer = {"_target_": "SliceInferer", "roi_size": [16, 16], "spatial_dim": 1, "overlap": 0.4}
    network = even(network_of(described), images, steps=steps, inferer=inferer, decide="softmax")
    folder = write_bundle(tmp_path / "b", config(described, steps=steps, inferer=inferer), network=network)
    model = open_model(folder)
    _, logits, labels = of_monai(images, network, steps=steps, inferer=inferer, decide="softmax")
    prepared = model.prepare(model.read(case_of(model, images)))
    assert prepared.extent == (7, 20, 15)
    torch.testing.assert_close(model.logits(prepared), logits.permute(0, 2, 1, 3), atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(images), labels[0])


@pytest.mark.parametrize("padding", ["constant", "replicate"])
def test_whole_images_and_small_ones(tmp_path, padding):
    images = write_images(tmp_path / "images", shape=(16, 12, 16), affine=np.eye(4))
    inferer = {**SLIDING, "roi_size": [-1, 24, None], "padding_mode": padding}
    inferer["cval"] = 0.5 if padding == "constant" else 0.0
    steps = (
        {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "margin": 1, "k_divisible": 4},
        {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1, "maxv": 1},
    )
    network = even(network_of(UNET), images, steps=steps, inferer=inferer, decide="softmax")
    folder = write_bundle(tmp_path / "b", config(steps=steps, inferer=inferer), network=network)
    model = open_model(folder)
    _, logits, labels = of_monai(images, network, steps=steps, inferer=inferer, decide="softmax")
    prepared = model.prepare(model.read(case_of(model, images)))
    assert model.window(prepared.extent)[1] == 24 and model.window(prepared.extent)[0] == prepared.extent[0]
    torch.testing.assert_close(model.logits(prepared), logits, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(images), labels[0])


def test_labels_are_inverted_where_the_bundle_decides_before(tmp_path):
    images = write_images(tmp_path / "images")
    network = even(network_of(UNET), images, steps=CT, inferer=SLIDING, decide="softmax")
    described = config()
    activate, invert, decide, *rest = described["postprocessing"]["transforms"]
    described["postprocessing"]["transforms"] = [activate, decide, {**invert, "nearest_interp": True}, *rest]
    model = open_model(write_bundle(tmp_path / "b", described, network=network))
    assert model.plan.export.interpolated == "labels"
    _, _, labels = of_monai(
        images,
        network,
        steps=CT,
        inferer=SLIDING,
        decide="softmax",
        nearest=True,
        after=lambda back, decided: [decided, back],
    )
    np.testing.assert_array_equal(model.predict(images), labels[0])


def test_summary_and_tokens(tmp_path):
    described = {**UNET, "img_size": 96}
    model = open_model(write_bundle(tmp_path / "b", config(described), yaml=True))
    text = summarise_model(model).text()
    assert "MONAI bundle, UNet, 3-D, version 0.1.0" in text
    assert "img_size: UNet no longer has them" in text
    assert "Lambdad of the postprocessing" in text
    images = write_images(tmp_path / "images")
    cohort = Cohort("c", (case_of(model, images),), model.sequences, dict(model.labels), {})
    store = extract_volumes(model, cohort, "encoder0", tokens_per_volume=50)
    voxels = np.stack(store.index["mm"].to_numpy())
    inside = np.linalg.inv(nibabel.load(images[0]).affine) @ np.c_[voxels, np.ones(len(voxels))].T
    assert len(voxels) == 50
    assert (inside[:3].T > -2).all() and (np.array([22, 20, 16]) > inside[:3].T).all()
    values = np.clip((nibabel.load(images[0]).get_fdata() + 57) / 221, 0, 1)
    in_file = ndimage.map_coordinates(values, inside[:3], order=1, mode="nearest")
    prepared = model.prepare(model.read(case_of(model, images)))
    places = np.stack(store.index["voxel"].to_numpy()).T
    shown = ndimage.map_coordinates(prepared.values[0], places, order=1, mode="nearest")
    assert np.corrcoef(in_file, shown)[0, 1] > 0.98
    moved = ndimage.map_coordinates(prepared.values[0], places + 1, order=1, mode="nearest")
    assert np.corrcoef(in_file, moved)[0, 1] < 0.9


def test_identity_follows_what_is_done_to_images(tmp_path):
    network = network_of(UNET)
    one = open_model(write_bundle(tmp_path / "b", network=network))
    described = json.loads((tmp_path / "b/configs/inference.json").read_text())
    described["inferer"]["overlap"] = 0.25
    (tmp_path / "b/configs/inference.json").write_text(json.dumps(described))
    other = open_model(tmp_path / "b")
    assert one.hash != other.hash and one.segmenter.hash != other.segmenter.hash
    assert open_model(tmp_path / "b", settings={"inferer#overlap": 0.5}).hash == one.hash


def test_what_is_no_bundle_s(tmp_path):
    folder = write_bundle(tmp_path / "b")
    with pytest.raises(ValueError, match="has no folds"):
        open_model(folder, fold=0)
    (folder / "models/model.pt").unlink()
    with pytest.raises(ValueError, match=r"monai\.bundle download"):
        open_model(folder)
    with pytest.raises(ValueError, match="settings are of a bundle"):
        open_model(tmp_path, settings={"a": 1})
