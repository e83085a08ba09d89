"""The README's Python runs as printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.study
def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert "foreground" in capsys.readouterr().out


def test_the_tree_names_what_exists():
    tree = re.search(r"```\n(src/seglens/.*?)```", README.read_text(), flags=re.DOTALL)
    assert tree
    root = README.parent
    around = {0: root}
    for line in tree.group(1).splitlines():
        depth = len(line) - len(line.lstrip())
        place = around[depth] / line.split()[0]
        assert place.exists(), line
        around[depth + 2] = place
