"""The recipes of docs/extending.md, each executed as it stands there: one file, one row, nothing else."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.faults.scans import head, write_nifti

from seglens.cli import app
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions
from seglens.studies.settings import StudySettings

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def recipe(heading: str) -> Mapping[str, str]:
    """The code blocks of a section, by language.

    Raises:
        ValueError: no such section, or one with several blocks of a language.
    """
    sections = re.split(r"^## (.+)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = dict(zip(sections[1::2], sections[2::2], strict=True))
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", named[heading], flags=re.MULTILINE | re.DOTALL)
    if len(dict(blocks)) < len(blocks):
        raise ValueError(f"{heading}: several blocks of one language; one file and one row are enough")
    return dict(blocks)


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


def test_a_layout_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "hospital"
    for number in range(3):
        image, mask = head(seed=number)
        write_nifti(folder / f"scans/s{number}.nii.gz", image)
        write_nifti(folder / f"lesions/s{number}.nii.gz", (mask > 0).astype(np.uint8))
    with pytest.raises(ValueError, match="looks like none of the layouts"):
        read_cohort(folder)

    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    blocks = recipe("A layout of data")
    install(tmp_path / "site", "stroke_layout", blocks["python"], blocks["toml"])

    assert app(["check", str(folder)], exit_on_error=False, result_action="return_value") == 0
    assert "hospital: 3 cases, nothing wrong" in capsys.readouterr().out
    cohort = read_cohort(folder, SourceOptions(layout="stroke", patient="s[01]|s2"))
    assert [case.patient for case in cohort.cases] == ["s0", "s1", "s2"]
    assert (cohort.sequences, cohort.labels) == (("FLAIR",), {0: "background", 1: "infarct"})
    source = {"path": str(folder), "layout": "stroke"}
    study = {"sequences": ["FLAIR"], "cohorts": {"a": {"sources": [source]}}, "segmenters": {"a": {"cohort": "a"}}}
    assert StudySettings.parse(study, "a study").cohorts["a"].sources[0].layout == "stroke"
    (folder / "lesions/s1.nii.gz").unlink()
    assert app(["check", str(folder)], exit_on_error=False, result_action="return_value") == 3
    assert "[no_mask]" in capsys.readouterr().out
