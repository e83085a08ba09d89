"""Models that nnU-Net itself trained; its own masks are the reference. They stay outside the project."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from seglens.segmenters.opened import open_model

FOLDER = os.environ.get("SEGLENS_REAL_MODELS")
pytestmark = [pytest.mark.real, pytest.mark.skipif(FOLDER is None, reason="SEGLENS_REAL_MODELS names no folder")]


@pytest.mark.parametrize(
    ("name", "case"),
    [("plain3d_labels", "tiny_006"), ("plain3d_regions", "tiny_007"), ("resenc3d_regions", "tiny_006")],
)
def test_masks_are_nnunet_s_own(name: str, case: str) -> None:
    root = Path(FOLDER or "") / "nnunet_tiny"
    mask = open_model(root / name, fold=0).predict(
        [root / "images" / f"{case}_000{number}.nii.gz" for number in (0, 1)]
    )
    wanted = np.asarray(nibabel.load(root / "masks" / f"{name}__{case}.nii.gz").dataobj)
    assert mask.dtype == wanted.dtype
    np.testing.assert_array_equal(mask, wanted)
