"""The explorer's pages in a browser: every one opens, does what it says, and can be used by everybody."""

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parents[2] / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
READY = "body[data-state=ready]"
MAX_WAIT_MS = 300_000
"""No page hangs; a machine that is busy with other work may give the server a twentieth of a core."""
PATHS = ["/", "/latents/adult", "/latents/adult/3", "/map/adult", "/case/pediatric", "/case/pediatric/4"]
PATHS += ["/compare/adult/pediatric", "/api"]
WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}


@pytest.fixture(scope="module")
def exploration(quick_run):
    from seglens.explorer.serving import explore
    from seglens.segmenters.segmenter import Segmenter

    # no wait for a page is for the libraries, which take longest where the machine is busy
    Segmenter.read(quick_run.artifact("segmenter/adult"))
    running = explore(quick_run)
    yield running
    running.close()
    (quick_run.path / "names.json").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=list(WIDTHS))
def visit(browser, exploration, request, tmp_path):
    """Open an address of the explorer; at the end no page may have complained."""
    width, height = WIDTHS[request.param]
    page = browser.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
    page.set_default_timeout(MAX_WAIT_MS)
    complaints = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(exploration.address)
    base = exploration.address.split("/?")[0]

    def opened(path):
        page.goto(base + path)
        page.wait_for_selector(READY)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
        return page

    yield opened
    assert complaints == []
    page.close()


def serious_violations(page):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm ci in frontend/")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [(own["id"], own["nodes"][0]["html"]) for own in found if own["impact"] in ("serious", "critical")]


def held_back(page, address):
    """The next request to an address waits: the list will hold its route, to be let go."""
    held = []

    def keep(route):
        held.append(route)

    page.route(address, keep, times=1)
    return held


@pytest.mark.parametrize("path", PATHS)
def test_every_page_opens_without_a_serious_violation(visit, path):
    page = visit(path)
    assert page.inner_text("h1") not in ("", "This cannot be shown", "No such page")
    assert serious_violations(page) == []


def a_latent_that_fires(page):
    """The number in the table's first row, as text."""
    return page.locator(".long-row [role=cell]:first-child").first.inner_text().strip()


def test_the_table_filters_and_sorts_and_leads_to_a_latent(visit):
    page = visit("/latents/adult")
    everything = page.inner_text(".controls [role=status]")
    page.fill("#search", a_latent_that_fires(page))
    assert page.inner_text(".controls [role=status]").startswith("1 of ")
    assert page.inner_text(".controls [role=status]") != everything
    page.fill("#search", "")
    page.click("text=fires at")
    assert page.get_attribute("[role=columnheader]:has-text('fires at')", "aria-sort") == "descending"
    page.click(".long-row a")
    page.wait_for_url("**/latents/adult/*")
    page.wait_for_selector("figure canvas")


def test_a_latent_is_named_and_the_name_is_text(visit):
    page = visit("/latents/adult/3")
    page.click("summary:has-text('Named')")
    page.fill("#name", "<img src=x onerror=alert(1)>")
    page.click("button:has-text('Keep')")
    page.wait_for_selector("text=kept in the run")
    page = visit("/latents/adult/3")
    assert "<img src=x" in page.inner_text("h1")
    assert page.query_selector("h1 img") is None


def test_a_slider_changes_the_mask_and_undo_brings_it_back(visit, tmp_path):
    page = visit("/case/pediatric/4?segmenter=adult&latents=1,5,9")
    page.wait_for_selector("text=same mask as untouched")
    page.select_option("#operation", "add")
    page.fill("#value", "8")
    page.wait_for_selector("text=pixels differ")
    page.click("button:has-text('Reset')")
    page.wait_for_selector("text=same mask as untouched")
    page.click("button:has-text('Undo')")
    page.wait_for_selector("text=pixels differ")
    with page.expect_download() as waiting:
        page.click("button:has-text('Save as a file')")
    waiting.value.save_as(tmp_path / "edit.json")
    (edit,) = json.loads((tmp_path / "edit.json").read_text())
    assert (edit["operation"], edit["value"], edit["latents"]) == ("add", 8.0, [1, 5, 9])
    page.click("button:has-text('Undo')")
    page.wait_for_selector("text=same mask as untouched")
    page.select_option("#rule", "entropy")
    page.fill("#amount", "0")
    page.wait_for_selector("text=pixels differ")


