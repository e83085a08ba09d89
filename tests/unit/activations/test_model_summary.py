import pytest
import torch
from tests.nnunet_folder import REGIONS, changed, plans, write_folder

from seglens.activations.hooks import activations
from seglens.activations.model_summary import summarise_model
from seglens.segmenters.opened import open_model
from seglens.segmenters.windows import window_starts


def test_figures_are_those_of_a_pass(tmp_path):
    model = open_model(write_folder(tmp_path, folds=("0", "1")))
    found = summarise_model(model)
    windows = len(window_starts(10, 8)) * len(window_starts(15, 12)) * len(window_starts(14, 12))
    assert (found.volume, found.windows, found.passes) == ((10, 15, 14), windows, windows * 8 * 2)
    assert found.seconds > 0 and found.device == "cpu"
    one = found.hookpoints[2]
    segmenter = next(iter(model.folds.values()))
    tokens = activations(segmenter, "encoder2", torch.zeros(1, 2, 8, 12, 12))
    assert (one.name, one.module, (1, *one.grid, one.width)) == ("encoder2", "encoder.stages.2", tuple(tokens.shape))
    assert one.block_mm == (4.0, 4.0, 5.0)
    assert (one.tokens, one.n_bytes) == (5 * 4 * 4, 5 * 4 * 4 * 6 * 4)
    assert found.proposed == "encoder1"  # 8 x 6 x 6 = 288 tokens; encoder2 has 36
    text = found.text()
    assert (
        "channels       0 T1, 1 FLAIR, in the file's own order" in text
        and "labels         0 background, 1 edema" in text
    )
    assert "encoder1     encoder.stages.1" in text and "  proposed" in text


def test_planes_and_regions(tmp_path):
    folder = write_folder(tmp_path, described=plans(n_axes=2), labels=REGIONS, mirrors=None)
    found = summarise_model(open_model(folder), (3, 12, 12))
    assert (found.windows, found.passes) == (3, 3) and len(found.hookpoints[0].block_mm) == 2
    assert "regions        0 background, 1 whole, 2 core" in found.text()
    assert found.proposed == "encoder0"


def test_without_a_median_the_figures_are_for_a_window(tmp_path):
    described = changed(plans(), "configurations.3d_fullres.median_image_size_in_voxels", None)
    found = summarise_model(open_model(write_folder(tmp_path, described=described)))
    assert found.volume == (8, 12, 12) and "(one window): 1 windows" in found.text()
    with pytest.raises(ValueError, match="legal: a list of 3 values"):
        write_folder(
            tmp_path / "odd",
            described=changed(plans(), "configurations.3d_fullres.median_image_size_in_voxels", [1.0]),
        )


def test_text_of_others_cannot_move_the_cursor(tmp_path):
    labels = {"background": 0, "a\x1b[2J\nfolds": 1, "é": 2}
    text = summarise_model(open_model(write_folder(tmp_path, labels=labels))).text()
    assert "1 a\\x1b[2J\\nfolds, 2 é" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_median_volume_of_any_size_is_counted_not_listed(tmp_path):
    found = summarise_model(open_model(write_folder(tmp_path)), (10**5, 10**5, 10**5))
    assert found.windows == 24999 * 16666**2
