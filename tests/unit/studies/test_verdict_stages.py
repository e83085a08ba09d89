"""The stage behind `seglens steer --policy auto`: what it writes, and that it asks once."""

from types import SimpleNamespace

import polars as pl
import pytest
import torch

from seglens.runs import Run
from seglens.segmenters.intervals import Interval
from seglens.steering.automatic import Verdict
from seglens.steering.interventions import Intervention
from seglens.studies import verdict_stages
from seglens.studies.demo import demo_settings
from seglens.studies.stages import Study


class FakeStudy(Study):
    """Stands for a study whose segmenters are trained."""

    def __init__(self, settings, run, announce):
        self.settings, self.run, self.announce = settings, run, announce

    def segmenter(self, name):
        return name

    def dictionary(self, name):
        return SimpleNamespace(hash=f"dictionary of {name}")

    def slices(self, cohort):
        return SimpleNamespace(split=lambda split: SimpleNamespace(hash=f"{split} of {cohort}"))


@pytest.fixture
def asked(monkeypatch):
    """How often the question was asked, and on which slices; the answer is that latents help."""
    calls = []

    def answer(segmenter, dictionary, selection, *, target, seed, progress):
        calls.append((segmenter, selection.hash, target))
        intervention = Intervention(
            "latents", 2, "held_out", lambda batch: batch.logits, {"stage2 scale": torch.ones(2)}
        )
        table = pl.DataFrame(
            {"name": ["latents", "last_layer"], "side": ["edit", "baseline"], "dice_pooled": [0.5, 0.45]}
        )
        improvement = Interval(0.05, 0.01, 0.09, 9, 2000)
        return Verdict(intervention, "latents", "last_layer", improvement, {"loss": "plain"}, table)

    monkeypatch.setattr(verdict_stages, "choose_intervention", answer)
    monkeypatch.setattr(verdict_stages, "Study", FakeStudy)
    return calls


def test_every_entry_is_asked_once_and_on_val_patients_only(asked, tmp_path):
    settings = demo_settings(0)
    said = verdict_stages.decide(settings, tmp_path / "run")
    best = "the best of 1 edits, latents, beats the best of 1 baselines, last_layer, by +0.050"
    assert said[0].startswith(f"adult on pediatric, edema: {best}")
    assert asked == [("adult", "val of pediatric", "edema"), ("pediatric", "val of adult", "edema")]
    assert verdict_stages.decide(settings, tmp_path / "run") == said
    assert len(asked) == 2
    artifact = Run(tmp_path / "run").artifact("verdict/adult-pediatric-edema")
    assert artifact.document("verdict")["helps"]
    assert torch.equal(artifact.tensors("values")["stage2 scale"], torch.ones(2))


def test_a_study_without_steering_is_refused(tmp_path):
    settings = demo_settings(0).model_copy(update={"steering": []})
    with pytest.raises(ValueError, match="no entry under steering"):
        verdict_stages.decide(settings, tmp_path / "run")
