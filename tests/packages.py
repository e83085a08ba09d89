"""Packages of users, laid down as pip would."""

import tomllib
from pathlib import Path


def install(site: Path, module: str, code: str, row: str) -> None:
    """Lay down what pip would of a package of one module: its file, and its rows of entry points."""
    (site / f"{module}.py").write_text(code, encoding="utf-8")
    about = site / f"{module}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    groups = tomllib.loads(row)["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in rows.items())
        for group, rows in groups.items()
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
