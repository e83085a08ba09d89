"""Pictures that cost nothing to make, and the beginning of a study of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 32
"""Rows and columns of a picture."""
BRIGHTER = 60
"""Grey values by which a square is brighter than what is around it."""
THIRDS = {"train": 0.4, "val": 0.3, "test": 0.3}
"""As near to thirds as ten patients go."""

Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""Draws a patient's picture of a number: grey values 0..255, and where the square is, both [SIZE SIZE]."""


def discs(seed: int, *, first_is_empty: bool = False) -> Draw:
    """Noisy discs, each with a square somewhere in it.

    Args:
        seed: of the noise and of the squares' places.
        first_is_empty: picture 0 of every patient has no square.
    """
    chance = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    disc = (rows - SIZE // 2) ** 2 + (columns - SIZE // 2) ** 2 < 14**2

    def draw(patient: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        square = np.zeros((SIZE, SIZE), bool)
        if number or not first_is_empty:
            row, column = chance.integers(8, 20, 2)
            square[row : row + 6, column : column + 5] = True
        return disc * (90 + BRIGHTER * square + chance.normal(0, 15, square.shape)), square

    return draw


def study_of_pictures(
    folder: Path, name: str, draw: Draw, *, patients: int, pictures: int, fractions: Mapping[str, float]
) -> dict[str, Any]:
    """Write pictures to a folder, and give the settings of a study of them that has no segmenters yet.

    Args:
        folder: made where it is not there.
        name: of the study and of its one cohort.
        draw: called for each patient's pictures in turn.
        patients: how many.
        pictures: of each patient.
        fractions: of the patients in ``train``, ``val`` and ``test``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for patient in range(patients):
        for number in range(pictures):
            image, square = draw(patient, number)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"p{patient}_{number}.png")
            Image.fromarray(square.astype(np.uint8) * 255).save(folder / f"p{patient}_{number}_mask.png")
    source = {
        "path": str(folder),
        "layout": "folder",
        "images": "{patient}_{slice}.png",
        "masks": "{patient}_{slice}_mask.png",
        "channels": {"FLAIR": 0},
        "labels": {0: "background", 1: "tumour"},
        "mask_values": {0: 0, 255: 1},
    }
    return {
        "name": name,
        "sequences": ["FLAIR"],
        "size": SIZE,
        "cohorts": {name: {"sources": [source], "fractions": dict(fractions)}},
    }
