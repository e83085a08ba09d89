"""A network of one's own from files to masks, beside a computation of the same by hand."""

import nibabel
import numpy as np
import pytest
import torch
from nibabel import orientations
from safetensors.torch import save_file
from scipy import ndimage
from tests.bundle_folder import write_images
from tests.own_folder import CODE, ROW, PlainMesh, plain_mesh, write_own
from tests.packages import install

from seglens.activations.volume_tokens import extract_volumes
from seglens.cohorts.case import Case, Cohort, ImageRef
from seglens.dictionaries.fit_settings import FitSettings
from seglens.dictionaries.fitting import fit_dictionary
from seglens.dictionaries.lens import Lens
from seglens.segmenters.opened import open_model
from seglens.segmenters.segmenter import Segmenter
from seglens.steering.edits import LatentEdit, steer
from seglens.studies.segmenter_settings import with_stored_architectures
from seglens.studies.settings import StudySettings


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package of the network, on the path with its entry point."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    install(site, "plain_mesh", CODE, ROW)


def case_of(model, images):
    refs = {sequence: ImageRef(path) for sequence, path in zip(model.sequences, images, strict=True)}
    return Case("case", "case", "case", "case", refs, None, {})


def by_hand(path, spacing, network):
    """Volume shown, logits, and probabilities on the file's grid, of an LIA network; by nibabel and scipy alone."""
    file = nibabel.load(path)
    native, wanted = orientations.io_orientation(file.affine), orientations.axcodes2ornt("LIA")
    turn = orientations.ornt_transform(native, wanted)
    turned = orientations.apply_orientation(file.get_fdata(dtype=np.float32), turn)
    old = np.asarray(file.header.get_zooms())[np.argsort(turn[:, 0])]
    sizes = [round((n - 1) * size / new) + 1 for n, size, new in zip(turned.shape, old, spacing, strict=True)]
    shown = _linear(turned, sizes, np.asarray(spacing) / old)
    low, high = np.quantile(shown, [0.02, 0.98])
    shown = ((shown - low) / (high - low)).clip(0, 1).astype(np.float32)
    with torch.no_grad():
        logits = network(torch.from_numpy(shown)[None, None])[0]
    own = [_linear(head, turned.shape, old / np.asarray(spacing)) for head in logits.softmax(0).numpy()]
    undo = orientations.ornt_transform(wanted, native)
    return shown, logits, np.stack([orientations.apply_orientation(head, undo) for head in own])


def _linear(values, sizes, steps):
    """Values at places that lie so many voxels apart, the first voxel's centre first."""
    places = np.meshgrid(*(np.arange(n) * step for n, step in zip(sizes, steps, strict=True)), indexing="ij")
    return ndimage.map_coordinates(values, places, order=1, mode="nearest")


def even(network, images, spacing):
    """The same network, its outputs moved so that each of them wins somewhere."""
    _, logits, _ = by_hand(images[0], spacing, network)
    with torch.no_grad():
        spread = logits.flatten(1).std(1)
        network.head.weight /= spread[:, None, None, None, None]
        network.head.bias -= network.head.bias
        _, logits, _ = by_hand(images[0], spacing, network)
        network.head.bias -= logits.flatten(1).median(1).values
    return network


def test_masks_are_those_of_a_computation_by_hand(tmp_path, installed):
    images, spacing = write_images(tmp_path / "images"), (1.5, 1.5, 2.0)
    network = even(plain_mesh(), images, spacing)
    model = open_model(write_own(tmp_path / "own", network=network))
    assert list(model.segmenter.hookpoints) == ["layer0", "layer1", "layer2"]
    assert dict(model.labels) == {0: "Unknown", 1: "Thalamus", 2: "Hippocampus"}
    shown, logits, likely = by_hand(images[0], spacing, network)
    prepared = model.prepare(model.read(case_of(model, images)))
    np.testing.assert_allclose(prepared.values[0], shown, atol=1e-5)
    torch.testing.assert_close(model.logits(prepared), logits, atol=1e-5, rtol=1e-5)
    mask, wanted = model.predict(images), np.array([0, 10, 17])[likely.argmax(0)]
    top = np.sort(likely, 0)
    clear = top[-1] - top[-2] > 1e-5
    assert clear.mean() > 0.999 and set(np.unique(mask)) == {0, 10, 17}
    np.testing.assert_array_equal(mask[clear], wanted[clear])


