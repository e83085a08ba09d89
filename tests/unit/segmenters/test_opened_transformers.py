import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seglens.activations.volume_tokens import extract_volumes
from seglens.cli import app
from seglens.cohorts.case import Case, Cohort, ImageRef
from seglens.foreign.transformers_config import PictureRule
from seglens.segmenters.opened import open_model
from seglens.segmenters.opened_transformers import shown_picture
from seglens.segmenters.segformer import SegformerConfig, SegformerForSemanticSegmentation
from seglens.studies.segmenter_settings import _architecture_of
from seglens.verbs.data import FileOptions
from seglens.verbs.models import open_, predict

PROCESSOR = {
    "image_processor_type": "SegformerImageProcessor",
    "do_resize": True,
    "size": {"height": 64, "width": 96},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_reduce_labels": True,
}


@pytest.fixture(scope="module")
def original():
    config = SegformerConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
        id2label={0: "wall", 1: "polyp", 2: "tool"},
        label2id={"wall": 0, "polyp": 1, "tool": 2},
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return SegformerForSemanticSegmentation(config).eval()


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hf") / "polyps"
    original.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)


def pil_processor():
    module = pytest.importorskip("transformers.models.segformer.image_processing_pil_segformer")
    return module.SegformerImageProcessorPil(**{k: v for k, v in PROCESSOR.items() if k != "image_processor_type"})


def test_a_picture_is_prepared_as_by_transformers(folder, pixels) -> None:
    theirs = np.asarray(pil_processor()(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0])
    ours = shown_picture(pixels, open_model(folder).plan.picture)
    assert ours.shape == theirs.shape == (3, 64, 96)
    assert np.abs(ours - theirs).max() < 1e-6
    unresized = shown_picture(pixels, PictureRule(None, 1.0, (0.0,) * 3, (1.0,) * 3, False))
    assert (unresized == pixels.transpose(2, 0, 1)).all()


def test_masks_are_those_of_transformers(folder, original, pixels, tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(pixels).save(images / "a.png")
    processor = pil_processor()
    with torch.no_grad():
        output = original(**processor(Image.fromarray(pixels), return_tensors="pt"))
    theirs = processor.post_process_semantic_segmentation(output, target_sizes=[pixels.shape[:2]])[0].numpy()
    given = FileOptions(layout="folder", images="{patient}.png")
    assert predict(images, model=folder, out=tmp_path / "masks", files=given, device="cpu") == 0
    ours = np.asarray(Image.open(tmp_path / "masks" / "a.png"))
    assert len(np.unique(ours)) > 1  # else equal masks would say nothing
    assert (ours == theirs).all()


def test_open_prints_what_it_is(folder, capsys) -> None:
    assert open_(folder, device="cpu") == 0
    text = capsys.readouterr().out
    assert "SegFormer" in text and "1 polyp" in text and "64 x 96" in text and "n + 1" in text
    assert "stage4" in text


def copied(folder: Path, to: Path, **changes) -> Path:
    to.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        own = json.loads((folder / name).read_text()) | changes.get(name.split("_")[0].split(".")[0], {})
        (to / name).write_text(json.dumps(own))
    (to / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return to


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": {"auto_map": {"AutoModel": "evil.Model"}}}, "never run"),
        ({"config": {"model_type": "os.system"}}, "model_type is 'os.system'; legal: segformer"),
        ({"config": {"hidden_act": "relu"}}, "hidden_act is 'relu'; legal: gelu"),
        ({"config": {"turbo": 1}}, "turbo is 1; legal: only known keys"),
        ({"config": {"depths": [1, 1, 1, 10**9]}}, "depths.3"),
        ({"config": {"hidden_sizes": [8, 8, 16, 15]}}, "hidden_sizes has 15"),
        ({"config": {"hidden_sizes": [8, 8, 16, 8192]}}, "weights are not of this network"),
        ({"config": {"id2label": {"0": "a", "2": "b"}}}, "without a gap"),
        ({"preprocessor": {"do_center_crop": True}}, "do_center_crop is True; legal: false"),
        ({"preprocessor": {"resample": 3}}, "resample is 3"),
        ({"preprocessor": {"size": {"shortest_edge": 64}}}, "height and width"),
        ({"preprocessor": {"image_std": [0, 1, 1]}}, "image_std.0"),
        ({"preprocessor": {"size": 10**9}}, "from 32 to 4096"),
        ({"preprocessor": {"_target_": "os.system"}}, "_target_"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_key(folder, tmp_path, changes, words) -> None:
    with pytest.raises(ValueError, match="; ") as caught:
        open_model(copied(folder, tmp_path / "bad", **changes))
    assert words in str(caught.value)


def test_folds_and_volumes_are_refused(folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="neither folds nor settings"):
        open_model(folder, fold=0)
    model = open_model(folder)
    refs = {name: ImageRef(tmp_path / "a.nii.gz") for name in "RGB"}
    case = Case("a", "a", "a", "a", refs, None, {})
    with pytest.raises(ValueError, match="takes colour pictures"):
        model.read(case)
    with pytest.raises(ValueError, match="takes pictures"):
        extract_volumes(model, Cohort("c", (case,), model.sequences, model.labels, {}), "stage1")
    with pytest.raises(ValueError, match="takes colour pictures, and a study"):
        _architecture_of(folder, {})


def test_the_page_of_the_docs(folder, pixels, tmp_path, monkeypatch) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    copied(folder, tmp_path / "polyps")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs/howto/transformers.md").read_text()
    commands = re.findall(r"^seglens (.*)$", page, flags=re.MULTILINE)
    for command in commands:
        arguments = [*shlex.split(command), "--device", "cpu"]
        assert app(arguments, exit_on_error=False, print_error=False, result_action="return_value") == 0
    assert len(commands) == 2 and np.asarray(Image.open("masks/a.png")).shape == pixels.shape[:2]
