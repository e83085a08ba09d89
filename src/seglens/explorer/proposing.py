"""Edits that the run's own stages chose and tested, as a starting point for turning latents by hand."""

from typing import Any, Literal, cast, get_args

from fastapi import APIRouter
from pydantic import BaseModel

from seglens.explorer.state import CurrentState

router = APIRouter(tags=["cases"])
Turned = Literal["multiply", "add", "zero"]


class Proposal(BaseModel):
    """An edit of a finished stage.

    Attributes:
        stage: where it was chosen.
        chosen_by: how.
        edit: its short name.
        latents: that it changes.
        operation: what it does to them.
        value: its strength.
        where: at every token, or where they fire.
    """

    stage: str
    chosen_by: str
    edit: str
    latents: list[int]
    operation: Turned
    value: float
    where: Literal["everywhere", "active"]


@router.get("/segmenters/{segmenter}/proposals")
def proposals(segmenter: str, state: CurrentState) -> list[Proposal]:
    """The edits of this segmenter's latents that `steering` and `failures` stages of the run chose, each once.

    Those that differ from slice to slice (an oracle's) or that change nothing are left out.
    """
    opened = state.run.opened(segmenter)
    found: dict[str, Proposal] = {}
    for prefix in ("steering/", "failures/"):
        for stage in state.run.run.stages(prefix):
            for entry in state.run.run.artifact(stage).document("results"):
                described = entry.get("edit_description") or _of_failures(entry, segmenter, opened.dictionary_hash)
                if described is None or entry.get("alpha") is None or entry.get("is_identity"):
                    continue
                if described["dictionary_hash"] != opened.dictionary_hash or described["mode"] != "difference":
                    continue
                if described["operation"] not in get_args(Turned) or described.get("gate") is not None:
                    continue
                proposal = Proposal(
                    stage=stage,
                    chosen_by=entry["chosen_by"],
                    edit=entry["edit"],
                    latents=described["latents"],
                    operation=cast("Turned", described["operation"]),
                    value=described["value"],
                    where=described["where"],
                )
                found.setdefault(f"{stage} {proposal.edit}", proposal)
    return list(found.values())


def _of_failures(entry: dict[str, Any], segmenter: str, dictionary_hash: str) -> dict[str, Any] | None:
    """A failures stage names latents, operation and alpha of the segmenter's own dictionary; None of another."""
    if entry.get("segmenter") != segmenter or not entry.get("latents"):
        return None
    fields = {"operation": entry["operation"], "value": entry["alpha"], "latents": entry["latents"]}
    return fields | {"dictionary_hash": dictionary_hash, "mode": "difference", "where": "everywhere"}
