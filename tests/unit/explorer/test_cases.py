import numpy as np
import pytest
import torch

from seglens.dictionaries.lens import Lens
from seglens.explorer.cases import (
    WantedBaseline,
    WantedEdit,
    WantedSteering,
    baseline,
    cohort,
    firing_at,
    heat,
    one_slice,
    prediction,
    steer,
)
from seglens.explorer.opened import UnknownError
from seglens.steering.edits import LatentEdit
from seglens.steering.edits import steer as steered

ROW = 4


def dice_of(said, truth):
    both = int(said.sum() + truth.sum())
    return 2 * int((said & truth).sum()) / both if both else None


def test_every_slice_is_listed_and_test_slices_have_the_dice_of_their_prediction(held, slices, first):
    entry = cohort("discs", held, "first")
    assert (entry.sequences, entry.size, entry.labels) == (["FLAIR"], (32, 32), {0: "background", 1: "tumour"})
    assert [one.case for one in entry.slices] == slices.index["case"].to_list()
    said = first.segmenter.predict(slices.images())
    for one in entry.slices:
        if one.split != "test":
            assert one.dice is None
            continue
        expected = dice_of(said[one.row] == 1, slices.masks([one.row])[0] == 1)
        assert one.dice == pytest.approx(1.0 if expected is None else expected)
    assert sum(one.split == "test" for one in entry.slices) == 6
    assert all(one.dice is None for one in cohort("discs", held).slices)


def test_a_slice_is_shown_in_grey_with_its_mask(held, slices, shown):
    arrays, about = shown(one_slice("discs", ROW, held))
    np.testing.assert_array_equal(arrays["mask"], slices.masks([ROW])[0, 0].numpy())
    inside = slices.brains([ROW])[0, 0].numpy()
    np.testing.assert_array_equal(arrays["brain"], inside)
    image = slices.images([ROW])[0, 0, 0].numpy()
    grey = arrays["images"][0]
    assert (grey[inside] >= 1).all() and (grey[~inside] == 0).all()
    assert (grey[inside].min(), grey[inside].max()) == (1, 255)
    order = np.argsort(image[inside], kind="stable")
    assert (np.diff(grey[inside][order].astype(int)) >= 0).all()
    assert (about["case"], about["volume"]) == (slices.index["case"][ROW], False)


def test_a_prediction_with_its_figures_and_its_latents(held, slices, first, dense, shown):
    arrays, about = shown(prediction("first", "discs", ROW, held))
    said, truth = first.segmenter.predict(slices.images([ROW]))[0, 0], slices.masks([ROW])[0, 0]
    np.testing.assert_array_equal(arrays["mask"], said.numpy())
    assert about["classes"] == [
        {
            "label": "tumour",
            "value": 1,
            "said": int((said == 1).sum()),
            "true": int((truth == 1).sum()),
            "dice": dice_of(said == 1, truth == 1),
        }
    ]
    assert about["grid"] == [8, 8]
    mass = dense[ROW].sum((0, 1)).numpy()
    usual = first.atlas.table["mass"].to_numpy() / first.atlas.context["n_slices"]
    listed = [one["latent"] for one in about["latents"]]
    assert listed
    for one in about["latents"]:
        assert one["mass"] == pytest.approx(mass[one["latent"]], rel=1e-4)
        assert one["usual"] == pytest.approx(usual[one["latent"]], rel=1e-6)
    unusual = [one["mass"] - one["usual"] for one in about["latents"]]
    assert unusual == sorted(unusual, reverse=True)
    left_out = set(np.flatnonzero(mass).tolist()) - set(listed)
    assert all(mass[latent] - usual[latent] <= unusual[-1] + 1e-4 for latent in left_out)