def test_a_click_on_the_picture_lists_what_fires_there(visit):
    page = visit("/case/pediatric/4?segmenter=adult")
    page.click("canvas >> nth=0")
    page.wait_for_selector("h3:has-text('At row')")
    first = page.inner_text("section:has-text('By picture') .offered li a >> nth=0")
    page.click("section:has-text('By picture') button[title='choose it'] >> nth=0")
    page.wait_for_selector(".chips li")
    assert page.inner_text(".chips li a").startswith(f"{first}:")


def test_keys_go_to_the_next_slice_and_to_the_search(visit):
    page = visit("/case/pediatric/4?segmenter=adult")
    page.keyboard.press("n")
    page.wait_for_url("**/case/pediatric/5**")
    page.wait_for_selector(READY)
    page.keyboard.press("p")
    page.wait_for_url("**/case/pediatric/4**")
    page = visit("/latents/adult")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


def test_a_key_goes_to_the_worst_slice_and_on_to_the_next_worst(visit):
    page = visit("/case/pediatric/4?segmenter=adult")
    cohort = page.evaluate("fetch('/api/cohorts/pediatric?segmenter=adult').then(answer => answer.json())")
    scored = [own for own in cohort["slices"] if own["dice"] is not None and own["row"] != 4]
    for own in sorted(scored, key=lambda own: own["dice"])[:2]:
        page.keyboard.press("w")
        page.wait_for_url(re.compile(rf"/case/pediatric/{own['row']}\?"))
        page.wait_for_selector(READY)
        assert page.evaluate("location.pathname") == f"/case/pediatric/{own['row']}"


def test_drawing_around_points_lists_them(visit):
    page = visit("/map/adult")
    box = page.locator("canvas").bounding_box()
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99)]
    page.mouse.move(box["x"] + corners[0][0] * box["width"], box["y"] + corners[0][1] * box["height"])
    page.mouse.down()
    for x, y in corners[1:]:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_selector("text=latents, by mass")
    assert page.locator("section:has-text('Chosen') li").count() > 10


def test_the_address_keeps_filter_and_order(visit):
    page = visit("/latents/adult")
    page.click("[role=columnheader] button:has-text('depth')")
    page.click("[role=columnheader] button:has-text('depth')")
    page.fill("#search", "background")
    # the browser's own word: page.url follows some time after
    place = page.evaluate("location.pathname + location.search")
    assert place == "/latents/adult?search=background&sort=depth&order=up"
    count, first = page.inner_text(".controls [role=status]"), page.inner_text(".long-row >> nth=0")
    page = visit("/latents/adult?search=background&sort=depth&order=up")
    assert page.inner_text(".controls [role=status]") == count
    assert page.inner_text(".long-row >> nth=0") == first
    assert page.get_attribute("[role=columnheader]:has-text('depth')", "aria-sort") == "ascending"


def test_columns_stand_below_their_heads(visit):
    page = visit("/latents/adult")
    left = "(rows, place) => rows.map(row => Math.round(row.children[place].getBoundingClientRect().left))"
    for place in (1, 4, 9):
        assert len(set(page.eval_on_selector_all(".long-head, .long-row", left, place))) == 1


def test_arrow_keys_go_from_row_to_row_and_enter_opens_one(visit):
    page = visit("/latents/adult")
    page.focus(".long-scroll")
    for _ in range(40):
        page.keyboard.press("ArrowDown")
    assert page.get_attribute(".long-row.active", "aria-rowindex") == "40"
    assert page.evaluate("document.activeElement.closest('.long-row.active') !== null")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.wait_for_url("**/latents/adult/*")


