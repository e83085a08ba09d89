from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    """Writes an array [x y z]; by default with BraTS's own axes, LPS, 1 mm."""

    def write(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine
        nibabel.save(nibabel.Nifti1Image(data, affine), path)
        return path

    return write


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

    def make(
        seed: int = 0, shape: tuple[int, int, int] = (24, 28, 12), enhancing: int = 4
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        brain = x**2 + y**2 + 0.5 * z**2 < 0.8
        image = np.where(brain, rng.integers(100, 200, shape), 0).astype(np.int16)
        mask = np.zeros(shape, np.uint8)
        mask[((x - 0.4) ** 2 + (y + 0.3) ** 2 + z**2 < 0.15) & brain] = 2
        mask[((x - 0.4) ** 2 + (y + 0.3) ** 2 + z**2 < 0.06) & brain] = enhancing
        image[mask > 0] += 100
        return image, mask

    return make


@pytest.fixture
def write_brats(write_nifti, head) -> Callable[..., Path]:
    """Writes BraTS cases of either naming into a folder."""

    def write(root: Path, ids: list[str], *, style: str = "old", seed: int = 0) -> Path:
        separator, tags = (
            ("_", ("t1", "t1ce", "t2", "flair")) if style == "old" else ("-", ("t1n", "t1c", "t2w", "t2f"))
        )
        for number, case_id in enumerate(ids):
            for channel, tag in enumerate(tags):
                image, mask = head(seed + 10 * number + channel, enhancing=4 if style == "old" else 3)
                write_nifti(root / case_id / f"{case_id}{separator}{tag}.nii.gz", image)
            write_nifti(root / case_id / f"{case_id}{separator}seg.nii.gz", mask)
        return root

    return write
