"""Volumes in the explorer: left is left, whichever way a file's axes run, in what is served and in what is drawn."""

import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

import nibabel
from fastapi.testclient import TestClient
from nibabel.affines import apply_affine
from PIL import Image

from seglens.cohorts.case import TUMOUR_LABELS
from seglens.cohorts.slice_set import SliceSet
from seglens.explorer import volumes
from seglens.explorer.app import create_app
from seglens.explorer.serving import explore
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.settings import (
    CohortSettings,
    DictionarySettings,
    SourceSettings,
    SplitShares,
    StudySettings,
)
from seglens.studies.study import run_study

pytestmark = pytest.mark.study
AXES = ["LAS", "RAS", "LPI", "PSR", "RAS"]
"""Where the axes of each case's files run to."""
SIZE = (40, 48, 16)
SPACING_MM = (2.0, 2.0, 3.0)
MARKER_MM = (-22.0, 16.0, 9.0)
"""A place in the patient's left, front and top half."""
MARKER_VALUE = 3000
MAX_STEP_MM = 3.0


def scan(rng):
    """A head [x y z] in RAS with a marker in its left front, where the lesion is too, and its affine."""
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * mm for n, mm in zip(SIZE, SPACING_MM, strict=True)]
    places = apply_affine(affine, np.moveaxis(np.indices(SIZE), 0, -1))
    inside = ((places / [34, 42, 22]) ** 2).sum(-1) < 1
    marked = np.abs(places - MARKER_MM).max(-1) < 6
    values = np.where(inside, rng.integers(300, 900, SIZE), 0)
    values[marked] = MARKER_VALUE
    return values, np.where(marked, 4, 0), affine


def write(path, values, affine, axes, kind):
    """As a file whose axes run to ``axes``, each voxel at the place in mm where it was."""
    image = nibabel.Nifti1Image(values.astype(kind), affine)
    own = nibabel.orientations.io_orientation(affine)
    turn = nibabel.orientations.ornt_transform(own, nibabel.orientations.axcodes2ornt(axes))
    turned = image.as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(turned.affine)) == axes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(turned.to_bytes(), mtime=0))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished small run over files of several orientations, and over 2-D pictures."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(0)
    for number, axes in enumerate(AXES):
        place = folder / "scans" / f"BraTS2021_{number:05d}"
        values, mask, affine = scan(rng)  # not the same head twice: that would be a case in two splits
        if number == len(AXES) - 1:
            values = values + 0.25  # what only float32 holds
        for own, scale in (("t1ce", 1), ("flair", 2)):
            kind = np.float32 if number == len(AXES) - 1 else np.int16
            write(place / f"{place.name}_{own}.nii.gz", values * scale, affine, axes, kind)
        write(place / f"{place.name}_seg.nii.gz", mask, affine, axes, np.uint8)
    for patient in ("a", "b", "c"):
        place = folder / "pictures" / patient
        place.mkdir(parents=True)
        for slice_number in range(3):
            Image.fromarray(rng.integers(1, 255, (64, 64, 3), dtype=np.uint8)).save(
                place / f"{patient}_{slice_number}.png"
            )
            own = np.zeros((64, 64), np.uint8)
            own[20:30, 20:30] = 255
            Image.fromarray(own).save(place / f"{patient}_{slice_number}_mask.png")
    pictures = SourceSettings(
        path=folder / "pictures",
        layout="folder",
        images="{patient}/{patient}_{slice}.png",
        masks="{patient}/{patient}_{slice}_mask.png",
        channels={"T1c": 0, "FLAIR": 1},
        labels=dict(TUMOUR_LABELS),
        mask_values={0: 0, 255: 2},
    )
    thirds = SplitShares(train=0.6, val=0.2, test=0.2)
    settings = StudySettings(
        sequences=["T1c", "FLAIR"],
        size=32,
        cohorts={
            "scans": CohortSettings(sources=[SourceSettings(path=folder / "scans")], fractions=thirds),
            "pictures": CohortSettings(sources=[pictures], fractions=thirds, lesion_free_share=0.0),
        },
        segmenters={"scans": SegmenterSettings(cohort="scans", steps=2, batch_size=2)},
        hookpoints="stage3",
        dictionaries=DictionarySettings(k=4, expansion=1, steps=2, batch_size=32, controls=False),
        atlas_top_k=2,
    )
    finished = run_study(settings, folder / "run")
    finished.sources = folder / "scans"
    return finished


