"""A whole study by several processes: it ends, and one process finds nothing left to do."""

import json
import shutil

import pytest
import torch
import yaml
from tests.pictures import THIRDS, discs, study_of_pictures

from seglens.artifacts import read_artifact
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runs import Run
from seglens.studies.settings import StudySettings
from seglens.studies.study import run_study

pytestmark = pytest.mark.study
LEARNT = ("segmenter/", "dictionary/")
"""Stages whose result depends on the number of processes, by rounding and by dropout."""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    """Ten patients with six pictures each: a disc, most of them with a bright square in it."""
    folder = tmp_path_factory.mktemp("data")
    draw = discs(0, first_is_empty=True)
    settings = study_of_pictures(folder, "discs", draw, patients=10, pictures=6, fractions=THIRDS) | {
        "segmenters": {"discs": {"cohort": "discs", "steps": 8, "batch_size": 6}},
        "hookpoints": "stage1",
        "dictionaries": {"k": 4, "expansion": 2, "steps": 10, "batch_size": 500, "controls": False},
        "failures": [{"segmenter": "discs", "cohort": "discs", "worst": 4}],
        "atlas_top_k": 2,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_two_processes_leave_what_one_would(tmp_path, study_file, run_ranks):
    out = tmp_path / "out"
    first, second = run_ranks("-m", "seglens.cli", "run", str(study_file), "--out", str(out))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert (second.stdout, second.stderr) == ("", "")
    assert str(out / "report.html") in first.stdout
    hashes, timings = Run(out).hashes, (out / "timings.json").read_text()
    assert set(json.loads(timings)) == set(hashes)
    assert not list((out / "checkpoints").iterdir())

    settings = StudySettings.read(study_file)
    assert run_study(settings, out).hashes == hashes
    assert (out / "timings.json").read_text() == timings  # nothing was computed again

    for stage in hashes:
        if not stage.startswith(LEARNT):
            shutil.rmtree(Run(out).artifact(stage).path)
    assert run_study(settings, out).hashes == hashes  # all of it was, by one process: the same bits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hookpoints": ("stage_2",)},
            r"hookpoint 'stage_2' is in none of the study's .*; did you mean 'stage2'.*give auto or one of st",
        ),
        ({"device": "gpu"}, r"device 'gpu' cannot be used here \(.*\); give cpu, cuda, cuda:1 or auto"),
    ],
)
def test_what_there_is_not_is_refused_before_any_work(tmp_path, study_file, change, message):
    settings = StudySettings.read(study_file).model_copy(update=change)
    for jobs in (1, 2):
        with pytest.raises(ValueError, match=message):
            run_study(settings, tmp_path / "out", jobs=jobs)
    assert not (tmp_path / "out").exists()


def test_without_a_store_the_dictionary_is_the_same(tmp_path, study_file):
    settings = StudySettings.read(study_file)
    runs = [run_study(settings.model_copy(update={"store": kept}), tmp_path / str(kept)) for kept in (True, False)]
    assert runs[0].stages("store/")
    assert not runs[1].stages("store/")
    shards = runs[1].path.glob("artifacts/**/shard_*.safetensors")
    assert {read_artifact(shard.parent).kind for shard in shards} == {"slices"}
    with_store, without = (SparseAutoencoder.read(run.artifact("dictionary/discs")) for run in runs)
    for name, weights in with_store.state_dict().items():
        assert torch.equal(weights, without.state_dict()[name])
    assert runs[0].artifact("quality/discs").document("quality") == runs[1].artifact("quality/discs").document(
        "quality"
    )
    timings = (runs[1].path / "timings.json").read_text()
    run_study(settings.model_copy(update={"store": False}), runs[1].path)
    assert (runs[1].path / "timings.json").read_text() == timings  # nothing was computed again