def test_latents_without_a_partner_are_listed(visit):
    page = visit("/compare/adult/pediatric")
    said = page.inner_text("main > [role=status]")
    for name in ("adult", "pediatric"):
        listed = page.locator(f"ul[aria-label='latents of {name} without a partner'] li").count()
        assert f"{listed} of {name}" in said


def test_a_proposed_edit_is_taken_as_a_start(visit):
    page = visit("/case/pediatric/4?segmenter=adult")
    if page.query_selector("#proposed") is None:
        pytest.skip("this run proposes no edit")
    page.select_option("#proposed", "0")
    page.wait_for_selector(".chips li")
    assert float(page.input_value("#value")) == pytest.approx(float(page.inner_text("output[for=value]")), abs=0.05)


def test_keys_toggle_what_is_shown_and_are_listed(visit):
    page = visit("/case/pediatric/4?segmenter=adult&latents=1")
    for key, box in (("m", "#truth"), ("s", "#said")):
        page.keyboard.press(key)
        assert not page.is_checked(box)
        page.keyboard.press(key)
        assert page.is_checked(box)
    page.keyboard.press("h")
    assert page.input_value("#opacity") == "0"
    page.keyboard.press("h")
    assert page.input_value("#opacity") == "0.6"
    page.keyboard.press("]")
    assert page.input_value("#sequence") == "1"
    page.keyboard.press("[")
    assert page.input_value("#sequence") == "0"
    page.focus("#value")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#value") == "1.1"
    page.focus("canvas")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_selector("h3:has-text('At row 31, column 32')")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    assert serious_violations(page) == []
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")


def test_figures_leave_as_files(visit, tmp_path):
    page = visit("/map/adult")
    page.focus("canvas")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text=1 latents, by mass")
    for name, begin in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with page.expect_download() as waiting:
            page.click(f"button:has-text('{name}')")
        waiting.value.save_as(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begin)


def test_a_slow_page_that_was_left_does_not_overwrite_the_newer_one(visit):
    page = visit("/latents/adult")
    held = held_back(page, "**/api/segmenters/adult/latents/*")
    with page.expect_request("**/api/segmenters/adult/latents/*"):
        page.click(".long-row a")
    slow = page.query_selector("main")
    page.click("nav a:has-text('Overview')")
    page.wait_for_selector("h2:has-text('Scores')")
    page.wait_for_selector(READY)
    title = page.inner_text("h1")
    held[0].continue_()
    page.wait_for_function("slow => slow.querySelector('h1')", arg=slow)
    assert page.inner_text("h1") == title
    assert page.locator("main").count() == 1
    page.go_back()
    page.go_back()
    page.wait_for_selector(".long-row")


def test_a_slow_case_that_was_left_keeps_off_the_address(visit):
    page = visit("/case/pediatric?segmenter=adult")
    held = held_back(page, "**/api/segmenters/adult/slices/pediatric/*")
    with page.expect_request("**/api/segmenters/adult/slices/pediatric/*"):
        page.click(".slices a")
    slow = page.query_selector("main")
    page.click("nav a:has-text('Overview')")
    page.wait_for_selector("h2:has-text('Scores')")
    held[0].continue_()
    page.wait_for_function("slow => slow.querySelector('canvas')", arg=slow)
    assert page.evaluate("location.pathname + location.search") == "/"


def test_a_page_that_was_left_takes_its_requests_back(visit):
    page = visit("/latents/adult")
    held_back(page, "**/latents/*/effects")
    with page.expect_request("**/latents/*/effects"):
        page.click(".long-row a")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/effects")) as waiting:
        page.click("nav a:has-text('Overview')")
    assert "ABORTED" in waiting.value.failure