@pytest.fixture
def client(run):
    return TestClient(create_app(run.path))


def case(number):
    return f"BraTS2021_{number:05d}"


def served(client, number, what):
    answer = client.get(f"/api/cohorts/scans/volumes/{case(number)}/{what}")
    assert answer.status_code == 200, answer.text
    return nibabel.Nifti1Image.from_bytes(answer.content)


@pytest.mark.parametrize(("number", "axes"), list(enumerate(AXES)))
def test_a_voxel_is_served_at_its_place_in_mm(client, run, number, axes):
    for what, name in (("images/T1c", "t1ce"), ("images/FLAIR", "flair"), ("mask", "seg")):
        there = nibabel.load(run.sources / case(number) / f"{case(number)}_{name}.nii.gz")
        here = served(client, number, what)
        assert "".join(nibabel.aff2axcodes(there.affine)) == axes
        places = np.argwhere(np.ones(there.shape, bool))
        ours = np.linalg.inv(here.affine) @ there.affine
        at = apply_affine(ours, places)
        np.testing.assert_allclose(at, at.round(), atol=1e-4)
        expected = np.asarray(there.dataobj)
        if name == "seg":
            expected = np.where(expected == 4, 3, expected)  # the code for enhancing tumour until 2021
        np.testing.assert_array_equal(
            np.asarray(here.dataobj)[tuple(at.round().astype(int).T)], expected[tuple(places.T)]
        )
        high = np.argwhere(np.asarray(here.dataobj) >= np.asarray(here.dataobj).max())
        middle = apply_affine(here.affine, high).mean(0)
        assert np.abs(middle - MARKER_MM).max() < MAX_STEP_MM, "the marker is in the patient's left, front and top"


def test_the_third_axis_counts_slices_as_the_run_does(client, run):
    slices = SliceSet.read(run.artifact("slices/scans"))
    index = slices.index
    own = served(client, 0, "mask")
    for row, (name, position) in enumerate(index.select("case", "position").rows()):
        if name == case(0):
            assert np.asarray(own.dataobj)[:, :, position].any() == bool(slices.masks([row]).any())


def test_voxels_travel_in_the_smallest_type_that_loses_nothing(client):
    assert served(client, 0, "images/T1c").get_data_dtype() == np.int16
    assert served(client, 4, "images/T1c").get_data_dtype() == np.float32
    assert served(client, 0, "mask").get_data_dtype() == np.uint8
    few = np.zeros((2, 3, 4), np.float32)
    assert nibabel.Nifti1Image.from_bytes(volumes.as_nifti(few, np.eye(4))).get_data_dtype() == np.uint8
    few[0, 0, 0] = -40000
    assert nibabel.Nifti1Image.from_bytes(volumes.as_nifti(few, np.eye(4))).get_data_dtype() == np.float32


def test_what_cannot_be_shown_says_why(client, run, monkeypatch):
    def refused(address):
        answer = client.get(f"/api/cohorts/{address}")
        assert answer.status_code == 404
        return answer.json()["detail"]

    own = f"scans/volumes/{case(1)}"
    assert "no slice of a case" in refused("scans/volumes/nobody/mask")
    assert "no /api/" in refused("scans/volumes/..%2f..%2fetc/mask")  # no path is ever taken
    assert "it has T1c, FLAIR" in refused(f"{own}/images/T2")
    assert "no cohort" in refused(f"nowhere/volumes/{case(1)}/mask")
    flat = client.get("/api/cohorts/pictures").json()["slices"][0]["case"]
    assert "2-D picture" in refused(f"pictures/volumes/{flat}/mask")
    monkeypatch.setattr(volumes, "MAX_VOXELS", 1000)
    assert "has over 1000 voxels" in refused(f"{own}/images/T1c")


