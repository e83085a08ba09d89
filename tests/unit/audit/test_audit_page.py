import base64
import hashlib
import re

import pytest
from markupsafe import escape
from tests.unit.audit.conftest import cohorts_of

from seglens.audit.audit_page import feature_text, render_audit, to_look_at
from seglens.audit.auditing import read_again


@pytest.fixture(scope="module")
def page(found, labelled, unlabelled):
    target = cohorts_of(labelled, unlabelled)[1]
    return found, render_audit(found, read_again(found, target, to_look_at(found)))


def test_the_verdict_is_the_first_thing_and_every_volume_has_a_row(page):
    found, text = page
    assert text.index(str(escape(found.verdict.sentence))) < text.index("Which volumes</h2>")
    table = text[text.index('class="sortable"') :]
    rows = re.findall(r'<th scope="row">(q\d)<', table[: table.index("</table>")])
    assert rows == found.volumes()["volume"].to_list() and len(rows) == 6


def test_pictures_stand_beside_their_volume_with_its_neighbours(page):
    found, text = page
    assert text.count("data:image/png") == 3 * len(to_look_at(found))
    card = text[text.index("Look at these first") :]
    assert re.search(r"most alike in the source \(true Dice\)</dt><dd>p\d \(0\.\d\d\); p\d", card)


def test_what_was_not_checked_and_every_rung_are_on_the_page(page):
    found, text = page
    assert "no mask of this cohort was looked at" in text
    assert all(score.rung in text for score in found.prediction.ladder) and "shuffled" in text


def test_every_row_of_a_table_has_a_cell_for_each_heading(page):
    _, text = page
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert len(tables) == 3
    for one in tables:
        n_columns = one.count('<th scope="col"')
        for line in re.findall(r"<tr><th scope=\"row\">.*?</tr>", one, re.DOTALL):
            assert line.count("<td") == n_columns - 1


def test_one_script_is_allowed_by_its_hash(page):
    _, text = page
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("image.T1c.noise", "noise in T1c"),
        ("image.FLAIR.q95", "brightest intensities of FLAIR"),
        ("area.necrotic_core_share", "predicted necrotic core (share)"),
        ("area.edema", "predicted edema (log voxels)"),
        ("logits.ring_entropy", "uncertainty at its border"),
        ("logits.lesion_q05", "confidence (q05) inside what is predicted"),
        ("tta.mirror_dice", "agreement with the mirrored image"),
    ],
)
def test_features_are_named_in_words(column, text):
    assert feature_text(column) == text