def test_a_heat_map_holds_the_codes_of_its_latent(held, first, dense, alive, shown):
    arrays, about = shown(heat("first", "discs", ROW, alive, held))
    np.testing.assert_allclose(arrays["map"], dense[ROW, :, :, alive].numpy(), rtol=1e-4, atol=1e-5)
    assert about["scale"] == pytest.approx(float(first.atlas.exemplars_of(alive)[1].max()))
    with pytest.raises(UnknownError, match=r"first has latents 0 to \d+, not 99999"):
        heat("first", "discs", ROW, 99999, held)


@pytest.mark.parametrize(("y", "x", "token"), [(0, 0, (0, 0)), (17, 30, (4, 7)), (31, 3, (7, 0))])
def test_what_fires_at_a_pixel_is_its_tokens_codes(held, dense, y, x, token):
    found = firing_at("first", "discs", ROW, y, x, held)
    codes = dense[ROW, *token]
    assert {one.latent for one in found} == set(codes.nonzero()[:, 0].tolist())
    for one in found:
        assert one.value == pytest.approx(float(codes[one.latent]), rel=1e-4)
    values = [one.value for one in found]
    assert values == sorted(values, reverse=True)


def test_outside_the_slice_nothing_fires(held):
    assert firing_at("first", "discs", ROW, 32, 0, held) == firing_at("first", "discs", ROW, 0, -1, held) == []


@pytest.mark.parametrize("value", [0.0, 1.0, 40.0])
def test_steering_shows_what_the_network_says_with_the_edit(held, first, alive, shown, value):
    slices = held.run.slices("discs")
    wanted = WantedSteering(cohort="discs", row=ROW, edits=[WantedEdit(latents=[alive], value=value)])
    arrays, about = shown(steer("first", wanted, held))
    edit = LatentEdit(first.hookpoint, first.dictionary.hash, (alive,), "multiply", value)
    before = first.segmenter.predict(slices.images([ROW]))[0, 0]
    with steered(Lens(first.segmenter, first.dictionary), edit):
        after = first.segmenter.predict(slices.images([ROW]))[0, 0]
    np.testing.assert_array_equal(arrays["mask"], after.numpy())
    assert about["changed"] == int((before != after).sum())
    assert about["after"][0]["said"] == int((after == 1).sum())
    assert about["before"][0]["dice"] == dice_of(before == 1, slices.masks([ROW])[0, 0] == 1)
    if value == 1.0:
        assert about["changed"] == 0


def test_rules_at_the_output(held, slices, first, shown):
    def after(**rule):
        return shown(baseline("first", WantedBaseline(cohort="discs", row=ROW, **rule), held))[0]["mask"]

    said = first.segmenter.predict(slices.images([ROW]))[0, 0].numpy()
    assert (after(rule="logit_bias", value=1e6, label="tumour") == 1).all()
    assert (after(rule="logit_bias", value=-1e6, label="tumour") == 0).all()
    np.testing.assert_array_equal(after(rule="logit_bias", value=0.0, label="tumour"), said)
    np.testing.assert_array_equal(after(rule="entropy", value=1.5), said)  # none is above 1
    assert not after(rule="entropy", value=-1.0).any()
    kept = after(rule="largest_component")
    assert ((kept == 0) | (kept == said)).all()
    with pytest.raises(UnknownError, match="no class 'edema'; there are background, tumour"):
        after(rule="logit_bias", label="edema")


def test_what_the_run_has_not_is_said(held):
    with pytest.raises(UnknownError, match="discs has slices 0 to 23, not 24"):
        one_slice("discs", 24, held)
    with pytest.raises(UnknownError, match="no cohort 'adult'; there are discs"):
        cohort("adult", held)
    with pytest.raises(UnknownError, match="no segmenter 'third'; there are first, first@stage2, second"):
        prediction("third", "discs", 0, held)


def test_codes_of_one_slice_are_those_of_a_batch(first, slices, dense):
    codes, grid = first.codes(slices, ROW)
    assert grid == (1, 8, 8)
    torch.testing.assert_close(codes.to_dense().view(8, 8, -1), dense[ROW], rtol=1e-4, atol=1e-5)
