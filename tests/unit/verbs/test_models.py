import json

import nibabel
import numpy as np
import pytest
from tests.nnunet_folder import REGIONS, dataset, write_case, write_folder

from seglens.artifacts import new_artifact, read_artifact
from seglens.cli import app
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.opened import OpenedModel, open_model
from seglens.steering.edits import LatentEdit


def run(*command):
    return app([str(part) for part in command], exit_on_error=False, print_error=False, result_action="return_value")


def mask(folder, case="a"):
    return np.asarray(nibabel.load(folder / f"{case}.nii.gz").dataobj)


def test_predict_takes_nnunet_s_flat_folder(tmp_path, capsys):
    folder = write_folder(tmp_path, folds=("0", "1"))
    paths = write_case(tmp_path / "images", "a")
    command = ("predict", "--model", folder, tmp_path / "images", "--fold", "0", "--device", "cpu", "--no-mirror")
    assert run(*command, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    np.testing.assert_array_equal(mask(tmp_path / "out"), open_model(folder, fold=0).predict(paths, mirror=False))
    paths[1].unlink()
    write_case(tmp_path / "images", "b")
    assert run(*command, "--out", tmp_path / "some") == 3  # a has lost a channel
    assert sorted(path.name for path in (tmp_path / "some").glob("*.nii.gz")) == ["b.nii.gz"]


def test_predict_takes_a_data_set_of_regions(tmp_path):
    folder = write_folder(tmp_path, labels=REGIONS)
    root = tmp_path / "raw"
    write_case(root / "imagesTr", "a")
    (root / "dataset.json").write_text(json.dumps(dataset(REGIONS)))
    assert run("predict", "--model", folder, root, "--out", tmp_path / "out", "--no-mirror") == 0
    assert mask(tmp_path / "out").any()


def test_predict_steers_every_window_and_mirror(tmp_path):
    folder = write_folder(tmp_path)
    write_case(tmp_path / "images", "a")
    model = open_model(folder, fold=0)
    dictionary = SparseAutoencoder(
        d_in=4, n_latents=8, k=4, seed=0, hookpoint="decoder0", segmenter_hash=model.segmenter.hash, store_hash=""
    )
    with new_artifact(tmp_path / "dictionary", kind="dictionary", inputs={}) as draft:
        dictionary.write(draft)
    masks = {}
    command = ("predict", "--model", folder, tmp_path / "images", "--device", "cpu")
    assert run(*command, "--out", tmp_path / "plain") == 0
    for factor in (1.0, -5.0):
        edit = LatentEdit("decoder0", dictionary.hash, tuple(range(8)), "multiply", factor)
        (tmp_path / "edits.json").write_text(json.dumps(edit.description()))
        given = ("--edits", tmp_path / "edits.json", "--dictionary", tmp_path / "dictionary")
        assert run(*command, *given, "--out", tmp_path / str(factor)) == 0
        assert read_artifact(tmp_path / str(factor)).inputs["steering"] == [edit.description()]
        masks[factor] = mask(tmp_path / str(factor))
    np.testing.assert_array_equal(masks[1.0], mask(tmp_path / "plain"))
    assert (masks[-5.0] != masks[1.0]).any()


def test_options_of_an_nnunet_are_refused_for_a_run_s_segmenter(tmp_path):
    with new_artifact(tmp_path / "segmenter", kind="segmenter", inputs={}) as draft:
        draft.save_document("segmenter", {})
    with pytest.raises(ValueError, match="--fold, --set, --module, --no-mirror and --precision are of"):
        run("predict", "--model", tmp_path / "segmenter", tmp_path, "--out", tmp_path / "out", "--fold", "0")


def test_open_says_what_a_model_is_and_what_cannot_be_opened(tmp_path, capsys):
    folder = write_folder(tmp_path)
    assert run("open", folder, "--device", "cpu") == 0
    assert "hookpoint    module" in capsys.readouterr().out
    other = folder.with_name("nnUNetTrainer__nnUNetPlans__3d_cascade_fullres")
    other.mkdir()
    (other / "plans.json").write_text((folder / "plans.json").read_text())
    assert run("open", folder.parent, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert (
        "3d_cascade_fullres\ncannot be opened: " in said and "there are no fold" in said and "3d_small (Plain" in said
    )
    (folder / "plans.json").write_text("{}")
    assert run("open", folder.parent, "--device", "cpu") == 2
    (other / "plans.json").unlink()
    with pytest.raises(ValueError, match=r"plans\.json: it holds an object of 0; legal: configurations"):
        run("open", folder.parent)


def test_predict_ends_with_3_where_a_case_cannot_be_segmented(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path)
    for case in ("a", "b"):
        write_case(tmp_path / "images", case)
    own = OpenedModel.segment

    def segment(model, volume, **options):
        if volume.case.id == "a":
            raise ValueError("case a: too many windows\x1b[2J")
        return own(model, volume, **options)

    monkeypatch.setattr(OpenedModel, "segment", segment)
    command = ("predict", "--model", folder, tmp_path / "images", "--device", "cpu", "--no-mirror")
    assert run(*command, "--out", tmp_path / "out") == 3
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "a was quarantined: case a: too many windows\\x1b[2J",
        str(tmp_path / "out"),
    ]
    assert mask(tmp_path / "out", "b").any() and not (tmp_path / "out/a.nii.gz").exists()
    with pytest.raises(ValueError, match="case a: too many windows"):
        run(*command, "--out", tmp_path / "strict", "--strict")


def test_edits_are_of_one_fold(tmp_path):
    folder = write_folder(tmp_path, folds=("0", "1"))
    given = ("--edits", tmp_path / "edits.json", "--dictionary", tmp_path / "dictionary")
    with pytest.raises(ValueError, match=r"opened with the folds 0, 1; give --fold 0"):
        run("predict", "--model", folder, tmp_path, "--device", "cpu", *given, "--out", tmp_path / "out")
