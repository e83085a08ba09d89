"""The sample scans of real data sets; they stay outside the project."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seglens.cohorts.axial import to_axial
from seglens.cohorts.case import WHOLE_TUMOUR_LABELS
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.slices import Preprocessing, SliceSampling, prepare_slices
from seglens.cohorts.source_options import SourceOptions
from seglens.cohorts.volumes import read_volume

FOLDER = os.environ.get("SEGLENS_REAL_DATA")
pytestmark = [pytest.mark.real, pytest.mark.skipif(FOLDER is None, reason="SEGLENS_REAL_DATA names no folder")]

LGG: dict[str, Any] = {
    "images": "{patient}/{patient}_{slice}.tif",
    "masks": "{patient}/{patient}_{slice}_mask.tif",
    "channels": {"FLAIR": 1},
    "labels": WHOLE_TUMOUR_LABELS,
}
SSA: dict[str, Any] = {
    "images": "images/{patient}-{slice}-t1c.png",
    "masks": "labels/{patient}-{slice}-t1c.png",
    "channels": {"FLAIR": 0},
    "inverted": True,
    "orientation": "RA",
    "labels": WHOLE_TUMOUR_LABELS,
}


@pytest.mark.parametrize(
    ("name", "arguments", "n_cases", "n_patients", "n_without_mask"),
    [
        ("brats2021", {}, 5, 5, 0),
        ("brats2023_gli", {}, 1, 1, 0),
        ("brats2023_ped", {}, 2, 2, 0),
        ("lgg_2d", LGG, 261, 6, 0),
        ("ssa_2d", SSA, 408, 9, 14),
    ],
)
def test_cohorts(*, name: str, arguments: dict, n_cases: int, n_patients: int, n_without_mask: int) -> None:
    cohort = read_cohort(Path(FOLDER or "") / name, SourceOptions(**arguments))
    assert len(cohort.cases) == n_cases
    assert len({case.patient for case in cohort.cases}) == n_patients
    report = check_cohort(cohort)
    assert [finding.code for finding in report.findings] == ["no_mask"] * n_without_mask
    settings = Preprocessing(cohort.sequences[-1:], size=64), SliceSampling(slices_per_volume=8)
    slices = prepare_slices(cohort, *settings, quarantined=report.quarantined)
    lesion = (slices.masks() > 0).flatten(1).any(1)
    assert 0.79 <= lesion.float().mean() <= 0.81
    assert set(slices.masks().unique().tolist()) == set(cohort.labels)
    images, brains = slices.images()[:, 0], slices.brains()
    assert (images[~brains] == 0).all()
    assert abs(images[brains].mean()) < 0.5
    assert 0.4 < images[brains].std() < 1.5
    # FLAIR shows edema bright: the right channel, the right way up in intensity
    assert images[slices.masks() > 0].mean() > images[brains & (slices.masks() == 0)].mean() + 0.5


def test_a_sagittal_healthy_volume() -> None:
    folder = Path(FOLDER or "") / "ixi"
    volume = read_volume(folder / "hd_bet_IXI002-Guys-0828-T1.nii.gz")
    brain = to_axial(read_volume(folder / "hd_bet_mask_IXI002-Guys-0828-T1.nii.gz").data) > 0
    stack = to_axial(volume.data)
    assert stack.shape == brain.shape == (256, 256, 150)
    assert (stack[~brain] == 0).mean() > 0.99
    widths = [np.ptp(np.flatnonzero(brain.any(axis))) for axis in ((0, 2), (0, 1))]
    assert widths[0] * 0.9375 > widths[1] * 1.2  # a head is longer than wide


SITE: dict[str, Any] = {
    "images": "{patient}/{slice}_flair.png",
    "masks": "{patient}/{slice}_mask.png",
    "labels": WHOLE_TUMOUR_LABELS,
    "mask_values": {0: 0, 255: 1},
}
LUNGS: dict[str, Any] = {
    "images": "images/{patient}.png",
    "masks": "masks/{patient}.png",
    "labels": {0: "background", 1: "lung"},
    "mask_values": {0: 0, 255: 1},
}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cxr_lungs/montgomery", LUNGS),
        ("cxr_lungs/shenzhen", LUNGS),
        ("hippocampus_msd", {}),
        ("lgg_2d", LGG),
        ("lgg_sites/DU", SITE),
        ("lgg_sites/HT", SITE),
    ],
)
def test_no_label_pixel_of_what_is_no_stripped_brain_is_blanked(name: str, arguments: dict) -> None:
    sequences = None if name in ("hippocampus_msd", "lgg_2d") else ["T1"]  # whatever a picture shows
    cohort = read_cohort(Path(FOLDER or "") / name, SourceOptions(**arguments), sequences=sequences)
    report = check_cohort(cohort)
    assert report.foreground == "none"
    assert report.blanked == ()
    assert "label_blanked" not in {finding.code for finding in report.findings}
    settings = Preprocessing(cohort.sequences, size=64), SliceSampling(slices_per_volume=8)
    slices = prepare_slices(cohort, *settings, quarantined=report.quarantined)
    assert slices.preprocessing == Preprocessing(cohort.sequences, size=64, foreground="none")
    assert slices.blanked == ()
    assert slices.brains()[slices.masks() > 0].all()


@pytest.mark.parametrize(("name", "arguments"), [("brats2021", {}), ("brats2023_ped", {}), ("ssa_2d", SSA)])
def test_stripped_brains_are_known_as_such(name: str, arguments: dict) -> None:
    report = check_cohort(read_cohort(Path(FOLDER or "") / name, SourceOptions(**arguments)))
    assert report.foreground == "brain"
    assert sum(one.blanked for one in report.blanked) <= 2
