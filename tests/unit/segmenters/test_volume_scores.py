import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from tests.faults.scans import write_cohort

from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slices import SliceSampling, prepare_slices
from seglens.segmenters.prediction import predict_cohort
from seglens.segmenters.score_summary import Score
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.volume_scores import evaluate_volumes

FOLDER = os.environ.get("SEGLENS_REAL_DATA")
LABELS = {0: "background", 1: "necrotic_core", 2: "edema", 3: "enhancing"}
REGIONS = {"whole": (1, 2, 3), "core": (3, 1)}


def segmenter_of(sequence: str, labels: dict[int, str], size: int) -> Segmenter:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = torch.nn.Conv2d(1, len(labels), 3, padding=1)
    preprocessing = Preprocessing((sequence,), size, foreground="brain")
    return Segmenter.wrap(
        network, sequences=(sequence,), labels=labels, hookpoints={}, size=size, preprocessing=preprocessing
    )


@pytest.fixture
def cohort(tmp_path: Path):
    return read_cohort(write_cohort(tmp_path / "c", ["a", "b"]), sequences=["T1"])


def expected_rows(segmenter, cohort, folder):
    """By volume and region what MONAI says of the masks that `predict_cohort` writes, in the files' own order."""
    written = predict_cohort(segmenter, cohort, folder=folder)
    named = {name: (value,) for value, name in cohort.labels.items() if value} | REGIONS
    found = {}
    for row, case in zip(written.document("cases"), cohort.cases, strict=True):
        images = [nibabel.load(folder / row["file"]), nibabel.load(case.mask.path)]
        by_code = {row["values"][name]: value for value, name in cohort.labels.items()}
        predicted, truth = (np.vectorize(by_code.get)(np.asarray(image.dataobj).astype(int)) for image in images)
        spacing = tuple(map(float, images[1].header.get_zooms()))
        for name, values in named.items():
            pair = [np.isin(own, values) for own in (predicted, truth)]
            tensors = [torch.from_numpy(np.stack([~own, own])[None]).float() for own in pair]
            found[case.id, name] = (
                float(compute_dice(*tensors, include_background=False)),
                float(compute_hausdorff_distance(*tensors, percentile=95, spacing=spacing)),
                float(compute_surface_dice(*tensors, [1.0], spacing=spacing)),
            )
    return found


def compare(scores, expected):
    assert scores.table.height == len(expected)
    for row in scores.table.iter_rows(named=True):
        dice, distance, surface = expected[row["volume"], row["region"]]
        both = row["predicted"] + row["truth"]
        if row["truth"]:
            assert 2 * row["tp"] / both == pytest.approx(dice, abs=1e-6)
        if row["truth"] and row["predicted"]:
            assert row["hd95_mm"] == pytest.approx(distance, rel=1e-6)  # MONAI gives float32
            assert row["surface_dice"] == pytest.approx(surface, abs=1e-6)
        else:
            assert row["hd95_mm"] is None


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:the (prediction|ground truth) of class")
def test_equals_monai_on_the_masks_that_are_written(cohort, tmp_path: Path) -> None:
    segmenter = segmenter_of("T1", LABELS, 32)
    scores = evaluate_volumes(segmenter, cohort, regions=REGIONS, batch_size=5)
    assert scores.regions == {
        "necrotic_core": (1,),
        "edema": (2,),
        "enhancing": (3,),
        "whole": (1, 2, 3),
        "core": (1, 3),
    }
    compare(scores, expected_rows(segmenter, cohort, tmp_path / "out"))
    assert scores.table.filter(pl.col("truth") > 0).height


@pytest.mark.real
@pytest.mark.skipif(FOLDER is None, reason="SEGLENS_REAL_DATA names no folder")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:the (prediction|ground truth) of class")
def test_equals_monai_on_real_volumes(tmp_path: Path) -> None:
    cohort = read_cohort(Path(str(FOLDER)) / "brats2021", sequences=["FLAIR"])
    cohort = replace(cohort, cases=cohort.cases[:2], splits={}, deal=None)
    segmenter = segmenter_of("FLAIR", dict(cohort.labels), 128)
    scores = evaluate_volumes(segmenter, cohort, regions=REGIONS)
    assert scores.table["volume"].n_unique() == 2
    compare(scores, expected_rows(segmenter, cohort, tmp_path / "out"))


def test_false_alarms_on_slices_that_sampling_leaves_out_count(cohort) -> None:
    """A planted case: right wherever the sampled slices look, and wrong everywhere else."""
    segmenter = segmenter_of("T1", LABELS, 32)
    with torch.no_grad():
        segmenter.network.weight.zero_()
        segmenter.network.bias.copy_(torch.tensor([0.0, -1.0, 1.0, -1.0]))  # edema everywhere
    sampled = prepare_slices(cohort, segmenter.preprocessing, SliceSampling(lesion_free_share=0.0))
    seen = evaluate(segmenter, sampled).summary()
    whole = {one.region: one for one in evaluate_volumes(segmenter, cohort).summaries()}
    assert whole["edema"].dice.value < seen.dice("edema", "sampled").value
    assert whole["edema"].dice.n == 2


def test_each_figure_has_its_n_and_absent_classes_are_undefined(cohort) -> None:
    segmenter = segmenter_of("T1", LABELS, 32)
    with torch.no_grad():
        segmenter.network.weight.zero_()
        segmenter.network.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))  # nothing anywhere
    for one in evaluate_volumes(segmenter, cohort, regions=REGIONS, min_mm3=0.0).summaries():
        assert one.n_volumes == 2
        assert one.hd95_mm == Score(None, 0)
        assert one.n_false_volumes == one.n_false_lesions == 0
        assert one.n_missed_volumes == one.dice.n
        assert one.n_missed_lesions == one.n_lesions
        if one.dice.n:
            assert (one.dice.value, one.surface_dice.value) == (0.0, 0.0)
            assert one.lesion_dice.value == pytest.approx(1 - one.dice.n / 2)
        else:
            assert (one.dice_empty1, one.lesion_dice) == (Score(1.0, 2), Score(1.0, 2))


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"edema": (1, 2)}, "has the name of a class"),
        ({"WT": (1, 4)}, r"has the values \[4\]; give foreground values"),
        ({"WT": (0, 1)}, r"has the values \[0\]"),
        ({"WT": ()}, "give each of its labels once"),
    ],
)
def test_regions_that_make_no_sense(cohort, regions, message) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_volumes(segmenter_of("T1", LABELS, 32), cohort, regions=regions)
