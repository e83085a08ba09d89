import pytest
import torch

from seglens.steering.attribution import LatentAttribution
from seglens.steering.candidates import candidate_scales, class_attribution


def effects(hit, firing=None):
    zeros = torch.zeros(len(hit))
    regions = {"hit": torch.tensor(hit), "false_positive": zeros, "false_negative": zeros}
    rates = torch.ones(len(hit)) if firing is None else torch.tensor(firing)
    return LatentAttribution(regions, regions, dict.fromkeys(regions, 1), rates, zeros)


def test_a_lever_keeps_the_strongest_latents_that_fire():
    attribution = class_attribution(effects([0.5, -4.0, 8.0, 0.1], [1.0, 1.0, 0.0, 1.0]), n_latents=2)
    assert attribution.tolist() == [0.125, -1.0, 0.0, 0.0]


def test_candidates_scale_what_they_say():
    scales = candidate_scales(
        4, {"core": [2, 0], "edema": []}, {"core": effects([1.0, 0, 0, 0]), "edema": effects([0, 2.0, 0, 0])}
    )
    assert scales["core latents x 1.5"].tolist() == [1.5, 1.0, 1.5, 1.0]
    assert scales["core against edema +0.5"].tolist() == [1.5, 0.5, 1.0, 1.0]
    assert not any(name.startswith("edema latents") for name in scales)
    assert len(scales) == 4 + 4


def test_no_effect_is_no_lever():
    assert class_attribution(effects([0.0, 0.0])).tolist() == pytest.approx([0.0, 0.0])
