"""The analysis behind `seglens verdict`: what it writes, and that it asks once."""

from types import SimpleNamespace

import polars as pl
import pytest
import torch

from seglens.runs import Run
from seglens.segmenters.intervals import Interval
from seglens.steering.automatic import Verdict
from seglens.steering.interventions import Intervention
from seglens.steering.records import VerdictRecord
from seglens.studies.analyses.verdict import sentences
from seglens.studies.demo import demo_settings
from seglens.studies.stages import Study
from seglens.studies.study import run_stages


@pytest.fixture
def asked(monkeypatch):
    """How often the question was asked, and on which slices; the answer is that latents help."""
    calls = []

    def answer(lens, selection, *, target, seed, progress):
        calls.append((lens, selection.hash, target))
        intervention = Intervention("latents", 2, "held_out", lambda seen: seen.logits, {"stage2 scale": torch.ones(2)})
        table = pl.DataFrame(
            {"name": ["latents", "last_layer"], "side": ["edit", "baseline"], "dice_pooled": [0.5, 0.45]}
        )
        lead = Interval(0.05, 0.01, 0.09, 9, 2000)
        return Verdict(intervention, "latents", "last_layer", lead, {"loss": "plain"}, table)

    def split_of(study, cohort):
        return SimpleNamespace(split=lambda split: SimpleNamespace(hash=f"{split} of {cohort}"))

    monkeypatch.setattr("seglens.steering.automatic.choose_intervention", answer)
    monkeypatch.setattr(Study, "lens", lambda study, name: name)
    monkeypatch.setattr(Study, "dictionary", lambda study, name: SimpleNamespace(hash=f"dictionary of {name}"))
    monkeypatch.setattr(Study, "slices", split_of)
    return calls


def test_every_entry_is_asked_once_and_on_val_patients_only(asked, tmp_path):
    settings = demo_settings(0)
    said = list(sentences(run_stages(settings, tmp_path / "run", ["verdict"])))
    best = "the best of 1 edits, latents, beats the best of 1 baselines, last_layer, by +0.050"
    assert said[0].startswith(f"- adult-pediatric-edema: {best}")
    assert asked == [("adult", "val of pediatric", "edema"), ("pediatric", "val of adult", "edema")]
    assert list(sentences(run_stages(settings, tmp_path / "run", ["verdict"]))) == said
    assert len(asked) == 2
    artifact = Run(tmp_path / "run").artifact("verdict/adult-pediatric-edema")
    assert artifact.record("verdict", VerdictRecord).helps
    assert torch.equal(artifact.tensors("values")["stage2 scale"], torch.ones(2))


def test_a_study_without_steering_is_refused(tmp_path):
    settings = demo_settings(0).model_copy(update={"steering": []})
    with pytest.raises(ValueError, match="no entry under steering"):
        run_stages(settings, tmp_path / "run", ["verdict"])
