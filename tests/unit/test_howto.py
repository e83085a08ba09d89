"""The pages of docs/howto: every command and every line of Python on them, as it stands there."""

import re
import shlex
from pathlib import Path

from tests.bundle_folder import CT, config, write_bundle, write_images
from tests.nnunet_folder import write_case, write_folder

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
