"""The recipes of docs/extending.md, each executed as it stands there: one file, one row, nothing else."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from tests.crash import smallest_study
from tests.faults.scans import head, write_nifti
from tests.packages import install
from tests.toys import LABELS, slices_of

import seglens as sl
from seglens.cli import app
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.fit_settings import FitSettings
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.agreement import alignment_metrics
from seglens.diffing.bounds import BoundedSide, Side, bounded
from seglens.diffing.methods import alignment_method
from seglens.diffing.sharing import align
from seglens.runs import Run
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import TrainingSettings, train_segmenter
from seglens.studies.settings import StudySettings
from seglens.studies.table import BUILT_IN

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


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Install the module of a recipe in this process."""

    def laid_down(module: str, heading: str) -> None:
        site, blocks = tmp_path / "site", recipe(heading)
        site.mkdir()
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, module, raising=False)
        install(site, module, blocks["python"], blocks["toml"])

    return laid_down


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


def test_an_architecture(package, tmp_path):
    slices = slices_of(8)
    with pytest.raises(ValueError, match="no architecture 'plain-cnn'"):
        sl.build_segmenter("plain-cnn", sequences=("T1",), labels=LABELS, size=32)
    package("plain_cnn", "An architecture")

    settings = TrainingSettings(steps=2, batch_size=4, architecture_settings={"width": 16})
    fresh = sl.build_segmenter("plain-cnn", sequences=("T1",), labels=LABELS, size=32, settings={"width": 16})
    trained = train_segmenter(slices, architecture="plain-cnn", settings=settings)
    assert trained.hash != fresh.hash
    assert list(trained.hookpoints) == ["first", "second"]
    assert trained.module_at("second") is trained.network[3]
    loaded = Segmenter.load(trained.save(tmp_path / "saved"))
    assert loaded.hash == trained.hash
    assert loaded.architecture["settings"] == {"width": 16}
    images = slices.images(range(2))
    assert torch.equal(loaded.logits(images), trained.logits(images))
    assert trained.logits(images).shape == (2, 3, 1, 32, 32)

    lens = sl.fit_lens(loaded, "second", slices, settings=FitSettings(steps=3))
    assert lens.dictionary.d_in == 16
    assert lens.view(images).grid == (1, 16, 16)
    with pytest.raises(ValueError, match="size 33: plain-cnn needs a multiple of 2"):
        sl.build_segmenter("plain-cnn", sequences=("T1",), labels=LABELS, size=33)
    study = {
        "sequences": ["FLAIR"],
        "cohorts": {"a": {"sources": [{"path": str(tmp_path)}]}},
        "segmenters": {"a": {"cohort": "a", "architecture": "plain-cnn"}},
    }
    assert StudySettings.parse(study, "a study").segmenters["a"].architecture == "plain-cnn"


def test_an_alignment_method(package):
    package("mutual_nearest", "An alignment method")
    method = alignment_method("mutual")
    similarity = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.1], [0.1, 0.3, 0.7]])
    assert method.match(similarity).tolist() == [0, -1, 2]

    def side(seed):
        dictionary = SparseAutoencoder(8, 12, k=2, seed=seed)
        return Side(dictionary, torch.ones(12, dtype=torch.bool), Codes.from_dense(torch.zeros(5, 12)))

    table = alignment_metrics(side(0).dictionary, side(1).dictionary, tau=0.2, n_trials=2)
    rows = {row["filter"]: row for row in table.filter(table["method"] == "mutual").to_dicts()}
    assert set(rows) == {"none", "tau", "shared"}
    assert rows["none"]["collision"] == 0.0  # each has one nearest: no two share a partner
    assert 0 < rows["none"]["n"] < 12
    assert 0 <= rows["none"]["stability"] <= 1

    # one side came out the same again, the other did not
    source, target = BoundedSide(side(0), side(1), side(0)), BoundedSide(side(2), side(3), side(4))
    found = bounded(method, source, target, 0.2)

    def share(one, other):
        pairs = align(side(one).dictionary, side(other).dictionary, tau=0.2, method="mutual").pairs
        return pairs["shared"].sum() / 12

    assert found.method == "mutual"
    assert found.share == pytest.approx(share(0, 2))
    assert found.floor == pytest.approx((share(0, 3) + share(2, 1)) / 2)
    assert found.ceiling == pytest.approx((1.0 + share(2, 4)) / 2)
    assert share(0, 0) == 1.0


