"""The pages of docs/howto: every command and every line of Python on them, as it stands there."""

import json
import re
import shlex
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.bundle_folder import CT, config, write_bundle, write_images
from tests.nnunet_folder import write_case, write_folder
from tests.packages import install

from seglens.cli import app
from seglens.studies.settings import StudySettings

PAGES = Path(__file__).parents[2] / "docs" / "howto"


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of each block of code."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run(page: str) -> None:
    """Run a page's commands and its Python, in their order; read its studies."""
    for language, content in blocks(page):
        if language in ("json", "toml"):  # files of the user, which are laid down before
            continue
        if language == "python":
            exec(compile(content, page, "exec"), {})
            continue
        if language == "yaml":
            Path("study.yaml").write_text(content)
            assert all(own.of_others for own in StudySettings.read(Path("study.yaml")).segmenters.values())
            continue
        for command in content.splitlines():
            program, *arguments = shlex.split(command)
            assert program == "seglens"
            assert app(arguments, exit_on_error=False, print_error=False, result_action="return_value") == 0


def test_nnunet(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path, mirrors=(2,))
    folder.parent.rename(tmp_path / "Dataset501_Glioma")
    written = tmp_path / "Dataset501_Glioma" / folder.name
    written.rename(written.with_name("nnUNetTrainer__nnUNetPlans__3d_fullres"))
    write_case(tmp_path / "images", "case")
    monkeypatch.chdir(tmp_path)
    run("nnunet.md")
    said = capsys.readouterr().out
    assert "hookpoint    module" in said and "(0, 0, 0) (2,)" in said
    assert (tmp_path / "masks/case.nii.gz").is_file()


def test_monai(tmp_path, monkeypatch, capsys):
    write_bundle(tmp_path / "spleen_ct_segmentation")
    steps = [{**step, "pixdim": "@pixdim"} if "pixdim" in step else step for step in CT]
    spacing = "$[1.5, 1.5, 1.5] if @highres else [3.0, 3.0, 3.0]"
    write_bundle(tmp_path / "wholeBody_ct_segmentation", config(steps=steps, highres=True, pixdim=spacing))
    write_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    run("monai.md")
    said = capsys.readouterr().out
    assert "MONAI bundle, UNet, 3-D" in said and "1.5 x 1.5 x 1.5 mm" in said
    assert (tmp_path / "masks/case.nii.gz").is_file()


def test_own_model(tmp_path, monkeypatch, capsys):
    given = dict(reversed(blocks("own-model.md")))  # the first of each language
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "meshnet", raising=False)
    install(tmp_path / "site", "meshnet", given["python"], given["toml"])
    from meshnet import MeshNet

    described = json.loads(given["json"])
    torch.manual_seed(0)
    network = MeshNet(1, 3, **described["settings"])
    alone = described | {
        "settings": described["settings"] | {"n_sequences": 1, "n_classes": 3},
        "hookpoints": {"early": "0"},
    }
    del alone["architecture"]
    for name, own in (("meshnet18", described), ("unnamed", alone)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "seglens.json").write_text(json.dumps(own))
        save_file(network.state_dict(), tmp_path / name / "model.safetensors")
    write_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    run("own-model.md")
    printed = capsys.readouterr().out
    assert "own network, the row meshnet, 3-D" in printed and "own network, a function that you gave, 3-D" in printed
    masks = [(tmp_path / name / "case.nii.gz").read_bytes() for name in ("masks", "masks-of-unnamed")]
    assert masks[0] == masks[1]