def test_what_a_page_that_was_left_did_not_get_is_not_told_under_the_newer_one(visit):
    page = visit("/latents/adult/3")
    page.route(re.compile("kind=middle"), lambda _: None)
    page.route("**/latents/survey", lambda route: route.fulfill(body="no JSON"), times=1)
    page.check("input[value=middle]")
    page.wait_for_selector("#told:has-text('does not answer')")
    page.check("input[value=random]")
    held = held_back(page, "**/latents/survey")
    with page.expect_request("**/latents/survey"):
        page.check("input[value=middle]")
    page.click("nav a:has-text('Overview')")
    page.wait_for_selector("h2:has-text('Scores')")
    page.evaluate("addEventListener('unhandledrejection', () => { window.refused = true; })")
    held[0].fulfill(body="no JSON")
    page.wait_for_function("() => window.refused")
    assert page.inner_text("#told") == ""


def test_who_waits_for_examples_reads_how_far_the_survey_is(visit):
    page = visit("/latents/adult/3")
    held = held_back(page, re.compile("kind=middle"))
    page.route("**/latents/survey", lambda route: route.fulfill(json={"done": 3, "of": 10}))
    page.check("input[value=middle]")
    page.wait_for_selector(".gallery:has-text('3 of 10')")
    held[0].continue_()
    page.wait_for_selector(".gallery:not(:has-text('3 of 10'))")
    assert page.locator(".gallery canvas, .gallery img").count() > 0


def test_a_segmenter_without_latents_is_named_and_not_linked(visit):
    def with_another(route):
        answer = route.fetch()
        announce = answer.json()
        announce["summary"]["segmenters"].append({**announce["summary"]["segmenters"][0], "name": "baseline"})
        route.fulfill(response=answer, json=announce)

    page = visit("/")
    page.route("**/api/overview", with_another)
    page = visit("/")
    assert page.locator("td:has-text('baseline')").count() == 2  # scores, and mean ablation
    assert page.locator("a[href*='baseline']").count() == 0


def test_rows_sorted_by_an_effect_are_in_order_once_it_is_measured(visit):
    measured = []

    def answered(route):
        latents = [int(latent) for latent in re.findall(r"latents=(\d+)", route.request.url)]
        measured.extend(latents)
        route.fulfill(json=[{"latent": latent, "dice": {"foreground": latent / 1000}} for latent in latents])

    page = visit("/latents/adult")
    page.route(re.compile("/effects[?]"), answered)
    page.click("[role=columnheader] button:has-text('Δ Dice foreground')")
    page.click("button:has-text('Measure')")
    page.wait_for_selector("button:has-text('Measure')")
    first = [int(latent) for latent in page.locator(".long-row [role=cell]:first-child").all_inner_texts()[:5]]
    assert first == sorted(measured, reverse=True)[:5]


def test_effects_on_dice_are_measured_for_the_rows_shown(visit):
    page = visit("/latents/adult")
    latent = a_latent_that_fires(page)
    page.fill("#search", latent)
    page.click("button:has-text('Measure')")
    page.wait_for_selector("[role=status]:has-text('unseen slices of adult'):has-text('measured for 1 of')")
    page.wait_for_selector("button:has-text('Measure')")
    ask = f"fetch('/api/segmenters/adult/effects?latents={latent}').then(answer => answer.json())"
    (expected,) = page.evaluate(ask)
    heads = page.locator("[role=columnheader]").all_inner_texts()
    cells = page.locator(".long-row [role=cell]").all_inner_texts()
    for label, change in expected["dice"].items():
        place = next(at for at, head in enumerate(heads) if head.startswith(f"Δ Dice {label.replace('_', ' ')}"))
        assert float(cells[place]) == pytest.approx(change, abs=1e-4)
    page = visit("/latents/adult")
    page.wait_for_selector("[role=status]:has-text('measured for 1 of')")
