import pytest
import torch
from benchmarks import quality
from benchmarks.framework import Unavailable
from benchmarks.quality import Quality, TokensInMemory, Weights, fit_ours, judge, verdicts
from benchmarks.step_peers import tokens


def test_generated_tokens_are_centred_scaled_and_seeded():
    x = tokens(16, 500, seed=3)
    assert x.shape == (500, 16) and x.dtype == torch.float32
    assert torch.allclose(x.mean(0), torch.zeros(16), atol=1e-5)
    assert x.square().sum(1).mean() == pytest.approx(16, rel=1e-5)
    assert torch.equal(x, tokens(16, 500, seed=3)) and not torch.equal(x, tokens(16, 500, seed=4))


def test_judge_knows_a_perfect_dictionary_and_an_empty_one(monkeypatch):
    monkeypatch.setattr(quality, "K", 1)
    x = torch.eye(4)[torch.arange(40) % 3]
    perfect = Weights(torch.eye(4), torch.zeros(4), torch.eye(4), torch.zeros(4))
    assert judge(perfect, x) == (1.0, 0.25)  # nothing points along the fourth axis
    explained, dead = judge(Weights(torch.zeros(4, 4), torch.zeros(4), torch.eye(4), x.mean(0)), x)
    assert explained == pytest.approx(0, abs=1e-6) and dead == 1.0


def test_ours_can_be_fitted(monkeypatch):
    for name, value in {"D_IN": 8, "M": 32, "K": 2, "STEPS": 60, "BATCH": 64, "N_TOKENS": 256}.items():
        monkeypatch.setattr(quality, name, value)
    x = tokens(8, 256)
    monkeypatch.setattr(quality, "TokensInMemory", lambda x: TokensInMemory(x, d_in=8, n_tokens=256))
    explained, dead = judge(fit_ours(x, 1e-3, 0), x)
    assert explained > 0 and 0 <= dead < 1


def test_verdicts_compare_with_the_best_of_the_others():
    found = [
        Quality("seglens", 1e-3, 0, 0.790, 0.01),
        Quality("seglens", 1e-3, 1, 0.798, 0.01),
        Quality("other", 1e-3, 0, 0.798, 0.01),
        Quality("third", 1e-3, 0, 0.700, 0.02),
    ]
    (line,) = verdicts(found)
    assert line.startswith("learning rate 0.001: met: explained variance -0.0040")
    (line,) = verdicts([*found, Quality("third", 1e-3, 1, 0.700, -0.01)])
    assert "MISSED" in line and "dead latents +0.0050" in line
    assert verdicts(found[:2]) == []


def test_without_the_peer_ours_is_reported_alone(monkeypatch, capsys):
    def measure(subject):
        if subject != "seglens":
            raise Unavailable("not here")
        return [Quality(subject, 1e-3, 0, 0.8, 0.1)]

    monkeypatch.setattr(quality, "measure", measure)
    assert quality.main([]) == 0
    printed = capsys.readouterr().out
    assert "0.8000" in printed and "left out: dictionary-learning: not here" in printed