def test_a_volume_is_shown_only_while_its_files_are_those_of_the_run(client, run):
    path = run.sources / case(1) / f"{case(1)}_t1ce.nii.gz"
    address = f"/api/cohorts/scans/volumes/{case(1)}/images/T1c"
    before = path.read_bytes()
    try:
        path.write_bytes(gzip.compress(gzip.decompress(before), compresslevel=1, mtime=1))
        answer = client.get(address)
        assert answer.status_code == 404 and "sha256 differs" in answer.json()["detail"]
        path.unlink()
        answer = client.get(address)
        assert answer.status_code == 404 and "cannot be opened" in answer.json()["detail"]
        hidden = run.sources.with_name("moved")
        run.sources.rename(hidden)
        try:
            answer = TestClient(create_app(run.path)).get(address)
            assert answer.status_code == 404 and "is not a folder" in answer.json()["detail"]
        finally:
            hidden.rename(run.sources)
    finally:
        path.write_bytes(before)
    assert client.get(address).status_code == 200


def test_without_a_record_of_the_files_nothing_is_read(run, tmp_path):
    """A run's folder from a stranger must not show files of this machine that it never saw."""
    shutil.copytree(run.path, tmp_path / "run")
    books = json.loads((tmp_path / "run" / "run.json").read_text())
    del books["stages"]["check/scans"]
    books["stages"]["phantom/scans"] = books["stages"]["slices/scans"]  # as if its files lay in the run's own folder
    (tmp_path / "run" / "run.json").write_text(json.dumps(books))
    answer = TestClient(create_app(tmp_path / "run")).get(f"/api/cohorts/scans/volumes/{case(1)}/mask")
    assert answer.status_code == 404 and "keeps no sha256" in answer.json()["detail"]


def test_a_phantom_s_volume_is_that_of_its_artifact(quick_run):
    client = TestClient(create_app(quick_run.path))
    first = client.get("/api/cohorts/adult").json()["slices"][0]["case"]
    answer = client.get(f"/api/cohorts/adult/volumes/{first}/images/FLAIR")
    (path,) = quick_run.artifact("phantom/adult").path.glob(f"cohort/imagesTr/{first}_*3.nii.gz")
    there = nibabel.as_closest_canonical(nibabel.load(path))
    here = nibabel.Nifti1Image.from_bytes(answer.content)
    np.testing.assert_allclose(here.affine, there.affine)
    np.testing.assert_array_equal(np.asarray(here.dataobj), np.asarray(there.dataobj))


# in the browser

WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}
READY = "body[data-state=ready]"
AXE = Path(__file__).parents[2] / "frontend" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def exploration(run):
    running = explore(run)
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        # volumes are drawn by WebGL 2, here without a graphics card
        opened = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        yield opened
        opened.close()


