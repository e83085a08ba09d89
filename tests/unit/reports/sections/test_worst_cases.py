import base64
from io import BytesIO

import numpy as np
import polars as pl
from PIL import Image

from seglens.reports.headline import cells_of
from seglens.reports.palette import INVENTED, MISSED, rgb
from seglens.reports.sections.worst_cases import worst_section
from seglens.runs import Run
from seglens.summaries import summary_of


def section_of(run: Run):
    summary = summary_of(run)
    return worst_section(run, summary, cells_of(run, summary))


def has_colour(uri: str, colour: str) -> bool:
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")).astype(int)
    return bool((np.abs(pixels - np.array(rgb(colour))).sum(-1) < 60).any())


def test_the_pair_that_collapses_is_open_and_others_are_folded(full_run: Run) -> None:
    first, *others = section_of(full_run).blocks
    assert first.title == "Worst patients of adult on pediatric"
    assert len(others) > 3
    assert all(block.kind == "fold" for block in others)
    assert not any("healthy" in block.title for block in others), "no other cohort has its classes"


def test_missed_and_invented_pixels_have_colours_of_their_own(full_run: Run) -> None:
    pictures = section_of(full_run).blocks[0]
    assert [one.label.rpartition(": ")[2] for one in pictures.pictures[:3:2]] == ["reference", "errors"]
    assert "patient's Dice 0." in pictures.pictures[1].label
    errors = pictures.pictures[2].uri
    assert has_colour(errors, MISSED)
    assert has_colour(errors, INVENTED)
    assert {key.label for key in pictures.keys} >= {"error: missed", "error: invented", "edema"}


def test_every_patient_can_be_taken_out_as_a_file(full_run: Run) -> None:
    fold = section_of(full_run).blocks[-1]
    link = fold.blocks[-1]
    rows = pl.read_csv(BytesIO(base64.b64decode(link.address.partition("base64,")[2])))
    assert link.file == "patients.csv"
    own = rows.filter(model="adult", cohort="pediatric").filter(pl.col("class") == "necrotic_core")
    assert own.height == 8
    assert own["dice"].max() < 0.1
    worst = next(block for block in fold.blocks if block.caption.startswith("adult on pediatric"))
    means = [np.mean([float(cell.text) for cell in row[1:]]) for row in worst.rows]
    assert means == sorted(means)


def test_a_run_of_one_cohort_has_no_target(small_run: Run) -> None:
    section = section_of(small_run)
    assert section.blocks[0].tone == "missing"
    assert section.blocks[1].title == "Dice of every patient"
