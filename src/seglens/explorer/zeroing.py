"""Effect of zeroing a latent on Dice: on its own strongest slices, and on slices that are the same for all latents."""

from typing import Annotated

import polars as pl
from fastapi import APIRouter, Query
from pydantic import BaseModel

from seglens.cohorts.slice_set import evenly_spaced
from seglens.explorer.opened import BATCH, Opened, OpenedRun
from seglens.explorer.state import CurrentState
from seglens.segmenters.score_summary import ByClass
from seglens.steering.edits import LatentEdit
from seglens.steering.sweep import UNEDITED, sweep

router = APIRouter(prefix="/segmenters/{segmenter}", tags=["latents"])
STRONGEST = 8
"""Slices of a latent's own on which its page measures it."""
COMPARED = 16
"""Slices on which all latents are compared: every latent costs a replay of each."""
MAX_LATENTS = 4
"""Of one request: while it runs nobody else's does."""
COLUMN = "effect_"
"""Begin of the names of the columns of `measured_effects`."""


class ClassEffect(BaseModel):
    """Pooled Dice of a class with a latent and without it; None where the class is in neither mask nor prediction."""

    label: str
    before: float | None
    after: float | None


class Effects(BaseModel):
    """Effect of zeroing a latent on the slices where it is strongest, class by class and for the foreground's mean."""

    n_slices: int
    classes: list[ClassEffect]


class Change(BaseModel):
    """Pooled Dice without a latent less that with it, by class; None where the class is in neither."""

    latent: int
    dice: dict[str, float | None]


@router.get("/latents/{latent}/effects")
def strongest(segmenter: str, latent: int, state: CurrentState) -> Effects:
    """Measure the loss of the network without a latent, on the slices where it is strongest."""
    opened = state.run.opened(segmenter)
    opened.has_latent(latent)
    unseen = state.run.unseen(opened.cohort)
    rows = [unseen[row] for row in opened.atlas.exemplars_of(latent)[0]["row"].to_list()[:STRONGEST]]
    if not rows:
        return Effects(n_slices=0, classes=[])
    with opened.alone():
        before, after = _dice(state.run, opened, rows, [latent])
    return Effects(
        n_slices=len(rows),
        classes=[ClassEffect(label=label, before=before[label], after=after[label]) for label in before],
    )


@router.get("/effects")
def compared(
    segmenter: str,
    state: CurrentState,
    latents: Annotated[list[int], Query(min_length=1, max_length=MAX_LATENTS)],
) -> list[Change]:
    """Measure the loss without each of a few latents, on the slices of `compared_rows`; kept in this process."""
    opened = state.run.opened(segmenter)
    for latent in latents:
        opened.has_latent(latent)
    with opened.alone():  # by when another request may have measured them
        missing = sorted(set(latents) - opened.effects.keys())
        if missing:
            before, *others = _dice(state.run, opened, compared_rows(state.run, opened), missing)
            for latent, after in zip(missing, others, strict=True):
                opened.effects[latent] = {label: _difference(after[label], before[label]) for label in before}
    return [Change(latent=latent, dice=opened.effects[latent]) for latent in latents]


def compared_rows(run: OpenedRun, opened: Opened) -> list[int]:
    """At most `COMPARED` unseen slices of a segmenter's own cohort, evenly spaced over all of them."""
    unseen = run.unseen(opened.cohort)
    return [unseen[place] for place in evenly_spaced(len(unseen), COMPARED)]


def measured_effects(opened: Opened) -> pl.DataFrame:
    """Values of `Change.dice` that were measured in this process.

    Returns:
        One row a latent and a column ``effect_<class>`` each, ``effect_foreground`` for the mean of the foreground's
        classes; null where it was not measured.
    """
    latents = range(opened.atlas.n_latents)
    labels = ["foreground", *(label for value, label in opened.atlas.labels.items() if value > 0)]
    columns = {
        f"{COLUMN}{label}": [opened.effects.get(latent, {}).get(label) for latent in latents] for label in labels
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Float64))


def _dice(run: OpenedRun, opened: Opened, rows: list[int], latents: list[int]) -> list[ByClass]:
    """Pooled Dice by class of the untouched network and, after it, without each of these latents; call it `alone`."""
    identity = opened.lens.dictionary_hash
    zeroed = {str(latent): LatentEdit(opened.hookpoint, identity, (latent,), "zero") for latent in latents}
    slices = run.slices(opened.cohort).select(rows)
    scores = sweep(opened.lens, slices, zeroed, batch_size=BATCH)
    return [scores.summary(edit).dice_pooled for edit in (UNEDITED, *zeroed)]


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
