"""A model of others, from files to masks; the golden masks of nnU-Net itself are in test_real_models."""

from itertools import product

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage
from tests.nnunet_folder import LABELS, PATCH, REGIONS, changed, plans, write_case, write_folder

from seglens.activations.hooks import edit
from seglens.runtime.resources import InsufficientResourcesError
from seglens.segmenters.opened import open_model
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.windows import window_pass


def slow_logits(model, volume, *, mirrors, fold="0"):
    """A volume [C D H W] by loops: window after window, mirror after mirror, sums in float16."""
    patch = model.patch
    sides = [max(n, side) for n, side in zip(volume.shape[1:], patch, strict=True)]
    padded = np.zeros((len(volume), *sides), np.float32)
    front = [(side - n) // 2 for n, side in zip(volume.shape[1:], sides, strict=True)]
    inner = tuple(slice(first, first + n) for first, n in zip(front, volume.shape[1:], strict=True))
    padded[(slice(None), *inner)] = volume
    weights = np.ones(patch)
    for axis, side in enumerate(patch):
        one = np.zeros(side)
        one[side // 2] = 1
        profile = ndimage.gaussian_filter(one, side / 8, mode="constant")
        weights *= profile.reshape([-1 if place == axis else 1 for place in range(3)])
    weights = (weights / weights.max() * 10).astype(np.float16)
    weights[weights == 0] = weights[weights > 0].min()
    starts = []
    for n, side in zip(sides, patch, strict=True):
        count = int(np.ceil((n - side) / (side / 2))) + 1
        starts.append([int(np.round((n - side) / max(count - 1, 1) * place)) for place in range(count)])
    network = model.folds[fold].network
    sums = np.zeros((len(model.plan.heads), *sides), np.float16)
    total = np.zeros(sides, np.float16)
    subsets = [[axis for axis in range(3) if number >> axis & 1] for number in range(8)] if mirrors else [[]]
    for corner in product(*starts):
        box = tuple(slice(first, first + side) for first, side in zip(corner, patch, strict=True))
        window = padded[(slice(None), *box)]
        mean = np.zeros((len(sums), *patch))
        for subset in subsets:
            turned = np.flip(window, [axis + 1 for axis in subset]).copy()
            with torch.no_grad():
                said = network(torch.from_numpy(turned)[None])[0].numpy()
            mean += np.flip(said, [axis + 1 for axis in subset]) / len(subsets)
        sums[(slice(None), *box)] = sums[(slice(None), *box)].astype(np.float32) + mean * weights.astype(np.float32)
        total[box] += weights
    return (sums / total)[(slice(None), *inner)]


@pytest.mark.parametrize("mirrors", [True, False])
def test_logits_are_those_of_loops(tmp_path, mirrors):
    model = open_model(write_folder(tmp_path), fold=0)
    volume = np.random.default_rng(0).normal(size=(2, 10, 13, 11)).astype(np.float32)
    paths = write_case(tmp_path / "images", "a")
    prepared = model.prepare(model.read(case_of(model, paths)))
    own = type(prepared)(**{**vars(prepared), "values": volume})
    found = model.logits(own, mirror=mirrors)
    assert (found.dtype, found.shape) == (torch.float16, (3, 10, 13, 11))
    np.testing.assert_allclose(found.float().numpy(), slow_logits(model, volume, mirrors=mirrors), atol=4e-3)


def case_of(model, paths):
    from seglens.cohorts.case import Case, ImageRef

    refs = {sequence: ImageRef(path) for sequence, path in zip(model.sequences, paths, strict=True)}
    return Case("a", "a", "a", "toy", refs, None, {})


def test_a_mask_is_what_the_largest_logit_says(tmp_path):
    model = open_model(write_folder(tmp_path), fold=0)
    paths = write_case(tmp_path / "images", "a")  # already of the model's spacing
    prepared = model.prepare(model.read(case_of(model, paths)))
    said = model.logits(prepared)
    mask = model.predict(paths)
    whole = np.zeros((11, 15, 14), np.uint8)
    z, y, x = prepared.start
    d, h, w = prepared.crop
    whole[z : z + d, y : y + h, x : x + w] = said.float().argmax(0).numpy()
    assert (mask.shape, mask.dtype) == ((14, 15, 11), np.uint8)
    np.testing.assert_array_equal(mask, whole.transpose(2, 1, 0))
    assert len(np.unique(mask)) == 3


def test_regions_lie_on_each_other_in_their_order(tmp_path):
    folder = write_folder(tmp_path, labels=REGIONS)
    model = open_model(folder, fold=0)
    assert dict(model.labels) == {0: "background", 1: "whole", 2: "core"}
    paths = write_case(tmp_path / "images", "a")
    prepared = model.prepare(model.read(case_of(model, paths)))
    said = model.logits(prepared).float().numpy()
    inside = tuple(slice(first, first + n) for first, n in zip(prepared.start, prepared.crop, strict=True))
    mask = model.predict(paths).transpose(2, 1, 0)[inside]
    for place in np.ndindex(*mask.shape):
        wanted = 0
        for region in range(2):
            if said[(region, *place)] > 1e-6:
                wanted = region + 1
        assert mask[place] == wanted
    with pytest.raises(ValueError, match="says regions, which overlap"):
        model.segmenter.check_data("slices", model.sequences)


@pytest.mark.parametrize("axes", ["LPS", "ASL", "RAS"])
def test_the_file_s_own_order_of_voxels_is_kept(tmp_path, axes):
    """The same numbers in another orientation give the same numbers: nothing is turned on the way to the network."""
    model = open_model(write_folder(tmp_path), fold=0)
    plain = model.predict(write_case(tmp_path / "a", "a"), mirror=False)
    affine = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(axes), (14, 15, 11))
    affine = affine @ np.diag([1.25, 1.0, 2.0, 1.0])
    np.testing.assert_array_equal(model.predict(write_case(tmp_path / "b", "b", affine=affine), mirror=False), plain)


def test_several_folds_are_the_mean_of_their_logits(tmp_path):
    folder = write_folder(tmp_path, folds=("0", "1"))
    both = open_model(folder)
    assert list(both.folds) == ["0", "1"]
    paths = write_case(tmp_path / "images", "a")
    prepared = both.prepare(both.read(case_of(both, paths)))
    single = [open_model(folder, fold=fold).logits(prepared, mirror=False).float() for fold in (0, 1)]
    torch.testing.assert_close(both.logits(prepared, mirror=False).float(), sum(single) / 2, atol=4e-3, rtol=1e-3)
    with pytest.raises(ValueError, match=r"folds 0, 1, each a network of its own .* fold=0"):
        _ = both.segmenter


def test_a_hook_knows_window_mirror_and_fold(tmp_path):
    model = open_model(write_folder(tmp_path), fold=0)
    paths = write_case(tmp_path / "images", "a")
    passes = []

    def look(tokens):
        passes.append(window_pass())
        assert passes[-1].upright(passes[-1].upright(tokens)).equal(tokens)
        return tokens

    plain = model.predict(paths)
    with edit(model.segmenter, "encoder1", look):
        looked = model.predict(paths)
    np.testing.assert_array_equal(looked, plain)
    assert {one.fold for one in passes} == {"0"} and {one.placement.case for one in passes} == {"a_0000"}
    assert len({one.mirrored for one in passes}) == 8
    assert len(passes) == 8 * len({one.placement.start for one in passes})
    assert all(one.placement.extent == PATCH for one in passes)
    with pytest.raises(ValueError, match="no window is being run"):
        window_pass()


def test_an_edit_acts_in_every_window_and_mirror(tmp_path):
    model = open_model(write_folder(tmp_path), fold=0)
    paths = write_case(tmp_path / "images", "a")
    plain = model.predict(paths)
    with edit(model.segmenter, "decoder0", lambda tokens: tokens * 1):
        np.testing.assert_array_equal(model.predict(paths), plain)
    with edit(model.segmenter, "decoder0", lambda tokens: tokens * -3):
        assert (model.predict(paths) != plain).any()


def test_float32_sums_differ_little(tmp_path):
    model = open_model(write_folder(tmp_path), fold=0)
    prepared = model.prepare(model.read(case_of(model, write_case(tmp_path / "images", "a"))))
    exact = model.logits(prepared, precision="float32", mirror=False)
    assert exact.dtype == torch.float32
    difference = (model.logits(prepared, mirror=False).float() - exact).abs()
    assert 0 < difference.median() < 0.01  # at a window's corner the weight is 6e-8, of three bits in float16


def test_a_network_of_planes_is_laid_on_every_slice(tmp_path):
    described = plans(n_axes=2)
    model = open_model(write_folder(tmp_path, described=described, mirrors=(0, 1)), fold=0)
    assert (model.patch, model.mirror_axes, model.segmenter.spatial_dims) == ((1, 12, 12), (1, 2), 2)
    paths = write_case(tmp_path / "images", "a")
    prepared = model.prepare(model.read(case_of(model, paths)))
    assert prepared.extent[0] == prepared.crop[0]
    said = model.logits(prepared, mirror=False)
    alone = type(prepared)(**{**vars(prepared), "values": prepared.values[:, 3:4]})
    assert torch.equal(model.logits(alone, mirror=False)[:, 0], said[:, 3])


def test_transposed_plans_see_other_axes(tmp_path):
    described = changed(changed(plans(), "transpose_forward", [2, 0, 1]), "transpose_backward", [1, 2, 0])
    described = changed(described, "configurations.3d_fullres.spacing", [1.25, 2.0, 1.0])
    turned = open_model(write_folder(tmp_path / "turned", described=described), fold=0)
    plain_plans = changed(plans(), "configurations.3d_fullres.spacing", [1.25, 2.0, 1.0])
    plain = open_model(write_folder(tmp_path / "plain", described=plain_plans), fold=0)
    paths = write_case(tmp_path / "a", "a")
    by_hand = []
    for path in paths:  # z y x of the file become x z y, as the transposed plans do
        image = nibabel.load(path)
        data = np.asarray(image.dataobj).transpose(2, 1, 0).transpose(2, 0, 1).transpose(2, 1, 0)
        by_hand.append(tmp_path / f"hand_{path.name}")
        nibabel.save(nibabel.Nifti1Image(data, np.diag([1.0, 2.0, 1.25, 1.0])), by_hand[-1])
    expected = plain.predict(by_hand, mirror=False).transpose(2, 1, 0).transpose(1, 2, 0).transpose(2, 1, 0)
    np.testing.assert_array_equal(turned.predict(paths, mirror=False), expected)


def test_what_does_not_fit_is_refused(tmp_path):
    model = open_model(write_folder(tmp_path), fold=0)
    with pytest.raises(ValueError, match="1 files; the model takes 2, one each for T1, FLAIR"):
        model.predict(write_case(tmp_path / "images", "a")[:1])
    assert len(model.hash) == 64 and model.to("cpu") is model and set(LABELS) == set(model.labels.values())


def test_sums_that_the_memory_cannot_hold_are_refused_before_a_window_is_run(tmp_path, monkeypatch):
    model = open_model(write_folder(tmp_path), fold=0)
    paths = write_case(tmp_path / "images", "a")
    monkeypatch.setattr("seglens.runtime.resources.free_memory", lambda: 1000)
    monkeypatch.setattr("seglens.segmenters.opened._run_network", lambda *_: pytest.fail("it was run"))
    with pytest.raises(InsufficientResourcesError, match=r"case a_0000: logits of 3 classes .* are free"):
        model.predict(paths)


def test_a_sum_of_folds_beyond_float16_is_refused(tmp_path, monkeypatch):
    model = open_model(write_folder(tmp_path, folds=("0", "1")))
    prepared = model.prepare(model.read(case_of(model, write_case(tmp_path / "images", "a"))))
    large = torch.full((3, 2, 2, 2), 40000.0, dtype=torch.float16)
    monkeypatch.setattr("seglens.segmenters.opened.windowed_logits", lambda *_, **__: large.clone())
    with pytest.raises(ValueError, match="the logits are not finite in float16; add the windows up in float32"):
        model.logits(prepared)


def test_a_fold_s_identity_is_of_its_weights_and_plans(tmp_path):
    """Equal tensors that are shown other images are two models to a dictionary."""
    one = open_model(write_folder(tmp_path / "one"), fold=0).segmenter
    same = open_model(write_folder(tmp_path / "same"), fold=0).segmenter
    coarse = changed(plans(), "configurations.3d_fullres.spacing", [4.0, 2.0, 2.0])
    other = open_model(write_folder(tmp_path / "other", described=coarse), fold=0).segmenter
    rule = open_model(write_folder(tmp_path / "rule", described=plans(scheme="NoNormalization")), fold=0).segmenter
    assert one.hash == same.hash and len({one.hash, other.hash, rule.hash}) == 3
    assert all(torch.equal(value, other.network.state_dict()[name]) for name, value in one.network.state_dict().items())
    read = Segmenter.load(one.save(tmp_path / "kept"), network=other.network)
    assert read.hash == one.hash