def test_a_function_of_the_user_is_as_good_as_a_row(tmp_path, installed):
    images = write_images(tmp_path / "images")
    of_row = open_model(write_own(tmp_path / "row"))
    settings = {"n_sequences": 1, "n_classes": 3, "width": 6, "dilations": [1, 2, 1]}
    spots = {"early": "layers.0", "late": {"module": "layers.2", "layout": "BCDHW"}}
    folder = write_own(tmp_path / "own", {"architecture": None, "settings": settings, "hookpoints": spots})
    given = open_model(folder, network=PlainMesh)
    np.testing.assert_array_equal(given.predict(images), of_row.predict(images))
    assert given.segmenter.architecture is None and list(given.segmenter.hookpoints) == ["early", "late"]
    assert given.preparation == of_row.preparation and given.hash != of_row.hash
    assert "a function that you gave" in given.facts()["model"] and "the row plain-mesh" in of_row.facts()["model"]
    with pytest.raises(ValueError, match=r"nothing says which network it is; .*--module"):
        open_model(folder)
    with pytest.raises(ValueError, match=r"hookpoints are missing; .*: layers, layers\.0, .*head"):
        open_model(folder, settings={"hookpoints": None}, network=PlainMesh)


def test_tokens_edits_and_what_a_run_keeps(tmp_path, installed):
    images = write_images(tmp_path / "images")
    network = even(plain_mesh(), images, (1.5, 1.5, 2.0))
    model = open_model(write_own(tmp_path / "own", {"window": [8, 16, 12]}, network), settings={"overlap": 0.25})
    plain = model.predict(images)
    cohort = Cohort("here", (case_of(model, images),), model.sequences, dict(model.labels), {})
    store = extract_volumes(model, cohort, "layer1", tokens_per_volume=400)
    dictionary = fit_dictionary(store, settings=FitSettings(k=2, steps=20, batch_size=64))
    lens = Lens(model.segmenter, dictionary)
    with steer(lens, LatentEdit("layer1", dictionary.hash, (0, 1), "multiply", 1.0)):
        np.testing.assert_array_equal(model.predict(images), plain)
    with steer(lens, LatentEdit("layer1", dictionary.hash, tuple(range(dictionary.n_latents)), "multiply", 5.0)):
        assert (model.predict(images) != plain).any()
    restored = Segmenter.load(model.segmenter.save(tmp_path / "kept"))
    assert restored.hash == model.segmenter.hash and restored.hookpoints == model.segmenter.hookpoints
    volume = torch.rand(1, 1, 8, 8, 8)
    torch.testing.assert_close(restored.logits(volume), network(volume))


def test_a_study_takes_it_by_its_row(tmp_path, installed):
    folder = write_own(tmp_path / "own", {"window": [8, 16, 12]})
    given = {"ours": {"cohort": "here", "model": "own", "settings": {"overlap": 0.0}}}
    stored = with_stored_architectures(given, tmp_path)["ours"]
    assert stored["architecture"] == "own" and stored["network"]["network"]["name"] == "plain-mesh"
    study = {
        "sequences": ["T1"],
        "cohorts": {"here": {"sources": [{"path": str(tmp_path)}]}},
        "segmenters": {"ours": stored | {"hookpoints": ["layer1"]}},
    }
    assert StudySettings.parse(study, "a study").segmenters["ours"].of_others
    assert folder.is_dir()


def test_planes_of_a_volume_and_values_that_a_file_does_not_hold(tmp_path):
    class Planes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)
            self.register_buffer("scale", torch.arange(1.0, 3.0)[1:], persistent=False)

        def forward(self, images):
            return self.conv(images) * self.scale

    network = Planes().eval()
    rules = {"dimensions": 2, "slice_axis": 0, "window": [16, 16], "overlap": 0, "orientation": "RAS"}
    changes = {"architecture": None, "settings": None, "labels": ["lesion"], "decision": "regions", "intensities": None}
    folder = write_own(tmp_path / "own", rules | changes | {"spacing_mm": None, "hookpoints": {"c": "conv"}}, network)
    model = open_model(folder, network=Planes)
    images = write_images(tmp_path / "images", shape=(7, 16, 16), affine=np.eye(4))
    values = nibabel.load(images[0]).get_fdata(dtype=np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(values)[:, None])[:, 0].sigmoid() >= 0.5
    assert 0.05 < wanted.float().mean() < 0.95
    np.testing.assert_array_equal(model.predict(images), wanted.numpy().astype(np.uint8))
    save_file({"conv.weight": torch.zeros(1, 1, 3, 3)}, folder / "other.safetensors")
    with pytest.raises(ValueError, match=r"these weights are not of this network: .*bias is missing"):
        open_model(folder, checkpoint="other.safetensors", network=Planes)
