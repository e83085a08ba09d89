"""A study on pictures that cost nothing to make, and of which nothing is trained until it is asked for."""

import numpy as np
import pytest
import torch
from tests.pictures import BRIGHTER, SIZE, THIRDS, study_of_pictures

from seglens.activations.store import ActivationStore
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.studies.settings import StudySettings


@pytest.fixture(scope="session")
def tiny_settings(tmp_path_factory) -> StudySettings:
    """Ten patients with three pictures each: noise with a bright square."""
    folder = tmp_path_factory.mktemp("data")
    chance = np.random.default_rng(0)

    def noise_with_a_square(patient: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        square = np.zeros((SIZE, SIZE), bool)
        square[8 + patient : 16 + patient, 10 + number : 18] = True
        return (90 + BRIGHTER * square + chance.normal(0, 15, square.shape)).clip(1), square

    settings = study_of_pictures(folder, "squares", noise_with_a_square, patients=10, pictures=3, fractions=THIRDS)
    return StudySettings.model_validate(
        settings
        | {
            "segmenters": {"squares": {"cohort": "squares", "steps": 4, "batch_size": 6}},
            "hookpoints": "stage1",
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
