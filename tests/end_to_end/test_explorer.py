"""The explorer's API over a finished quick demo: what is shown is what the run holds and what the network says."""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Semaphore

import numpy as np
import polars as pl
import pytest
import torch

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from safetensors.numpy import load

from seglens import cli
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.records import PairRecord
from seglens.explorer import zeroing
from seglens.explorer.access import Guard
from seglens.explorer.app import AT_ONCE, create_app
from seglens.explorer.opened import Opened
from seglens.explorer.serving import explore
from seglens.runs import Run
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import LatentAtlas
from seglens.steering.edits import LatentEdit, steer

HERE = "http://127.0.0.1:8000"
MAX_WAIT_SECONDS = 300


@pytest.fixture(scope="module")
def client(quick_run):
    guard = Guard(create_app(quick_run.path))
    with TestClient(guard, base_url=HERE, headers={"origin": HERE}) as opened:
        assert opened.get(f"/?token={guard.token}").status_code == 200
        yield opened
    (quick_run.path / "names.json").unlink(missing_ok=True)


def packed(answer):
    assert answer.status_code == 200, answer.text
    length = int.from_bytes(answer.content[:8], "little")
    about = json.loads(json.loads(answer.content[8 : 8 + length])["__metadata__"]["about"])
    return load(answer.content), about


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished atlas"):
        create_app(tmp_path)


def test_a_port_that_is_none_is_refused(quick_run):
    with pytest.raises(ValueError, match="port 65536 cannot be used: legal are 0 to 65535"):
        explore(quick_run, port=65536)


def test_the_page_and_its_script_are_served(client):
    for address in ("/", "/latents/adult/3", "/case/pediatric/1"):
        assert "/static/explorer.js" in client.get(address).text
    assert client.get("/static/explorer.js").status_code == 200
    assert client.get("/static/../names.py").status_code in (200, 404)
    assert "GivenName" not in client.get("/static/..%2f..%2fnames.py").text


def test_the_table_holds_every_latent_once(client, quick_run):
    arrays, meta = packed(client.get("/api/segmenters/adult/latents"))
    atlas = LatentAtlas.read(quick_run.artifact("atlas/adult"))
    assert arrays["latent"].tolist() == list(range(atlas.n_latents))
    np.testing.assert_allclose(arrays["mass"], atlas.table["mass"].to_numpy(), rtol=1e-6)
    words = meta["columns"]["name"]["words"]
    names = [words[code - 1] if code else None for code in arrays["name"].tolist()]
    assert names == atlas.table["name"].to_list()


def test_a_latent_with_its_examples_neighbours_and_partners(client, quick_run):
    page = client.get("/api/segmenters/adult/latents/2").json()
    assert page["facts"]["latent"] == 2
    assert 2 not in [other["latent"] for other in page["neighbours"]]
    assert {partner["segmenter"] for partner in page["partners"]} <= {"pediatric"}
    atlas = LatentAtlas.read(quick_run.artifact("atlas/adult"))
    strongest = int(atlas.table["mass"].arg_max())
    arrays, meta = packed(client.get(f"/api/segmenters/adult/latents/{strongest}/examples"))
    _, maps = atlas.exemplars_of(strongest)
    np.testing.assert_allclose(arrays["maps"], maps[: len(arrays["maps"]), 0].float(), atol=2e-3)
    assert meta["scale"] == pytest.approx(float(maps.max()))
    for kind in ("middle", "random"):
        arrays, meta = packed(client.get(f"/api/segmenters/adult/latents/{strongest}/examples?kind={kind}"))
        assert len(arrays["images"]) == len(meta["slices"]) > 0
    for sequence in (-1, 99):
        answer = client.get(f"/api/segmenters/adult/latents/{strongest}/examples?sequence={sequence}")
        assert answer.status_code == 404 and "has sequences 0 to" in answer.json()["detail"]
    strength = client.get(f"/api/segmenters/adult/latents/{strongest}/strength").json()
    assert sum(strength["counts"]) == strength["fires_in"] <= strength["of"]
    survey = client.get("/api/segmenters/adult/latents/survey").json()
    assert survey == {"done": strength["of"], "of": strength["of"]}
    assert client.get("/api/segmenters/nobody/latents/survey").status_code == 404


