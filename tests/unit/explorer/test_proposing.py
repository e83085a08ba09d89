from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.records import failure, scores, steering

from seglens.explorer.proposing import proposals
from seglens.runs import Run
from seglens.steering.edits import LatentEdit


@pytest.fixture
def proposed(held, first, monkeypatch):
    """Proposals of a run whose stages left these results."""
    assert first.atlas.n_latents  # read before the books are exchanged

    def of(**results):
        monkeypatch.setattr(
            Run, "stages", lambda _self, prefix="": [name for name in results if name.startswith(prefix)]
        )
        monkeypatch.setattr(
            Run, "artifact", lambda _self, stage: SimpleNamespace(record=lambda _name, _kind: results[stage])
        )
        return proposals("first", held)

    return of


def steered(first, more=None, **changes):
    described = {"latents": (3, 1), "operation": "multiply", "value": 2.0, "where": "active"} | changes
    edit = LatentEdit(**{"hookpoint": first.hookpoint, "dictionary_hash": first.dictionary_hash} | described)
    figures = scores({"edema": 0.5})
    given = {"chosen_by": "selection patients", "edit": "x2", "edit_description": edit.description()}
    return steering(figures, figures, {}, **given | (more or {}))


def test_an_edit_of_a_steering_stage_is_proposed_once(proposed, first):
    found = proposed(**{"steering/first@discs": [steered(first), steered(first)], "atlas/first": [steered(first)]})
    assert [one.model_dump() for one in found] == [
        {
            "stage": "steering/first@discs",
            "chosen_by": "selection patients",
            "edit": "x2",
            "latents": [1, 3],
            "operation": "multiply",
            "value": 2.0,
            "where": "active",
        }
    ]


@pytest.mark.parametrize(
    "change",
    [{"dictionary_hash": "another"}, {"mode": "replace"}, {"operation": "swap"}, {"gate": 2}],
)
def test_what_cannot_be_turned_by_hand_is_left_out(proposed, first, change):
    assert proposed(**{"steering/a": [steered(first, **change)]}) == []


@pytest.mark.parametrize("change", [{"alpha": None}, {"is_identity": True}])
def test_what_differs_by_slice_or_changes_nothing_is_left_out(proposed, first, change):
    assert proposed(**{"steering/a": [steered(first, change)]}) == []


def test_a_failures_stage_tells_latents_and_alpha(proposed):
    entry = failure(3, 1, segmenter="first", latents=(5,), alpha=0.5)
    oracle = replace(entry, policy="oracle", edit="oracle", latents=None, alpha=None)
    (found,) = proposed(**{"failures/a": [entry, oracle, replace(entry, segmenter="second")]})
    assert (found.latents, found.operation, found.value, found.where) == ([5], "multiply", 0.5, "everywhere")


def test_the_finished_run_proposes_only_latents_it_has(held, first):
    for one in proposals("first", held):
        assert one.stage.split("/")[0] in {"steering", "failures"}
        assert all(0 <= latent < first.dictionary.n_latents for latent in one.latents)
