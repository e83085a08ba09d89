from dataclasses import replace

import polars as pl
import torch
from tests.records import cohort, summary

from seglens.cohorts.blanking import BlankedLabel
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slice_set import SliceSet
from seglens.reports.sections.cohorts import _shown, cohorts_section, sample_rows
from seglens.runs import Run
from seglens.summaries import summary_of

LABELS = {0: "background", 1: "edema", 2: "core"}


def slices_of(patients: list[str], areas: list[int], splits: list[str]) -> SliceSet:
    masks = torch.zeros(len(areas), 16, 16, dtype=torch.uint8)
    for place, area in enumerate(areas):
        masks[place].view(-1)[:area] = 1
        if area > 1:
            masks[place].view(-1)[0] = 2
    index = pl.DataFrame({"case": patients, "patient": patients, "split": splits})
    images, brains = torch.zeros(len(areas), 1, 16, 16), torch.ones(len(areas), 16, 16, dtype=torch.bool)
    return SliceSet.from_tensors(images, masks, brains, index, name="a", sequences=["T1"], labels=LABELS)


def test_samples_come_from_different_test_patients_with_a_lesion() -> None:
    patients = ["a", "a", "b", "b", "c", "d"]
    slices = slices_of(patients, [90, 80, 70, 0, 60, 99], ["test"] * 5 + ["train"])
    rows = sample_rows(slices, 3)
    assert {patients[row] for row in rows} == {"a", "b", "c"}
    assert 3 not in rows
    assert 5 not in rows


def test_few_patients_give_more_than_one_slice_each() -> None:
    slices = slices_of(["a"] * 5, [0, 10, 20, 30, 40], ["train"] * 5)
    rows = sample_rows(slices, 4)
    assert sorted(rows) == [1, 2, 3, 4]
    assert len(sample_rows(slices_of(["a"], [0], ["test"]), 4)) == 1


def test_faults_are_listed_with_their_fix_and_without_folders(full_run: Run) -> None:
    section = cohorts_section(full_run, summary_of(full_run))
    found = next(b for b in section.blocks if b.kind == "table" and b.caption.startswith("Findings"))
    assert [cell.text for cell in found.rows[0]] == [
        "healthy",
        "P9",
        "left out",
        "x.nii.gz",
        "412 of 900 bytes",
        "copy it again",
    ]
    captions = [block.caption for block in section.blocks if block.kind == "pictures"]
    assert len(captions) == 4
    assert captions[0].startswith("Phantoms of the population “healthy” with noise taken from SSA. T1 slices")
    assert captions[1].startswith("FLAIR slices")


def test_a_cohort_without_slices_or_check_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    section = cohorts_section(Run(tmp_path), summary(cohorts=[cohort("x")]))
    texts = [block.text for block in section.blocks if block.kind == "paragraph"]
    assert texts == ["No check of the files is kept for x.", "No slices of x are kept in this run."]


def test_what_is_shown_and_what_is_blanked_under_labels() -> None:
    plain = slices_of(["a"], [9], ["test"])
    assert _shown(plain) == []
    own = replace(plain, preprocessing=Preprocessing(("T1",), 16, (2.0, 98.0), "none"))
    (paragraph,) = _shown(own)
    assert "every pixel (foreground: none), clipped to the percentiles 2 to 98" in paragraph.text
    assert "No label pixel of this cohort is blanked" in paragraph.text
    blanked = [BlankedLabel(f"c{number:02d}", "necrotic_core", number, 40) for number in range(1, 20)]
    own = replace(plain, preprocessing=Preprocessing(("T1",), 16, foreground="brain"), blanked=tuple(blanked))
    paragraph, found = _shown(own)
    assert "blanks pixels under labels" in paragraph.text
    assert found.caption == "Label pixels that are blanked, in 19 cases; the largest shares"
    assert len(found.rows) == 12
    assert [cell.text for cell in found.rows[0]] == ["c19", "necrotic core", "19", "40", "47.50%"]
    assert "foreground: none" in found.note