def test_who_waits_for_the_survey_keeps_nobody_else_waiting(quick_run, monkeypatch):
    app = create_app(quick_run.path)
    arrived, go_on, surveyed = Semaphore(0), Event(), Opened.surveyed

    @app.middleware("http")
    async def counted(request, call_next):
        arrived.release()
        return await call_next(request)

    def slow(*args):
        assert go_on.wait(MAX_WAIT_SECONDS)
        return surveyed(*args)

    monkeypatch.setattr(Opened, "surveyed", slow)
    waiting = [f"latents/{latent}/strength" for latent in range(AT_ONCE)]
    waiting += ["map?of=codes", *(f"latents/{latent}/examples?kind=middle" for latent in range(AT_ONCE))]
    with TestClient(app, base_url=HERE) as client, ThreadPoolExecutor(len(waiting) + 1) as pool:
        try:
            pending = [pool.submit(client.get, f"/api/segmenters/adult/{path}") for path in waiting]
            for _ in waiting:
                assert arrived.acquire(timeout=MAX_WAIT_SECONDS)
            overview = pool.submit(client.get, "/api/overview").result(MAX_WAIT_SECONDS)
            assert overview.status_code == 200
            assert not any(answer.done() for answer in pending)
        finally:
            go_on.set()
        assert [answer.result().status_code for answer in pending] == [200] * len(waiting)


def test_the_mask_is_that_of_the_steered_network_bit_for_bit(client, quick_run):
    segmenter = Segmenter.read(quick_run.artifact("segmenter/adult"))
    dictionary = SparseAutoencoder.read(quick_run.artifact("dictionary/adult"))
    slices = SliceSet.read(quick_run.artifact("slices/pediatric"))
    row, latents = 4, (1, 5, 9)
    untouched, about = packed(client.get(f"/api/segmenters/adult/slices/pediatric/{row}"))
    assert torch.equal(torch.from_numpy(untouched["mask"].copy()), segmenter.predict(slices.images([row]))[0, 0])
    assert {entry["label"] for entry in about["classes"]} == {"necrotic_core", "edema", "enhancing"}
    for value in (0.0, 1.0, 6.0):
        asked = {"cohort": "pediatric", "row": row, "edits": [{"latents": latents, "value": value}]}
        arrays, about = packed(client.post("/api/segmenters/adult/steer", json=asked))
        edit = LatentEdit(dictionary.hookpoint, dictionary.hash, latents, "multiply", value)
        with steer(Lens(segmenter, dictionary), edit):
            expected = segmenter.predict(slices.images([row]))[0, 0]
        assert torch.equal(torch.from_numpy(arrays["mask"].copy()), expected)
        assert LatentEdit.from_description(about["edits"][0]) == edit
        assert about["changed"] == int((arrays["mask"] != untouched["mask"]).sum())


