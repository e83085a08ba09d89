"""The README's Python runs as printed."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


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
    places = [line.split()[0] for line in tree.group(1).splitlines() if line]
    folder = root
    for line, place in zip(tree.group(1).splitlines(), places, strict=True):
        folder = root / "src" / "seglens" if line.startswith("  ") else root
        assert (folder / place).exists(), place
