"""The pages of docs/howto: every command and every line of Python on them, as it stands there."""

import re
import shlex
from pathlib import Path

from tests.nnunet_folder import write_case, write_folder

from seglens.cli import app

PAGES = Path(__file__).parents[2] / "docs" / "howto"


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of each block of code."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_nnunet(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path, mirrors=(2,))
    folder.parent.rename(tmp_path / "Dataset501_Glioma")
    written = tmp_path / "Dataset501_Glioma" / folder.name
    written.rename(written.with_name("nnUNetTrainer__nnUNetPlans__3d_fullres"))
    write_case(tmp_path / "images", "case")
    monkeypatch.chdir(tmp_path)
    for language, content in blocks("nnunet.md"):
        if language == "python":
            exec(compile(content, "nnunet.md", "exec"), {})
            continue
        for command in content.splitlines():
            program, *arguments = shlex.split(command)
            assert program == "seglens"
            assert app(arguments, exit_on_error=False, print_error=False, result_action="return_value") == 0
    said = capsys.readouterr().out
    assert "hookpoint    module" in said and "(0, 0, 0) (2,)" in said
    assert (tmp_path / "masks/case.nii.gz").is_file()