def test_effects_on_dice_are_those_of_whole_passes(client, quick_run):
    segmenter = Segmenter.read(quick_run.artifact("segmenter/adult"))
    dictionary = SparseAutoencoder.read(quick_run.artifact("dictionary/adult"))
    slices = SliceSet.read(quick_run.artifact("slices/adult"))
    address = "/api/segmenters/adult/effects"
    strongest = int(LatentAtlas.read(quick_run.artifact("atlas/adult")).table["mass"].arg_max())
    _, meta = packed(client.get("/api/segmenters/adult/latents"))
    unseen = [row for row, split in enumerate(slices.index["split"]) if split in {"val", "test"}]
    n = meta["compared_on"]
    rows = [unseen[place * len(unseen) // n] for place in range(n)]
    assert n == min(len(unseen), 16)

    def dice():
        said, true = segmenter.predict(slices.images(rows)), slices.masks(rows)
        found = {}
        for value, label in slices.labels.items():
            both = int((said == value).sum() + (true == value).sum())
            found[label] = 2 * int(((said == value) & (true == value)).sum()) / both if both and value else None
        return found

    with steer(Lens(segmenter, dictionary), LatentEdit(dictionary.hookpoint, dictionary.hash, (strongest,), "zero")):
        after = dice()
    before = dice()
    answer = client.get(address, params={"latents": [strongest, 2]}).json()
    assert [entry["latent"] for entry in answer] == [strongest, 2]
    for label in set(slices.labels.values()) - {"background"}:
        expected = None if before[label] is None or after[label] is None else after[label] - before[label]
        assert answer[0]["dice"][label] == pytest.approx(expected)
    arrays, _ = packed(client.get("/api/segmenters/adult/latents"))
    measured = np.flatnonzero(~np.isnan(arrays["effect_foreground"]))
    assert {strongest, 2} <= set(measured.tolist()) and len(measured) < len(arrays["latent"])
    exported = pl.read_parquet(io.BytesIO(client.get("/api/segmenters/adult/export?form=parquet").content))
    assert exported["effect_foreground"][strongest] == pytest.approx(answer[0]["dice"]["foreground"])
    assert {strongest, 2} <= set(packed(client.get("/api/segmenters/adult/latents"))[1]["measured"])
    assert client.get(address, params={"latents": list(range(5))}).status_code == 422
    assert client.get(address, params={"latents": 99999}).status_code == 404


def test_what_two_ask_for_at_once_is_measured_once(quick_run, monkeypatch):
    measured, sweep = [], zeroing.sweep

    def counted(lens, slices, edits, *, batch_size):
        measured.extend(edits)
        return sweep(lens, slices, edits, batch_size=batch_size)

    monkeypatch.setattr(zeroing, "sweep", counted)
    with TestClient(create_app(quick_run.path), base_url=HERE) as client, ThreadPoolExecutor(2) as pool:
        address = "/api/segmenters/adult/effects?latents=3&latents=5"
        one, other = pool.map(client.get, [address, address])
    assert one.json() == other.json()
    assert sorted(measured) == ["3", "5"]


def test_a_latent_without_an_effect_counts_as_measured(quick_run, monkeypatch):
    monkeypatch.setattr(zeroing, "_dice", lambda *_: [{"foreground": None}, {"foreground": None}])
    with TestClient(create_app(quick_run.path), base_url=HERE) as client:
        assert packed(client.get("/api/segmenters/adult/latents"))[1]["measured"] == []
        client.get("/api/segmenters/adult/effects?latents=3")
        arrays, meta = packed(client.get("/api/segmenters/adult/latents"))
    assert np.isnan(arrays["effect_foreground"][3])
    assert meta["measured"] == [3]


def test_baselines_are_rules_on_the_untouched_logits(client):
    place = {"cohort": "pediatric", "row": 4}
    never = {**place, "rule": "logit_bias", "label": "edema", "value": -1000.0}
    arrays, about = packed(client.post("/api/segmenters/adult/baseline", json=never))
    assert next(entry for entry in about["after"] if entry["label"] == "edema")["said"] == 0
    all_uncertain = {**place, "rule": "entropy", "value": 0.0}
    arrays, _ = packed(client.post("/api/segmenters/adult/baseline", json=all_uncertain))
    assert not arrays["mask"].any()
    packed(client.post("/api/segmenters/adult/baseline", json={**place, "rule": "largest_component"}))
    wrong = {**place, "rule": "logit_bias", "label": "oedema"}
    assert client.post("/api/segmenters/adult/baseline", json=wrong).status_code == 404


def test_what_fires_at_a_pixel_is_what_the_heat_maps_say(client):
    arrays, _ = packed(client.get("/api/cohorts/pediatric/slices/4"))
    assert arrays["images"].shape == (2, 64, 64)
    found = client.get("/api/segmenters/adult/slices/pediatric/4/at/30/33").json()
    assert found == sorted(found, key=lambda firing: -firing["value"])
    assert found
    for firing in found[:3]:
        heat, _ = packed(client.get(f"/api/segmenters/adult/slices/pediatric/4/heat/{firing['latent']}"))
        high, wide = heat["map"].shape
        assert heat["map"][30 * high // 64, 33 * wide // 64] == pytest.approx(firing["value"])
    assert client.get("/api/segmenters/adult/slices/pediatric/4/at/30/64").json() == []


def test_scored_slices_have_the_dice_of_the_scores(client, quick_run):
    cohort = client.get("/api/cohorts/pediatric?segmenter=adult").json()
    scored = {entry["row"]: entry["dice"] for entry in cohort["slices"] if entry["dice"] is not None}
    assert {cohort["slices"][row]["split"] for row in scored} == {"test"}
    row = max(scored)
    _, about = packed(client.get(f"/api/segmenters/adult/slices/pediatric/{row}"))
    dice = [1.0 if entry["dice"] is None else entry["dice"] for entry in about["classes"]]
    assert scored[row] == pytest.approx(sum(dice) / len(dice))


def test_a_given_name_is_kept_shown_and_taken_back(client, quick_run):
    address = "/api/segmenters/adult/latents/3/name"
    name = "=cmd()<script>alert(1)</script>"
    kept = client.put(address, json={"name": name, "who": "a reader", "confidence": 0.4}).json()
    assert kept["when"].endswith("+00:00")
    assert client.get("/api/segmenters/adult/latents/3").json()["given"] == kept
    assert packed(client.get("/api/segmenters/adult/latents"))[1]["given"] == {"3": name}
    csv = client.get("/api/segmenters/adult/export?form=csv")
    assert "attachment" in csv.headers["content-disposition"]
    assert pl.read_csv(io.BytesIO(csv.content))["given_name"][3] == f"'{name}"  # no formula for a spreadsheet
    table = pl.read_parquet(io.BytesIO(client.get("/api/segmenters/adult/export?form=parquet").content))
    assert table["given_name"][3] == name and table["given_confidence"][3] == 0.4
    assert len(json.loads(client.get("/api/segmenters/adult/export?form=json").content)) == table.height
    assert client.put(address, json={"name": ""}).status_code == 422
    assert client.put(address, json={"name": "x" * 121}).status_code == 422
    assert client.delete(address).status_code == 204
    assert client.get("/api/segmenters/adult/latents/3").json()["given"] is None
    assert Run(quick_run.path).hashes == quick_run.hashes  # the run itself is as it was


def test_the_map_places_every_latent(client, quick_run):
    weights = SparseAutoencoder.read(quick_run.artifact("dictionary/adult")).W_dec.detach().numpy()
    arrays, about = packed(client.get("/api/segmenters/adult/map"))
    centred = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    centred = centred - centred.mean(0)
    assert arrays["places"].shape == (len(weights), 2)
    captured = np.square(arrays["places"]).sum() / np.square(centred).sum()
    assert about["explained"] == pytest.approx(captured, rel=1e-4)
    assert np.isfinite(packed(client.get("/api/segmenters/adult/map?of=codes"))[0]["places"]).any()


def test_pairs_are_the_run_s_in_either_direction(client, quick_run):
    forward = client.get("/api/compare/adult/pediatric").json()
    backward = client.get("/api/compare/pediatric/adult").json()
    table = quick_run.artifact("alignment/adult~pediatric").table("functional")
    assert [pair["source"] for pair in forward["pairs"]] == table["source_latent"].to_list()
    assert [pair["target"] for pair in backward["pairs"]] == table["source_latent"].to_list()
    assert forward["unmatched_source"] == backward["unmatched_target"]


def test_partners_by_weight_are_the_alignment_s(client, quick_run):
    stage = quick_run.artifact("alignment/adult~pediatric")
    shared = stage.table("pairs").filter("shared")
    expected = dict(shared.select("source_latent", "target_latent").iter_rows())
    assert stage.record("pair", PairRecord).comparable_by_weights
    arrays, meta = packed(client.get("/api/segmenters/adult/latents"))
    assert meta["partners"] == ["pediatric"]
    found = {latent: int(other) for latent, other in enumerate(arrays["partner_pediatric"]) if not np.isnan(other)}
    assert found == expected
    backward, _ = packed(client.get("/api/segmenters/pediatric/latents"))
    assert all(backward["partner_adult"][other] == latent for latent, other in found.items())
    assert "kind" not in arrays  # of two segmenters nothing is called universal


def test_proposed_edits_are_those_of_the_run_s_stages(client, quick_run):
    dictionary = SparseAutoencoder.read(quick_run.artifact("dictionary/adult"))
    stages = [quick_run.artifact(stage) for stage in quick_run.stages("steering/")]
    tested = [entry for stage in stages for entry in stage.document("results")]
    fixed = [entry["edit_description"] for entry in tested if entry["alpha"] is not None and not entry["is_identity"]]
    own = [edit for edit in fixed if edit["dictionary_hash"] == dictionary.hash and edit["mode"] == "difference"]
    found = client.get("/api/segmenters/adult/proposals").json()
    steering = [proposal for proposal in found if proposal["stage"].startswith("steering/")]
    assert {(tuple(edit["latents"]), edit["operation"], edit["value"]) for edit in own} == {
        (tuple(proposal["latents"]), proposal["operation"], proposal["value"]) for proposal in steering
    }
    for proposal in found:
        edit = {name: proposal[name] for name in ("latents", "operation", "value", "where")}
        packed(client.post("/api/segmenters/adult/steer", json={"cohort": "pediatric", "row": 4, "edits": [edit]}))


def test_chosen_latents_are_saved_as_one_page_without_scripts(client, quick_run, tmp_path, monkeypatch):
    def saved(name, latents):
        command = ["seglens", "explore", str(quick_run.path), "--save", str(tmp_path / name), "--latents", latents]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code

    address = "/api/segmenters/adult/latents/3/name"
    client.put(address, json={"name": "<script>alert(1)</script>"})
    assert saved("a.html", "adult:3,5") == cli.DONE
    text = (tmp_path / "a.html").read_text()
    assert "Latent 3 of adult" in text and "Latent 5 of adult" in text
    assert "<script" not in text and "&lt;script&gt;" in text
    assert 'src="http' not in text and "url(http" not in text
    client.delete(address)
    for wrong in ("adult", "adult:x", "nobody:1", "adult:99999"):
        assert saved("b.html", wrong) != cli.DONE
    assert not (tmp_path / "b.html").exists()


@pytest.mark.parametrize(
    "address",
    [
        "segmenters/nobody/latents",
        "segmenters/adult/latents/99999",
        "segmenters/adult/latents/-1",
        "cohorts/nowhere",
        "cohorts/adult/slices/99999",
        "segmenters/adult/slices/adult/-1",
        "compare/adult/adult",
        "nothing",
    ],
)
def test_what_is_not_there_is_404_and_says_what_is(client, address):
    answer = client.get(f"/api/{address}")
    assert answer.status_code == 404
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "edit",
    [
        {"latents": []},
        {"latents": [1], "operation": "explode"},
        {"latents": [99999]},
        {"latents": [1, 1]},
        {"latents": [1], "surprise": 1},
    ],
)
def test_edits_that_make_no_sense_are_refused(client, edit):
    answer = client.post("/api/segmenters/adult/steer", json={"cohort": "adult", "row": 0, "edits": [edit]})
    assert answer.status_code == 422
    assert answer.json()["detail"]
    text = '{"cohort": "adult", "row": 0, "edits": [{"latents": [1], "value": NaN}]}'
    headers = {"content-type": "application/json"}
    answer = client.post("/api/segmenters/adult/steer", content=text, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "edits.0.value: Input should be a finite number"


def test_the_api_describes_itself(client):
    paths = client.get("/api/openapi.json").json()["paths"]
    assert "/api/segmenters/{segmenter}/steer" in paths
    assert len(paths) >= 14
