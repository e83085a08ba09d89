"""A study whose segmenters are a model of others: its windows, every analysis, the report, the explorer."""

import json

import numpy as np
import pytest
from safetensors.numpy import load
from tests.nnunet_folder import PATCH, write_cohort, write_folder

from seglens.cohorts.slice_set import SliceSet
from seglens.runs import Run
from seglens.segmenters.opened import open_model
from seglens.segmenters.segmenter import Segmenter
from seglens.studies.cohorts import cohort_of
from seglens.studies.report import write_report
from seglens.studies.settings import SettingsError, StudySettings
from seglens.studies.study import run_study

pytestmark = pytest.mark.study
FRACTIONS = {"train": 0.5, "val": 0.2, "test": 0.3}


def study_file(folder, **changes):
    """A study of two hospitals and one network, opened for each."""
    cohorts = {name: {"sources": [{"path": name}], "fractions": FRACTIONS} for name in ("near", "far")}
    model = str(next((folder / "model").rglob("plans.json")).parent)
    content = {
        "sequences": ["T1", "FLAIR"],
        "cohorts": cohorts,
        "segmenters": {name: {"cohort": name, "model": model, "fold": 0} for name in cohorts},
        "hookpoints": "encoder1",
        "minimum_effect": 0.0,
        "dictionaries": {"steps": 10, "batch_size": 64, "k": 2, "expansion": 2},
        "steering": [{"segmenter": "near", "cohort": "far", "label": "edema"}],
        "failures": [{"segmenter": "near", "cohort": "near", "worst": 2}],
        "atlas_top_k": 2,
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(content | changes))
    return path


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals")
    write_folder(folder / "model")
    for seed, name in enumerate(("near", "far")):
        write_cohort(folder / name, name, 5, seed=100 * seed)
    return folder


@pytest.fixture(scope="module")
def done(hospitals):
    run = run_study(StudySettings.read(study_file(hospitals)), hospitals / "run")
    write_report(run)
    return run


def test_the_segmenter_is_the_one_that_is_opened_in_python(done, hospitals):
    opened = open_model(next((hospitals / "model").rglob("plans.json")).parent)
    stored = Segmenter.read(done.artifact("segmenter/near"))
    assert stored.hash == opened.segmenter.hash
    images = SliceSet.read(done.artifact("slices/near")).images([0])
    assert images.shape[2:] == PATCH
    assert (stored.predict(images) == opened.segmenter.predict(images)).all()


def test_whole_volumes_are_scored_as_the_models_own_software_segments_them(done, hospitals):
    opened = open_model(next((hospitals / "model").rglob("plans.json")).parent)
    table = done.artifact("volume_scores/near@far").table("volumes").filter(region="edema")
    cohort = cohort_of(done, "far")
    for row in table.iter_rows(named=True):
        volume = opened.read(cohort.case(row["volume"]), with_mask=True)
        said, true = opened.segment(volume) == 1, volume.mask == 1
        assert [row["tp"], row["predicted"], row["truth"]] == [(said & true).sum(), said.sum(), true.sum()]
        assert row["surface_dice"] is not None


def test_every_analysis_is_done_and_shown(done):
    kinds = {stage.partition("/")[0] for stage in done.stages()}
    assert kinds >= {"segmenter", "slices", "effects", "dictionary", "atlas", "alignment", "steering", "failures"}
    page = (done.path / "report.html").read_text()
    assert "its plane" in page and "opened from" in page
    atlas = done.artifact("atlas/near").table("latents")
    assert atlas["depth"].null_count() == atlas.height  # a window's border is no surface
    assert atlas["centroid_column"].null_count() < atlas.height


def test_the_explorer_shows_a_plane_of_a_window(done):
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from seglens.explorer.access import Guard
    from seglens.explorer.app import create_app

    app = create_app(done.path)
    guard = Guard(app)
    with TestClient(guard, base_url="http://127.0.0.1:8000", headers={"origin": "http://127.0.0.1:8000"}) as client:
        client.get(f"/?token={guard.token}")
        slices = SliceSet.read(done.artifact("slices/near"))
        masks = slices.masks([0])[0]
        number = int((masks > 0).sum((1, 2)).argmax())
        arrays = load(client.get("/api/cohorts/near/slices/0").content)
        assert np.array_equal(arrays["mask"], masks[number].numpy())
        said = Segmenter.read(done.artifact("segmenter/near")).predict(slices.images([0]))[0, number]
        arrays = load(client.get("/api/segmenters/near/slices/near/0").content)
        assert np.array_equal(arrays["mask"], said.numpy())
        for kind in ("top", "middle", "random"):
            answer = client.get(f"/api/segmenters/near/latents/0/examples?kind={kind}")
            assert answer.status_code == 200, answer.text


def test_a_finished_run_does_nothing_again(done, hospitals):
    before = {path: path.stat().st_mtime_ns for path in (done.path / "artifacts").rglob("manifest.json")}
    run_study(StudySettings.read(study_file(hospitals)), done.path)
    assert {path: path.stat().st_mtime_ns for path in (done.path / "artifacts").rglob("manifest.json")} == before


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"segmenters": {"a": {"cohort": "near", "model": "MODEL"}, "b": {"cohort": "near", "steps": 1}},
          "steering": [], "failures": []}, "a is shown windows .* b slices .* studies of their own"),
        ({"segmenters": {"near": {"cohort": "near", "model": "MODEL", "fold": 3}}, "steering": [], "failures": []},
         "fold 3"),
        ({"segmenters": {"near": {"cohort": "near", "steps": 3, "fold": 0}}, "steering": [], "failures": []},
         "fold: no model of others is given"),
        ({"segmenters": {"near": {"cohort": "near", "architecture": "nnunet"}}, "steering": [], "failures": []},
         "nnunet needs plan, n_heads.* model: PATH"),
        ({"hookpoints": "encoder9"}, "encoder9.*encoder0"),
    ],
)  # fmt: skip
def test_what_cannot_be_one_study_is_refused_at_its_file(hospitals, tmp_path, changes, match):
    model = str(next((hospitals / "model").rglob("plans.json")).parent)
    text = study_file(hospitals, **changes).read_text().replace('"MODEL"', json.dumps(model))
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=f"(?s){match}"):
        StudySettings.read(path)


def test_a_study_of_other_sequences_says_what_the_model_takes(hospitals, tmp_path):
    settings = StudySettings.read(study_file(hospitals, sequences=["T1"]))
    with pytest.raises(ValueError, match=r"sequences T1, the model .* T1, FLAIR"):
        run_study(settings, tmp_path / "run")
    assert not [stage for stage in Run(tmp_path / "run").stages() if stage.startswith("segmenter/")]
