import json
import math
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from tests.nnunet_folder import dataset, plans, write_case, write_folder

from seglens.activations.hooks import activations, edit
from seglens.activations.store import ActivationStore
from seglens.activations.volume_tokens import extract_volumes
from seglens.artifacts import read_artifact
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions
from seglens.dictionaries.fit_settings import FitSettings
from seglens.dictionaries.fitting import fit_dictionary
from seglens.dictionaries.lens import Lens
from seglens.segmenters.opened import open_model
from seglens.segmenters.windows import padding_of, window_pass, window_starts
from seglens.steering.edits import LatentEdit, steer

TILTED = np.array([[0, -1.0, 0.1, 5], [0.02, 0, 2.0, 1], [1.25, 0, 0, -4], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_model(write_folder(tmp_path_factory.mktemp("model")), fold=0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, model):
    root = tmp_path_factory.mktemp("images")
    write_case(root, "a", affine=TILTED)
    write_case(root, "b", seed=1, shape=(13, 10, 8))
    return cohort_of(root, model)


def cohort_of(root, model):
    return read_cohort(root, SourceOptions(labels=model.labels), sequences=model.sequences, with_masks=False)


def slow_tokens(model, case, hookpoint):
    """Place to token by loops: each place of each window, kept where no window's centre is nearer."""
    prepared = model.prepare(model.read(case))
    front, behind = padding_of(prepared.extent, model.patch)
    padded = np.pad(prepared.values, [(0, 0), *zip(front, behind, strict=True)])
    starts = [window_starts(n, side) for n, side in zip(padded.shape[1:], model.patch, strict=True)]
    found = {}
    for corner in np.ndindex(*(len(firsts) for firsts in starts)):
        start = [firsts[number] for firsts, number in zip(starts, corner, strict=True)]
        box = tuple(slice(first, first + side) for first, side in zip(start, model.patch, strict=True))
        window = torch.from_numpy(padded[(slice(None), *box)].copy())[None]
        with torch.no_grad():
            grid = activations(model.segmenter, hookpoint, window)[0]
        block = [side // n for side, n in zip(model.patch, grid.shape, strict=False)]
        for token in np.ndindex(*grid.shape[:3]):
            place = [s + t * b + (b - 1) / 2 for s, t, b in zip(start, token, block, strict=True)]
            nearest = all(
                abs(at - (s + (side - 1) / 2)) <= min(abs(at - (other + (side - 1) / 2)) for other in firsts)
                and s == min(firsts, key=lambda other, at=at, side=side: (abs(at - (other + (side - 1) / 2)), other))
                for at, s, side, firsts in zip(place, start, model.patch, starts, strict=True)
            )
            own = tuple(at - first for at, first in zip(place, front, strict=True))
            inside = all(-0.5 < at < n - 0.5 for at, n in zip(own, prepared.extent, strict=True))
            if nearest and inside:
                assert own not in found
                found[own] = grid[token]
    return found


@pytest.mark.parametrize("hookpoint", ["encoder1", "encoder2"])
def test_each_place_comes_once_from_the_window_whose_centre_is_nearest(model, cohort, hookpoint):
    store = extract_volumes(model, cohort, hookpoint)
    assert store.grid == (1, 1, 1) and store.segmenter_hash == model.segmenter.hash
    for case in cohort.cases:
        rows = (store.index["case"] == case.id).to_numpy().nonzero()[0]
        wanted = slow_tokens(model, case, hookpoint)
        places = [tuple(place) for place in store.index["voxel"].to_numpy()[rows].tolist()]
        assert sorted(places) == sorted(wanted)
        tokens = store.tokens(torch.from_numpy(rows))
        assert torch.equal(tokens, torch.stack([wanted[place] for place in places]))
    assert (store.index["weight"] == 1).all()


def test_places_in_mm_are_those_of_the_file(model, cohort):
    store = extract_volumes(model, cohort, "encoder0")
    n = sum(math.prod(model.prepare(model.read(case)).extent) for case in cohort.cases)
    assert store.n_tokens == n  # at full size every voxel comes once
    case = cohort.cases[0]
    image = nibabel.load(case.images["T1"].path)
    prepared = model.prepare(model.read(case))
    assert prepared.extent == prepared.crop  # the case has the model's spacing: one voxel, one token
    row = store.index.filter(store.index["case"] == "a").row(7, named=True)
    z, y, x = (int(at) + first for at, first in zip(row["voxel"], prepared.start, strict=True))
    np.testing.assert_allclose(row["mm"], image.affine[:3, :3] @ [x, y, z] + image.affine[:3, 3], atol=1e-4)


def test_a_part_of_the_tokens_stands_for_all(model, cohort, tmp_path):
    whole = extract_volumes(model, cohort, "encoder1")
    part = extract_volumes(model, cohort, "encoder1", tokens_per_volume=60)
    counts = whole.index["case"].value_counts().sort("case")["count"].to_list()
    assert part.index["case"].value_counts().sort("case")["count"].to_list() == [60, 60]
    assert part.index.group_by("case").agg(part.index["weight"].first()).height == 2
    for case, count in zip(("a", "b"), counts, strict=True):
        own = part.index.filter(part.index["case"] == case)
        assert own["weight"].to_list() == [count / 60] * 60
        places = {tuple(place) for place in whole.index.filter(whole.index["case"] == case)["voxel"].to_list()}
        assert {tuple(place) for place in own["voxel"].to_list()} <= places
    weights = torch.from_numpy(part.index["weight"].to_numpy().copy()).double()[:, None]
    tokens = part.tokens(torch.arange(120)).double()
    centre = (weights * tokens).sum(0) / weights.sum()
    torch.testing.assert_close(part.centre.double(), centre, atol=1e-5, rtol=1e-5)
    spread = (weights * (tokens - centre) ** 2).sum() / weights.sum()
    assert part.scale == pytest.approx(math.sqrt(4 / float(spread)), rel=1e-4)
    again = extract_volumes(model, cohort, "encoder1", tokens_per_volume=60, folder=tmp_path / "store")
    assert again.hash == part.hash == ActivationStore.read(read_artifact(tmp_path / "store")).hash
    assert again.index.equals(part.index) and torch.equal(again.tokens(torch.arange(9)), part.tokens(torch.arange(9)))


def test_half_of_a_part_is_of_the_foreground(model, tmp_path):
    paths = write_case(tmp_path / "imagesTr", "a", affine=TILTED)
    image = nibabel.load(paths[0])
    mask = np.zeros(image.shape, np.uint8)
    mask[4:8, 5:9, 3:7] = 2
    mask[4, 5, 3:7] = 1
    (tmp_path / "labelsTr").mkdir()
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), tmp_path / "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(dataset()))
    cohort = read_cohort(tmp_path, SourceOptions(labels=model.labels), sequences=model.sequences)
    whole = extract_volumes(model, cohort, "encoder0", with_masks=True)
    n = int((mask > 0).sum())
    assert whole.index["label"].value_counts().sort("label").rows()[1:] == [(1, 4), (2, n - 4)]
    for row in whole.index.filter(whole.index["label"] > 0).iter_rows(named=True):
        at = np.linalg.solve(image.affine, [*row["mm"], 1])[:3]
        assert mask[tuple(np.round(at).astype(int))] == row["label"]
    for most, foreground in ((100, 50), (400, n)):
        part = extract_volumes(model, cohort, "encoder0", with_masks=True, tokens_per_volume=most).index
        inside = part.filter(part["label"] > 0)
        assert (len(part), len(inside)) == (most, foreground)
        assert inside["weight"].sum() == pytest.approx(n)
        assert part["weight"].sum() == pytest.approx(whole.n_tokens)
    unlabelled = extract_volumes(model, cohort, "encoder0", tokens_per_volume=100).index
    assert unlabelled["label"].null_count() == 100 and (unlabelled["weight"] == whole.n_tokens / 100).all()
    other = replace(cohort, labels={0: "background", 1: "a", 2: "b"})
    with pytest.raises(ValueError, match=r"has the labels .*'a'.* read it with SourceOptions\(labels=model\.labels"):
        extract_volumes(model, other, "encoder0", with_masks=True)


def test_a_network_of_planes_gives_tokens_of_every_slice(tmp_path):
    model = open_model(write_folder(tmp_path, described=plans(n_axes=2), mirrors=(0, 1)), fold=0)
    write_case(tmp_path / "images", "a")
    store = extract_volumes(model, cohort_of(tmp_path / "images", model), "encoder1")
    prepared = model.prepare(model.read(cohort_of(tmp_path / "images", model).cases[0]))
    assert {place[0] for place in store.index["voxel"].to_list()} == set(range(prepared.extent[0]))


def test_a_dictionary_is_fitted_and_steers_every_window(model, cohort):
    store = extract_volumes(model, cohort, "decoder0")
    dictionary = fit_dictionary(store, settings=FitSettings(k=2, expansion=4, steps=3, batch_size=64))
    lens = Lens(model.segmenter, dictionary)
    paths = [ref.path for ref in cohort.cases[0].images.values()]
    plain = model.predict(paths, mirror=False)
    for factor, same in ((1.0, True), (-8.0, False)):
        edit = LatentEdit("decoder0", dictionary.hash, tuple(range(16)), "multiply", factor)
        with steer(lens, edit):
            assert (model.predict(paths, mirror=False) == plain).all() == same


def test_what_cannot_be_extracted_is_refused(model, cohort, tmp_path):
    with pytest.raises(ValueError, match="no hookpoint 'encoder9'"):
        extract_volumes(model, cohort, "encoder9")
    with pytest.raises(ValueError, match="has the sequences FLAIR, T1, the model T1, FLAIR"):
        extract_volumes(model, cohort.with_sequences(("FLAIR", "T1")), "encoder0")
    with pytest.raises(ValueError, match="tokens_per_volume 1 must be at least 2"):
        extract_volumes(model, cohort, "encoder0", tokens_per_volume=1)
    with pytest.raises(ValueError, match="none of 2 cases can be read"):
        extract_volumes(model, cohort, "encoder0", quarantined={"a", "b"}, folder=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_hook_knows_the_window_while_tokens_are_read(model, cohort):
    passes = []

    def look(tokens):
        passes.append(window_pass())
        return tokens

    with edit(model.segmenter, "encoder0", look):
        store = extract_volumes(model, cohort, "encoder1")
    assert {(one.fold, one.mirrored) for one in passes} == {("0", ())}
    rows = store.index.select("case", "window").unique().iter_rows()
    assert {(case, tuple(window)) for case, window in rows} <= {(p.placement.case, p.placement.start) for p in passes}
    assert {one.placement.extent for one in passes} == {model.patch}
