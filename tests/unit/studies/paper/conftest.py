"""A study on pictures that cost nothing to make, and of which nothing is trained until it is asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from seglens.activations.store import ActivationStore
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.studies.settings import StudySettings


@pytest.fixture(scope="session")
def tiny_settings(tmp_path_factory) -> StudySettings:
    """Ten patients with three pictures each: noise with a bright square."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for patient in range(10):
        for number in range(3):
            mask = np.zeros((32, 32), np.uint8)
            mask[8 + patient : 16 + patient, 10 + number : 18] = 255
            image = 90 + 60 * (mask > 0) + rng.normal(0, 15, (32, 32))
            Image.fromarray(image.clip(1, 255).astype(np.uint8)).save(folder / f"p{patient}_{number}.png")
            Image.fromarray(mask).save(folder / f"p{patient}_{number}_mask.png")
    source = {
        "path": str(folder),
        "layout": "folder",
        "images": "{patient}_{slice}.png",
        "masks": "{patient}_{slice}_mask.png",
        "channels": {"FLAIR": 0},
        "labels": {0: "background", 1: "tumour"},
        "mask_values": {0: 0, 255: 1},
    }
    return StudySettings.model_validate(
        {
            "name": "squares",
            "sequences": ["FLAIR"],
            "size": 32,
            "cohorts": {"squares": {"sources": [source], "fractions": {"train": 0.4, "val": 0.3, "test": 0.3}}},
            "segmenters": {"squares": {"cohort": "squares", "steps": 4, "batch_size": 6}},
            "hookpoint": "stage1",
            "dictionaries": {"k": 4, "expansion": 2, "steps": 10, "batch_size": 500, "controls": False},
            "atlas_top_k": 2,
        }
    )


@pytest.fixture(scope="session")
def fitted():
    """A dictionary and the activations that it was fitted to, [n d_in]."""
    tokens = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    store = ActivationStore.from_grids(tokens.view(4, 10, 10, 6), hookpoint="middle", segmenter_hash="", slices_hash="")
    settings = FitSettings(k=3, expansion=4, steps=60, batch_size=200)
    return fit_dictionary(store, settings=settings, seed=0), tokens
