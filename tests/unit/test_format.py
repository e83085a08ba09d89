"""docs/format.md against what a run leaves on disk."""

import json
import re
from pathlib import Path

from seglens.artifacts import FORMAT, MANIFEST
from seglens.runs import STAGE_FORMAT
from seglens.studies.table import BUILT_IN

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


def section(heading):
    """The text of a section."""
    return re.split(r"^## ", PAGE.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def files_by_kind():
    """Kind of artifact to the names of files that the page gives it; a row without a kind belongs to the one above."""
    files: dict[str, set[str]] = {}
    kind = ""
    for first, second in re.findall(r"^\|([^|]*)\|([^|]*)\|", section("The kinds of a study"), flags=re.MULTILINE):
        kind = "".join(re.findall(r"`([^`]+)`", first)) or kind
        if kind:
            files.setdefault(kind, set()).update(re.findall(r"`([^`]+)`", second))
    return files


def test_every_kind_and_file_of_a_run_is_on_the_page(finished):
    told, walked = files_by_kind(), set()
    for manifest in sorted(finished.path.glob(f"artifacts/*/{MANIFEST}")):
        kind = json.loads(manifest.read_text())["kind"]
        for path in sorted(manifest.parent.iterdir()):
            name = re.sub(r"^shard_\d+", "shard_00000", path.name)
            if name != MANIFEST:
                assert name in told[kind], f"{kind}: {name}"
                walked.add((kind, name))
    kinds = {kind for kind, _ in walked}
    # pictures are no phantoms, and the study asks for no verdict and no circuits
    assert set(told) - kinds == {"phantom", "verdict", "circuits"}
    assert {(kind, name) for kind in kinds for name in told[kind]} == walked


def test_every_entry_of_a_run_s_folder_is_on_the_page(finished):
    told = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|([^|]*)\|", section("A run"), flags=re.MULTILINE))))
    for path in finished.path.iterdir():
        assert path.name + "/" * path.is_dir() in told
    assert {"artifacts/", "run.json", "timings.json", "summary.json", "report.html"} <= {
        path.name + "/" * path.is_dir() for path in finished.path.iterdir()
    }
    for document in ("run.json", "summary.json"):
        row = next(line for line in section("A run").splitlines() if line.startswith(f"| `{document}`"))
        for key in json.loads((finished.path / document).read_text()):
            assert f"`{key}`" in row, f"{document}: {key}"


def test_every_key_of_a_manifest_is_on_the_page(finished):
    told = set(re.findall(r"^\| `(\w+)` \|", section("An artifact"), flags=re.MULTILINE))
    for path in finished.path.glob(f"artifacts/*/{MANIFEST}"):
        manifest = json.loads(path.read_text())
        assert set(manifest) == told
        for key in manifest["computed_by"]:
            assert f"`{key}`" in section("An artifact")


def test_the_page_has_the_versions_and_every_analysis_of_a_study():
    assert f"The format of an artifact's folder is {FORMAT} " in PAGE
    assert f"The format of a run\nis {STAGE_FORMAT} " in PAGE
    assert set(files_by_kind()) == {row.kind or row.name for row in BUILT_IN}
