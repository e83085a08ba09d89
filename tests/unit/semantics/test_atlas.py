"""describe() from end to end on a tiny network, against explicit full-resolution maps of every slice."""

import polars as pl
import pytest
import torch
from torch import nn
from torch.nn import functional

from seglens.artifacts import new_artifact, read_artifact
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.segmenter import Hookpoint, Segmenter
from seglens.semantics import geometry, localisation
from seglens.semantics.atlas import LatentAtlas, describe
from seglens.semantics.describing import category_mass

LABELS = {0: "background", 1: "edema", 2: "never"}
N, SIZE, GRID = 7, 16, (1, 4, 4)


@pytest.fixture(scope="module")
def slices():
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    brain = ((rows - 7.5) ** 2 + (columns - 7.5) ** 2) < 49
    masks = torch.zeros(N, SIZE, SIZE, dtype=torch.uint8)
    masks[:4, 4:9, 3:7] = 1
    masks[2] = masks[2].flip(1)
    images = torch.randn(N, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 0.1
    images[:, 0] += masks * 3.0
    index = pl.DataFrame({"case": [f"c{number}" for number in range(N)]})
    brains = brain.expand(N, -1, -1).clone()
    return SliceSet.from_tensors(images, masks, brains, index, name="tiny", sequences=["T1", "FLAIR"], labels=LABELS)


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 5, 4, stride=4), nn.ReLU(), nn.Conv2d(5, 3, 1))
    return Segmenter.wrap(
        network, sequences=["T1", "FLAIR"], labels=LABELS, hookpoints={"middle": Hookpoint("0")}, size=SIZE
    )


@pytest.fixture(scope="module")
def dictionary(segmenter):
    sae = SparseAutoencoder(5, 12, k=3, seed=1, hookpoint="middle", segmenter_hash=segmenter.hash)
    sae.theta.fill_(0.2)
    sae.b_enc.data[3] = -1e6  # never fires
    return sae


@pytest.fixture(scope="module")
def atlas(dictionary, segmenter, slices):
    return describe(Lens(segmenter, dictionary), slices, top_k=3, batch_size=2)


@pytest.fixture(scope="module")
def z(dictionary, segmenter, slices):
    with torch.no_grad():
        tokens = segmenter.network[0](slices.images()[:, :, 0]).permute(0, 2, 3, 1)
    return dictionary.encode(tokens.reshape(-1, 5)).to_dense().view(N, *GRID, 12)


def full(maps):
    return functional.interpolate(maps, size=(SIZE, SIZE), mode="bilinear", align_corners=False)


def ratios(h, masks, brains):
    depth = geometry.brain_depth(brains)
    edge, boundary = (
        geometry.edge_band(depth, brains),
        geometry.label_boundary(masks, geometry.boundary_band((1, SIZE, SIZE), GRID)),
    )
    return {
        "p_background": h[masks == 0].sum() / h.sum(),
        "p_edema": h[masks == 1].sum() / h.sum(),
        "p_never": torch.tensor(0.0),
        "inside": h[masks > 0].sum() / h.sum(),
        "boundary": h[boundary].sum() / h.sum(),
        "brain": h[brains].sum() / h.sum(),
        "edge": h[edge].sum() / h[brains].sum(),
        "depth": (h * depth)[brains].sum() / h[brains].sum(),
    }


def test_linear_columns_equal_full_resolution_maps_of_all_slices(atlas, slices, z):
    base = float((slices.masks() == 1).float().mean())
    for latent in range(12):
        row = atlas.of(latent)
        assert row["dead"] == (not z[..., latent].any())
        if row["dead"]:
            continue
        for name, value in ratios(full(z[..., latent]), slices.masks(), slices.brains()).items():
            assert row[name] == pytest.approx(float(value), abs=1e-5), name
        assert row["lift_edema"] == pytest.approx(row["p_edema"] / base)
        assert row["lift_never"] is None
        assert row["mass"] == pytest.approx(float(z[..., latent].sum()), rel=1e-5)
        assert row["firing_rate"] == pytest.approx(float((z[..., latent] > 0).float().mean()))
        assert row["mean_activation"] == pytest.approx(float(z[..., latent][z[..., latent] > 0].mean()), rel=1e-5)
    assert atlas.base_rates == pytest.approx({"background": 1 - base, "edema": base, "never": 0})


def test_top_columns_are_averages_over_the_exemplars(atlas, slices, z):
    for latent in atlas.table.filter(~pl.col("dead"))["latent"]:
        exemplars, maps = atlas.exemplars_of(latent)
        order = z[..., latent].double().sum((1, 2, 3)).sort(descending=True, stable=True).indices[:3].tolist()
        order = [row for row in order if z[row, ..., latent].sum() > 0]
        assert exemplars["row"].to_list() == order
        assert exemplars["rank"].to_list() == list(range(len(order)))
        torch.testing.assert_close(maps, z[order, ..., latent].half())
        per_slice = [
            ratios(full(z[row : row + 1, ..., latent]), slices.masks([row]), slices.brains([row])) for row in order
        ]
        edges = geometry.edge_band(geometry.brain_depth(slices.brains()), slices.brains())
        places = [
            localisation.localise_in_slice(z[row : row + 1, ..., latent], slices.brains([row])[0], edges[row])
            for row in order
        ]
        row = atlas.of(latent)
        assert row["n_exemplars"] == len(order)
        for name in per_slice[0]:
            known = [float(part[name]) for part in per_slice if part[name].isfinite()]
            assert row[f"{name}_top"] == pytest.approx(sum(known) / len(known), abs=1e-5), name
        for name in localisation.METRICS:
            assert row[name] == pytest.approx(sum(float(part[name]) for part in places) / len(places), abs=1e-5), name


