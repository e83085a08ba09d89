from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.faults import scans


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    """Writes an array [x y z]; by default with BraTS's own axes, LPS, 1 mm."""
    return scans.write_nifti


@pytest.fixture
def write_picture() -> Callable[..., Path]:
    def write(path: Path, pixels: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def head() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A stripped ball-like brain and a lesion in the patient's left front; arrays [x y z] with axes LPS."""
    return scans.head


@pytest.fixture
def write_brats() -> Callable[..., Path]:
    """Writes BraTS cases of either naming, with all four sequences, into a folder."""
    return partial(scans.write_cohort, n_sequences=4)