@pytest.fixture(params=list(WIDTHS))
def page(browser, exploration, request):
    """A page of the explorer; at its end nothing may have complained, such as the content security policy."""
    width, height = WIDTHS[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.set_default_timeout(300_000)
    complaints = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(exploration.address)
    opened.wait_for_selector(READY)
    opened.base = exploration.address.split("/?")[0]
    yield opened
    assert complaints == []
    opened.close()


def open_volume(page, run, number, query=""):
    index = SliceSet.read(run.artifact("slices/scans")).index
    row = index["case"].to_list().index(case(number))
    page.goto(f"{page.base}/volume/scans/{row}{query}")
    page.wait_for_selector(READY)
    assert page.inner_text("h1").startswith(case(number)), page.inner_text("#page")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    return row


def drawn(page):
    """The canvas as it is seen, [rows columns 3]."""
    before = b""
    for _ in range(
        60
    ):  # until two in a row are the same: without a graphics card the picture follows some frames later
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        now = page.locator("canvas").screenshot()
        if now == before:
            return np.asarray(Image.open(io.BytesIO(now)).convert("RGB")).astype(int)
        before = now
    raise AssertionError("the picture does not come to rest")


def slide(page, name, value):
    page.eval_on_selector(
        f"#{name}", "(e, value) => { e.value = value; e.dispatchEvent(new Event('input')) }", str(value)
    )


@pytest.mark.browser
def test_left_is_left_in_the_picture(page, run):
    """The marker in the patient's left front is drawn at the right (radiological convention) and at the top."""
    pictures = []
    for number in (0, 1):
        open_volume(page, run, number)
        assert "patient's left (L) at the right" in page.inner_text("figcaption")
        page.select_option("#view", "axial")
        slide(page, "opacity", 0)
        slide(page, "top", 10)
        slide(page, "right", 0)  # the crosshair away from the marker
        slide(page, "front", 0)
        slide(page, "black", 140)  # only the marker is brighter
        slide(page, "white", 250)
        picture = drawn(page)
        marker = np.argwhere((picture > 240).all(-1))
        assert len(marker) > 100
        rows, columns = picture.shape[:2]
        assert marker[:, 1].mean() > 0.55 * columns, "the patient's left is at the right"
        assert marker[:, 0].mean() < 0.5 * rows, "the patient's front is at the top"
        pictures.append(picture)
    np.testing.assert_array_equal(pictures[0], pictures[1])  # LAS and RAS files of one head look the same


@pytest.mark.browser
def test_the_page_of_a_volume_has_no_serious_violation(page, run):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm ci in frontend/")
    open_volume(page, run, 0)
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    assert [own["id"] for own in found if own["impact"] in ("serious", "critical")] == []


@pytest.mark.browser
def test_the_mask_is_drawn_in_the_colour_of_its_class(page, run):
    open_volume(page, run, 0, "?sequence=FLAIR")
    assert page.input_value("#sequence") == "FLAIR"
    slide(page, "top", 10)
    slide(page, "opacity", 1)
    enhancing = np.abs(drawn(page) - [0xF0, 0xE4, 0x42]).max(-1) < 30
    assert enhancing.sum() > 50
    slide(page, "opacity", 0)
    assert (np.abs(drawn(page) - [0xF0, 0xE4, 0x42]).max(-1) < 30).sum() == 0


@pytest.mark.browser
def test_from_a_slice_to_its_volume_and_to_the_slice_under_the_crosshair(page, run):
    index = SliceSet.read(run.artifact("slices/scans")).index
    own = {
        position: row for row, (name, position) in enumerate(index.select("case", "position").rows()) if name == case(2)
    }
    position, row = next(iter(own.items()))
    page.goto(f"{page.base}/case/scans/{row}?segmenter=scans&latents=1")
    page.wait_for_selector(READY)
    page.select_option("#sequence", "1")
    page.click("text=three planes")
    page.wait_for_url("**/volume/scans/*")
    page.wait_for_selector("#here a")
    page.wait_for_selector(READY)
    assert page.input_value("#sequence") == "FLAIR"
    assert f"slice {position}:" in page.inner_text("#here")
    other = next(held for held in reversed(own) if held != position)
    slide(page, "top", other)
    page.click("#here a")
    page.wait_for_url(f"**/case/scans/{own[other]}?segmenter=scans&latents=1")
    page.wait_for_selector(".pictures canvas")
    missing = next(place for place in range(SIZE[2]) if place not in own)
    page.goto(f"{page.base}/volume/scans/{row}")
    page.wait_for_selector(READY)
    slide(page, "top", missing)
    assert "the nearest is" in page.inner_text("#here")


@pytest.mark.browser
def test_pictures_have_no_volume_and_the_page_says_so(page):
    page.goto(f"{page.base}/case/pictures/0")
    page.wait_for_selector(READY)
    assert page.locator("text=three planes").count() == 0
