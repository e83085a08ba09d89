"""Volumes go the whole way that slices go: a three-dimensional network is scored, opened, described and steered."""

import polars as pl
import pytest
import torch
from torch import nn

from seglens.activations.effects import hookpoint_effects
from seglens.activations.extraction import extract
from seglens.activations.hooks import capture
from seglens.activations.live import live_activations
from seglens.artifacts import new_artifact, read_artifact
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.fit_settings import FitSettings
from seglens.dictionaries.latent_table import latent_table
from seglens.dictionaries.lens import fit_lens
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.surface import hd95, surface_distances
from seglens.segmenters.training import TrainingSettings, train_segmenter
from seglens.semantics.atlas import LatentAtlas, describe
from seglens.steering.attribution import latent_attribution
from seglens.steering.edits import LatentEdit, steer
from seglens.steering.sweep import sweep

LABELS = {0: "background", 1: "lesion"}
SIZE = (6, 16, 12)


@pytest.fixture(scope="module")
def volumes():
    """Noise with a bright lesion, low in the first half of the volumes and high in the others."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(12, *SIZE, dtype=torch.uint8)
    masks[:6, 0:3, 4:10, 2:6] = masks[6:, 3:6, 4:10, 2:6] = 1
    images = 0.3 * torch.randn(12, 1, *SIZE, generator=generator) + 2 * masks[:, None]
    index = pl.DataFrame({"case": [f"c{row}" for row in range(12)], "spacing_slice_mm": [3.0] * 12})
    index = index.with_columns(split=pl.Series(["train"] * 8 + ["test"] * 4))
    return SliceSet.from_tensors(images, masks, masks < 2, index, name="volumes", sequences=["T1"], labels=LABELS)


@pytest.fixture(scope="module")
def segmenter(volumes):
    """A small U of convolutions in space, trained for a moment."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1),
            nn.GELU(),
            nn.Conv3d(8, 8, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv3d(8, 2, 1),
        )
    start = Segmenter.wrap(network, sequences=["T1"], labels=LABELS, hookpoints={"coarse": "3", "fine": "1"}, size=SIZE)
    settings = TrainingSettings(steps=60, batch_size=4, learning_rate=0.02, precision="fp32")
    return train_segmenter(volumes, init_from=start, settings=settings, augmentation=None)


@pytest.fixture(scope="module")
def lens(segmenter, volumes):
    return fit_lens(segmenter, "coarse", volumes, settings=FitSettings(k=3, expansion=3, steps=60, batch_size=64))


def test_a_network_of_volumes_is_trained_and_scored(segmenter, volumes):
    scores = evaluate(segmenter, volumes, batch_size=5)
    predicted = segmenter.predict(volumes.images()) == 1
    truth = volumes.masks() == 1
    by_hand = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    assert scores.dice("lesion").value == pytest.approx(float(by_hand))
    assert float(by_hand) > 0.6
    distances = evaluate(segmenter, volumes, hd95=True).table.filter(pl.col("class") == "lesion")["hd95_mm"].to_list()
    for volume, distance in enumerate(distances):  # slices lie 3 mm apart
        by_hand = surface_distances(predicted[volume].numpy(), truth[volume].numpy(), (3.0, 1.0, 1.0))
        assert distance == (None if by_hand is None else pytest.approx(hd95(by_hand)))
    assert any(distances)


def test_tokens_are_the_activation_voxel_by_voxel(segmenter, volumes, tmp_path):
    store = extract(segmenter, volumes, "coarse", batch_size=5, folder=tmp_path / "store")
    assert store.grid == (3, 8, 6)
    with torch.no_grad():
        by_hand = segmenter.network[:4](volumes.images()).movedim(1, -1)
    torch.testing.assert_close(store.slice_tokens(range(12)), by_hand)
    torch.testing.assert_close(store.tokens(torch.tensor([3 * 8 * 6 + 2 * 8 * 6 + 5 * 6 + 4]))[0], by_hand[1, 2, 5, 4])
    live = live_activations(segmenter, volumes, "coarse", batch_size=5)
    torch.testing.assert_close(live.centre, store.centre)