def test_dead_latents_are_named_so_and_have_nulls(atlas):
    row = atlas.of(3)
    assert row["name"] == "dead" and row["dead"] and row["mass"] == 0 and row["firing_rate"] == 0
    empty = ("p_edema", "lift_edema", "edge", "entropy", "side", "top_class", "mean_activation", "depth_top")
    assert all(row[name] is None for name in empty)
    floats = atlas.table.select(pl.selectors.float())
    assert floats.select(pl.all().is_nan().any()).row(0) == (False,) * floats.width
    assert atlas.table.filter(~pl.col("dead"))["name"].n_unique() > 1


def test_one_slice_and_more_exemplars_asked_for_than_slices(dictionary, segmenter, slices, z):
    alone = describe(Lens(segmenter, dictionary), slices.select([2]), top_k=5)
    fires = z[2].sum((0, 1, 2)) > 0
    assert torch.equal(torch.tensor(alone.table["n_exemplars"].to_list()), fires.int())
    for latent in fires.nonzero()[:, 0].tolist():
        row = alone.of(latent)
        for name, value in ratios(full(z[2:3, ..., latent]), slices.masks([2]), slices.brains([2])).items():
            assert row[name] == pytest.approx(float(value), abs=1e-5), name
            assert row[f"{name}_top"] == pytest.approx(row[name], abs=1e-6)


def test_a_dictionary_in_which_nothing_fires(segmenter, slices):
    silent = SparseAutoencoder(5, 12, k=3, hookpoint="middle", segmenter_hash=segmenter.hash)
    silent.theta.fill_(1e6)
    atlas = describe(Lens(segmenter, silent), slices, top_k=3, batch_size=2)
    assert atlas.table["dead"].all() and len(atlas.exemplars) == len(atlas.maps) == 0
    assert set(atlas.table["name"]) == {"dead"} and atlas.table["entropy"].null_count() == 12


def test_batch_size_changes_nothing_that_matters(atlas, dictionary, segmenter, slices):
    other = describe(Lens(segmenter, dictionary), slices, top_k=3, batch_size=7)
    assert other.exemplars.equals(atlas.exemplars) and torch.equal(other.maps, atlas.maps)
    assert other.table["name"].equals(atlas.table["name"])


def test_same_twice_and_reports_progress(atlas, dictionary, segmenter, slices):
    seen = []
    again = describe(
        Lens(segmenter, dictionary),
        slices,
        top_k=3,
        batch_size=2,
        progress=lambda done, total, **_: seen.append((done, total)),
    )
    assert again.table.equals(atlas.table)
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]


def test_written_and_read_it_is_the_same(atlas, tmp_path):
    with new_artifact(tmp_path / "atlas", kind="atlas", inputs={}) as draft:
        atlas.write(draft)
    back = LatentAtlas.read(read_artifact(tmp_path / "atlas", "atlas"))
    assert back.table.equals(atlas.table) and back.replication.equals(atlas.replication)
    assert back.exemplars.equals(atlas.exemplars)
    assert torch.equal(back.maps, atlas.maps)
    assert (back.labels, back.base_rates, back.context) == (atlas.labels, atlas.base_rates, atlas.context)


def test_peak_ranks_by_the_largest_code(dictionary, segmenter, slices, z):
    by_peak = describe(Lens(segmenter, dictionary), slices, top_k=1, rank_by="peak")
    for latent, row in by_peak.exemplars.select("latent", "row").rows():
        assert row == int(z[..., latent].amax((1, 2, 3)).argmax())


def test_mass_by_category_sums_to_one(atlas):
    shares = category_mass(atlas.table, LABELS)
    assert sum(shares.values()) == pytest.approx(1)
    by_class = ~pl.col("name").str.contains(", boundary")
    edema = atlas.table.filter((pl.col("top_class") == "edema") & by_class & pl.col("class_replicates"))
    assert shares["foreground"] == pytest.approx(edema["mass"].sum() / atlas.table["mass"].sum())
    alone = atlas.table.with_columns(class_replicates=pl.lit(False))
    shares = category_mass(alone, LABELS)
    assert shares["foreground"] == 0
    assert shares["unreplicated"] == pytest.approx(alone.filter(by_class)["mass"].sum() / alone["mass"].sum())
    assert set(category_mass(atlas.table.filter("dead"), LABELS).values()) == {0.0}


def test_refuses_what_does_not_belong_together(atlas, dictionary, segmenter, slices):
    other = SparseAutoencoder(5, 12, k=3, hookpoint="middle", segmenter_hash="0" * 64)
    with pytest.raises(ValueError, match="fitted to segmenter 000000000000"):
        Lens(segmenter, other)
    with pytest.raises(ValueError, match="no slices"):
        describe(Lens(segmenter, dictionary), slices.select([]))
    with pytest.raises(ValueError, match=r"0\.\.11"):
        atlas.of(12)
