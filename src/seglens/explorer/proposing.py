"""Edits that the run's own stages chose and tested, as a starting point for turning latents by hand."""

from typing import Literal, cast, get_args

from fastapi import APIRouter
from pydantic import BaseModel

from seglens.explorer.state import CurrentState
from seglens.steering.edits import LatentEdit
from seglens.steering.records import FailureRecord, SteeringRecord

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
    run = state.run.run
    edits: list[tuple[str, SteeringRecord | FailureRecord, LatentEdit]] = []
    for stage in run.stages("steering/"):
        for steered in run.artifact(stage).record("results", list[SteeringRecord]):
            edits.append((stage, steered, LatentEdit.from_description(steered.edit_description)))
    for stage in run.stages("failures/"):
        # such a stage names latents, operation and alpha of the segmenter's own dictionary
        for one in run.artifact(stage).record("results", list[FailureRecord]):
            if one.segmenter == segmenter and one.latents and one.alpha is not None:
                named = LatentEdit(opened.hookpoint, opened.dictionary_hash, one.latents, one.operation, one.alpha)
                edits.append((stage, one, named))
    found: dict[str, Proposal] = {}
    for stage, record, edit in edits:
        if record.alpha is None or record.is_identity or edit.gate is not None:
            continue
        if edit.dictionary_hash != opened.dictionary_hash or edit.mode != "difference":
            continue
        if edit.operation not in get_args(Turned):
            continue
        proposal = Proposal(
            stage=stage,
            chosen_by=record.chosen_by,
            edit=record.edit,
            latents=list(edit.latents),
            operation=cast("Turned", edit.operation),
            value=edit.value,
            where=edit.where,
        )
        found.setdefault(f"{stage} {proposal.edit}", proposal)
    return list(found.values())
