from dataclasses import replace

import polars as pl
import torch

from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.sharing import align
from seglens.notebook import html_table
from seglens.segmenters.scoring import score_predictions


def test_cells_are_shown_short_and_escaped():
    page = html_table("<b>", ("a", "b"), [(0.123456, None), ("<script>", 7)])
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;b&gt;" in page
    assert "<td>0.123</td><td>–</td>" in page and "<td>7</td>" in page


def test_a_cohort_counts_cases_and_patients():
    cases = tuple(
        Case(f"p{number // 2}-{number}", f"p{number // 2}", "v", "toy", {}, None, {0: 0}) for number in range(4)
    )
    cohort = Cohort("toy", cases, ("T1",), {0: "background"}, {"train": ("p0-0", "p0-1"), "test": ("p1-2",)})
    page = cohort._repr_html_()
    assert "<td>train</td><td>2</td><td>1</td>" in page and "<td>all</td><td>4</td><td>2</td>" in page


def test_scores_and_alignments_show_their_figures():
    masks = torch.zeros(2, 8, 8, dtype=torch.uint8)
    masks[:, 2:5] = 1
    index = pl.DataFrame({"case": ["a", "b"]})
    labels = {0: "background", 1: "lesion"}
    slices = SliceSet.from_tensors(
        torch.zeros(2, 1, 8, 8), masks, masks >= 0, index, name="toy", sequences=("T1",), labels=labels
    )
    page = score_predictions(masks, slices)._repr_html_()
    assert "<td>lesion</td><td>1</td><td>1</td><td>1</td><td>1</td>" in page
    dictionary = SparseAutoencoder(4, 8, k=2, seed=0)
    alignment = replace(align(dictionary, dictionary, tau=0.8), floor=0.25)
    page = alignment._repr_html_()
    assert "<td>floor</td><td>0.25</td>" in page and "<td>shared_share</td><td>1</td>" in page
