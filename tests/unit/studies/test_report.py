import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.records import summary

from seglens.documents import to_document
from seglens.runs import Run
from seglens.studies.report import page_of, write_report
from seglens.summaries import summary_of

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed in order; collects what a test may ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values["href"]))
        if tag == "img":
            self.images.append(values)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def html(full_run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(full_run, tmp_path_factory.mktemp("page") / "sub" / "r.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_element_is_closed_and_every_link_leads_somewhere(page: Page) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links if not link.startswith("data:")} <= set(page.ids)


def test_nothing_is_fetched_and_nothing_runs(html: str, page: Page) -> None:
    resources = re.findall(r"""(?:src|href|url|@import)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert resources
    files = ("data:image/png;base64,", "data:application/yaml;base64,", "data:text/csv;base64,")
    assert all(one.startswith((*files, "#")) for one in resources)
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert "script" not in page.tags
    assert not re.search(r"<[^>]+\son\w+=", html)


def test_images_have_alternatives_and_headings_do_not_skip_a_level(page: Page) -> None:
    assert len(page.images) > 100
    assert all(image["alt"] for image in page.images)
    steps = [b - a for a, b in zip(page.headings, page.headings[1:], strict=False)]
    assert page.headings[0] == 1
    assert max(steps) == 1


def test_the_page_is_small_enough_to_send(html: str) -> None:
    assert len(html) < 15e6


def test_each_result_stands_beside_its_controls(page: Page) -> None:
    for words in (
        "floor: randomly rotated activations",
        "ceiling: same model and data, other token order",
        "same model and data, other SAE seed",
        "… of an untrained network",
        "random latents, same number and firing rates",
        "reconstruction only",
        "logit bias",
        "logit bias, tuned on the foreground",
        "component filter (CCF)",
        "entropy filter (UF)",
        "drop class",
        "predict nothing",
        "mirror test-time augmentation",
        "whole activation at its mean",
        "Random latents recovered",
        "per slice, class present",
        "Missed",
    ):
        assert words.lower() in page.text.lower(), words
    for figure in ("95.5%", "62.0%", "93.0%", "null 0.12", "1.7 (14%)", "3 (25%)", "draws: 1, 2, 2", "0.144", "of 50"):
        assert figure in page.text, figure


def test_what_does_not_exist_is_a_dash(full_run: Run, page: Page) -> None:
    assert "–" in page.text
    assert not re.search(r"\b(nan|None|inf)\b", page.text)


def test_names_are_escaped(hostile_run: Run) -> None:
    html = write_report(hostile_run).read_text()
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert all(set(image) <= {"src", "alt", "width", "height"} for image in page.images)
    assert all(str(image["src"]).startswith("data:") for image in page.images)


def test_stages_that_were_not_run_are_named(small_run: Run) -> None:
    text = Page(write_report(small_run).read_text()).text
    for words in (
        "No pair of dictionaries was compared",
        "No class was steered",
        "No recovery of failures was run",
    ):
        assert words in text


def test_a_run_with_a_bare_summary_still_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(to_document(summary(study="nothing yet"))))
    text = Page(write_report(Run(tmp_path)).read_text()).text
    assert "nothing yet" in text
    for words in ("No cohort was prepared", "No segmenter was scored", "No dictionary was fitted", "No latents were"):
        assert words in text


def test_a_summary_of_another_version_is_named_with_what_is_due(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"study": {"name": "old"}, "seed": 3}')
    with pytest.raises(ValueError, match=r"summary.json is damaged or of another version \(study: .*string"):
        write_report(Run(tmp_path))


def test_without_a_summary_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finish the study first"):
        write_report(Run(tmp_path))


def test_folders_of_the_machine_are_left_out(html: str, full_run: Run) -> None:
    assert "/home/someone" not in html
    study = html.partition("data:application/yaml;base64,")[2].partition('"')[0]
    assert '"path": "BraTS"' in base64.b64decode(study).decode()
    assert str(full_run.path) not in html


def test_two_writings_are_equal(full_run: Run, html: str) -> None:
    assert page_of(full_run, summary_of(full_run)) == html


def test_what_a_reader_asks_first_is_open_and_the_rest_is_folded(html: str, page: Page) -> None:
    opened, *folded = html.split('<section class="folded"')
    assert re.findall('<section id="([a-z]+)"', opened) == ["findings", "where", "worst", "helped"]
    assert "How well each model segments" not in opened
    titles = {"Segmentation", "Cohorts", "What the latents mean", "Glossary and conventions"}
    assert titles <= {re.search("<h2[^>]*>([^<]*)<", part).group(1) for part in folded}  # type: ignore[union-attr]
    assert not any('<section id="' in part for part in folded)
    assert [link for link in page.links if link.startswith("#")][1:5] == ["#findings", "#where", "#worst", "#helped"]


def test_the_class_that_collapses_is_the_first_thing_said(page: Page) -> None:
    answer = page.text.partition("How to do it again In short ")[2]
    assert answer.startswith("Model adult loses necrotic core on pediatric: pooled Dice 0.05 [0.0")
    assert "over 8 patients at home. Lost as well:" not in answer
    assert "holds necrotic core collapses for adult on pediatric" in answer


def test_the_default_place_is_the_run_folder(small_run: Run) -> None:
    assert write_report(small_run) == small_run.path / "report.html"
