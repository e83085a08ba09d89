from types import SimpleNamespace

import pytest

from seglens.explorer.proposing import proposals
from seglens.runs import Run


@pytest.fixture
def proposed(held, first, monkeypatch):
    """Proposals of a run whose stages left these results."""
    assert first.atlas.n_latents  # read before the books are exchanged

    def of(**results):
        monkeypatch.setattr(
            Run, "stages", lambda _self, prefix="": [name for name in results if name.startswith(prefix)]
        )
        monkeypatch.setattr(
            Run, "artifact", lambda _self, stage: SimpleNamespace(document=lambda _name: results[stage])
        )
        return proposals("first", held)

    return of


def steering(first, **changes):
    described = {
        "dictionary_hash": first.dictionary_hash,
        "mode": "difference",
        "operation": "multiply",
        "value": 2.0,
        "latents": [3, 1],
        "where": "active",
        "gate": None,
    }
    entry = {"chosen_by": "selection patients", "edit": "x2", "alpha": 2.0, "is_identity": False}
    return entry | {"edit_description": described | changes}


def test_an_edit_of_a_steering_stage_is_proposed_once(proposed, first):
    found = proposed(**{"steering/first@discs": [steering(first), steering(first)], "atlas/first": [steering(first)]})
    assert [one.model_dump() for one in found] == [
        {
            "stage": "steering/first@discs",
            "chosen_by": "selection patients",
            "edit": "x2",
            "latents": [3, 1],
            "operation": "multiply",
            "value": 2.0,
            "where": "active",
        }
    ]


@pytest.mark.parametrize(
    "change",
    [{"dictionary_hash": "another"}, {"mode": "replace"}, {"operation": "swap"}, {"gate": {"label": "tumour"}}],
)
def test_what_cannot_be_turned_by_hand_is_left_out(proposed, first, change):
    assert proposed(**{"steering/a": [steering(first, **change)]}) == []


@pytest.mark.parametrize("change", [{"alpha": None}, {"is_identity": True}])
def test_what_differs_by_slice_or_changes_nothing_is_left_out(proposed, first, change):
    assert proposed(**{"steering/a": [steering(first) | change]}) == []


def test_a_failures_stage_tells_latents_and_alpha(proposed):
    entry = {"segmenter": "first", "chosen_by": "held-out", "edit": "top", "operation": "multiply"}
    entry |= {"latents": [5], "alpha": 0.5}
    oracle = entry | {"edit": "oracle", "latents": [], "alpha": None}
    other = entry | {"segmenter": "second"}
    (found,) = proposed(**{"failures/a": [entry, oracle, other]})
    assert (found.latents, found.operation, found.value, found.where) == ([5], "multiply", 0.5, "everywhere")


def test_the_finished_run_proposes_only_latents_it_has(held, first):
    for one in proposals("first", held):
        assert one.stage.split("/")[0] in {"steering", "failures"}
        assert all(0 <= latent < first.dictionary.n_latents for latent in one.latents)