def test_what_lies_on_disk_comes_back(volumes, tmp_path):
    with new_artifact(tmp_path / "slices", kind="slices", inputs={}) as draft:
        volumes.write(draft)
    read = SliceSet.read(read_artifact(tmp_path / "slices", "slices"))
    assert (read.size, read.hash) == (SIZE, volumes.hash)
    assert torch.equal(read.images([3, 1]), volumes.images([3, 1]))
    assert read.index["spacing_slice_mm"].to_list() == [3.0] * 12


def test_hookpoints_have_effects(segmenter, volumes):
    effects = hookpoint_effects(segmenter, volumes, batch_size=5).filter(pl.col("class") == "lesion")
    assert dict(effects.select("hookpoint", "tokens").rows()) == {"coarse": 3 * 8 * 6, "fine": 6 * 16 * 12}
    assert (effects["dice_ablated"] < effects["dice_before"]).all()


def test_latents_are_described_in_space(lens, volumes, tmp_path):
    atlas = describe(lens, volumes, top_k=3, batch_size=5)
    assert (atlas.context["size"], atlas.context["grid"]) == ([6, 16, 12], [3, 8, 6])
    assert atlas.maps.shape[1:] == (3, 8, 6)
    lesion = atlas.table.filter(pl.col("top_class") == "lesion").sort("mass", descending=True)
    assert len(lesion)
    # the strongest volume of a latent of the lesion has it low or high, as its mask has
    row, name = atlas.exemplars_of(lesion["latent"][0])[0]["row"][0], lesion["name"][0]
    alone = describe(lens, volumes.select([row]), top_k=1).of(lesion["latent"][0])
    assert (alone["centroid_slice"] < 0.5) == (row < 6)
    assert name.startswith("lesion")
    with new_artifact(tmp_path / "atlas", kind="atlas", inputs={}) as draft:
        atlas.write(draft)
    assert torch.equal(LatentAtlas.read(read_artifact(tmp_path / "atlas", "atlas")).maps, atlas.maps)


def test_latents_are_pooled_over_components_in_space(lens, volumes):
    table = latent_table([lens], volumes, by="component", batch_size=5)
    predicted = lens.segmenter.predict(volumes.images())
    assert table.units["pixels"].sum() == int((predicted > 0).sum())
    whole = latent_table([lens], volumes, by="volume", batch_size=5).values["mass"]
    with torch.no_grad():
        view = lens.view(volumes.images())
    torch.testing.assert_close(whole, view.mass())


def test_edits_change_the_mask_and_identities_no_voxel(lens, volumes):
    segmenter, images = lens.segmenter, volumes.images()
    effects = latent_attribution(lens, volumes, target=1, batch_size=5)
    strongest = int(effects.scale["hit"].abs().argmax())
    before = segmenter.logits(images)
    edits = {
        str(value): LatentEdit("coarse", lens.dictionary_hash, (strongest,), "multiply", value)
        for value in (1.0, 0.0, 3.0)
    }
    with steer(lens, edits["1.0"]):
        assert torch.equal(segmenter.logits(images), before)
    with torch.no_grad(), capture(segmenter, "coarse") as seen, steer(lens, edits["3.0"]):
        segmenter.logits(images)
    with torch.no_grad():
        plain = lens.view(images)
    code = plain.codes.to_dense()[:, strongest]
    row = lens.dictionary.W_dec[strongest] / lens.dictionary.scale
    torch.testing.assert_close(seen.tokens.flatten(0, 3), plain.tokens.flatten(0, 3) + 2 * code[:, None] * row)
    swept = sweep(lens, volumes, edits, batch_size=5).pooled_by_edit("lesion")
    assert swept["1.0"] == swept["none"]
    for name in ("0.0", "3.0"):
        with steer(lens, edits[name]):
            assert swept[name] == pytest.approx(evaluate(segmenter, volumes).dice("lesion").value)
    assert len(set(swept.values())) > 1


def test_a_lens_of_slices_refuses_volumes(volumes):
    flat = Segmenter.wrap(nn.Conv2d(1, 2, 1), sequences=["T1"], labels=LABELS, hookpoints={"here": ""}, size=16)
    with pytest.raises(ValueError, match="samples of 6 slices"):
        evaluate(flat, volumes)