def test_your_own_module(tmp_path):
    blocks = recipe("Your own module")
    assert set(blocks) == {"python"}  # no row
    code: dict[str, Any] = {"__name__": "two_scales"}
    exec(compile(blocks["python"], str(PAGE), "exec"), code)
    network = code["TwoScales"]()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    segmenter = code["wrapped"](tmp_path / "weights.safetensors")
    slices = slices_of(8, sequences=("T1c", "FLAIR"))
    assert segmenter.predict(slices.images(range(2))).shape == (2, 1, 32, 32)
    assert segmenter.preprocessing.foreground == "brain"

    lens, atlas = code["look"](segmenter, slices, slices)
    assert (lens.hookpoint, lens.dictionary.d_in) == ("coarse", 24)
    assert atlas.n_latents == lens.dictionary.n_latents
    assert atlas.table["firing_rate"].max() > 0
    loaded = Segmenter.load(segmenter.save(tmp_path / "saved"), network=code["TwoScales"]())
    assert loaded.hash == segmenter.hash
    assert loaded.preprocessing == segmenter.preprocessing
    with pytest.raises(ValueError, match="give network="):
        Segmenter.load(tmp_path / "saved")
    with pytest.raises(ValueError, match="its sequences are T1, the segmenter's T1c, FLAIR"):
        code["look"](segmenter, slices_of(4), slices)


@pytest.fixture
def installed(tmp_path):
    """Run the command where the analysis of the recipe is installed."""
    site, blocks = tmp_path / "site", recipe("An analysis")
    site.mkdir()
    install(site, "class_counts", blocks["python"], blocks["toml"])
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "seglens.cli", *map(str, arguments)]
        return subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    return start


@pytest.fixture
def study(tmp_path):
    """A very small study with two segmenters that asks for the analysis."""
    settings = smallest_study(tmp_path / "data").model_dump(mode="json") | {"steering": [], "failures": []}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(settings | {"class_counts": {"firing": 0.0}}), encoding="utf-8")
    return path


def written(out: Path) -> dict[str, int]:
    """When each finished artifact of a run was written."""
    manifests = [path for path in out.glob("artifacts/*/manifest.json") if not path.parent.name.startswith(".")]
    return {path.parent.name: path.stat().st_mtime_ns for path in manifests}


@pytest.mark.processes
def test_an_analysis_gets_verb_resume_worker_summary_and_section(installed, study, tmp_path):
    out = tmp_path / "out"
    killed = installed("run", study, "--out", out, "--jobs", 2)
    while killed.poll() is None and not list(out.glob("artifacts/class_counts-*")):
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    before = written(out)
    assert before
    done = installed("run", study, "--out", out, "--jobs", 2)
    said = done.communicate()
    assert done.returncode == 0, said
    run = Run(out)
    assert run.stages("class_counts/") == ["class_counts/first", "class_counts/second"]
    assert before.items() <= written(out).items()  # what was finished is not done again
    summary = json.loads((run.path / "summary.json").read_text())
    live = {one["name"]: one["n_latents"] for one in summary["dictionaries"]}
    assert summary["class_counts"] == [{"of": name, "latents": live[name]} for name in ("first", "second")]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<div id="class_counts">' in page
    assert "Count the latents that go with each class." in page
    finished = run.hashes
    verb = installed("class_counts", study, "first", "--out", out)
    assert verb.communicate()[0] == ""
    assert verb.returncode == 0
    assert Run(out).hashes == finished


@pytest.mark.processes
def test_the_verb_is_listed_and_a_wrong_block_is_refused(installed, study):
    listed = installed("--help").communicate()[0]
    assert re.search(r"class_counts +Count the latents that go with each\s", listed)
    settings = yaml.safe_load(study.read_text())
    settings |= {"class_counts": {"firing": "often"}, "class_count": {}}
    study.write_text(yaml.safe_dump(settings))
    refused = installed("run", study)
    said = refused.communicate()[1]
    assert refused.returncode == 2
    assert "class_counts.firing: Input should be a valid number" in said
    assert "class_count: unknown; did you mean 'class_counts'" in said


def test_the_page_tells_every_analysis():
    rows = [
        f"| {row.name} | {row.verb_name or '–'} | {row.about} | {', '.join(row.after) or '–'} |" for row in BUILT_IN
    ]
    assert "\n".join(rows) in PAGE.read_text(encoding="utf-8")


@pytest.mark.processes
def test_the_summary_holds_what_the_run_found(installed, study, tmp_path):
    out = tmp_path / "out"
    verb = installed("class_counts", study, "second", "--out", out)
    said = verb.communicate()
    assert verb.returncode == 0, said
    books = json.loads((out / "run.json").read_text())
    assert books["study"]["class_counts"] == {"firing": 0.0}
    assert Run(out).stages("class_counts/") == ["class_counts/second"]
