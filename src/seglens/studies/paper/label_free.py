"""Edits chosen or fitted without a mask of the target cohort, and what test-time adaptation makes of the same images.

Table ``policies`` and table ``share of the oracle's gain`` want bars with intervals, one panel a direction. Directions,
and which patients policies see and which judge them, are those of `adaptation`. What is fixed in `label_free_policies`
was chosen on SSA to adult, SSA to pediatric and pediatric to SSA phantoms, never on a direction of the demo's tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl

from seglens.artifacts import Artifact, Draft
from seglens.progress import Progress
from seglens.segmenters.scoring import Scores
from seglens.semantics.atlas import LatentAtlas
from seglens.studies.paper.directions import Direction, by_direction, directions_of, patients_of
from seglens.studies.paper.experiment import Experiment, Figure, Finding, part
from seglens.studies.paper.label_free_policies import (
    Entry,
    World,
    adaptations,
    few_of,
    fits,
    judged,
    matches,
    oracles,
    picks,
    rivals,
    stand_in_for,
    without_masks,
)
from seglens.studies.paper.label_free_tables import headlines, kept_rows, paragraphs, policy_rows
from seglens.studies.stages import Study

SEEDS = (0, 1, 2)
STEPS = 30
SOURCE_SLICES = 96
UNLABELLED_SLICES = 64
EVALUATION_SLICES = 110
"""Evenly spaced over all patients."""


def run(study: Study, progress: Progress, *, seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> Finding:
    """Every direction of `adaptation`: policies, rivals, oracles; judged on patients that none of them saw.

    Args:
        study: with at least one entry under ``steering``.
        progress: told after each direction.
        seeds: of fits and adaptations; directions that `adaptation` does not do in full take the first.
        steps: of every fit to labelled slices.
    """
    directions = _directions(study)
    policies, kept = [], []
    for number, direction in enumerate(directions):
        found = label_free_study(study, direction, plan_of(direction, seeds, steps))
        scores, entries = Scores(found.table("scores")), found.document("entries")
        policies.append(policy_rows(scores, entries, direction.name, direction.label))
        kept.append(kept_rows(scores, entries, direction.name))
        progress(number + 1, len(directions))
    table, shares = pl.concat(policies), pl.concat(kept)
    return Finding(
        {"policies": table, "share of the oracle's gain": shares}, headlines(shares), paragraphs(table, shares)
    )


def plan_of(direction: Direction, seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> dict[str, Any]:
    """Seeds and steps of a direction; JSON-able."""
    return {"seeds": list(seeds if direction.in_full else seeds[:1]), "steps": steps}


def one_direction(study: Study, direction: Direction) -> None:
    """A direction as `run` finds it."""
    label_free_study(study, direction, plan_of(direction))


def label_free_study(study: Study, direction: Direction, plan: Mapping[str, Any]) -> Artifact:
    """Entries of one direction, chosen and judged: scores.parquet and entries.json."""
    name = direction.segmenter
    dictionary = study.dictionary(name)
    selection, evaluation = (
        few_of(slices, most)
        for slices, most in zip(patients_of(study, direction), (UNLABELLED_SLICES, EVALUATION_SLICES), strict=True)
    )
    source = few_of(study.own_slices(name, "train"), SOURCE_SLICES)
    atlas = LatentAtlas.read(study.atlas(name))
    inputs = dict(plan) | {
        "dictionary": dictionary.hash,
        "source": source.hash,
        "selection": selection.hash,
        "evaluation": evaluation.hash,
        "version": 2,
    }

    def make(draft: Draft, progress: Progress) -> None:
        segmenter = study.segmenter(name)
        unlabelled = without_masks(selection)
        stand_in = stand_in_for(segmenter, source, unlabelled, seed=plan["seeds"][0])
        world = World(segmenter, dictionary, atlas, source, unlabelled, stand_in, plan["seeds"], plan["steps"])
        parts: Sequence[Callable[[World], list[Entry]]] = (picks, matches, fits, adaptations, rivals)
        entries: list[Entry] = []
        for number, make_entries in enumerate(parts):
            entries += make_entries(world)
            progress(number + 1, len(parts) + 1)
        entries += oracles(world, evaluation)
        scores, entries = judged(segmenter, entries, evaluation)
        draft.save_table("scores", scores.table)
        draft.save_document("entries", [_described(entry) for entry in entries])

    return part(study, f"label_free/{name}-{direction.cohort}", "label_free", inputs, make)


def _directions(study: Study) -> list[Direction]:
    """Each segmenter on a cohort once: no policy here asks for a class."""
    found: dict[tuple[str, str], Direction] = {}
    for direction in directions_of(study):
        found.setdefault((direction.segmenter, direction.cohort), replace(direction, names_label=False))
    return list(found.values())


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "side": entry.side,
        "n_parameters": entry.corrections[0].n_parameters,
        "corrections": [correction.name for correction in entry.corrections],
        "oracles": list(entry.oracles),
        "chosen": entry.chosen,
    }


EXPERIMENT = Experiment(
    name="label_free",
    title="Edits chosen without a mask of the target cohort, and test-time adaptation",
    paper="beyond the paper",
    run=run,
    parts=partial(by_direction, one_direction),
    version=7,
    figures=(
        Figure(
            kind="bars",
            table="policies",
            title="Gain in pooled Dice of the foreground on patients that nothing was chosen on",
            x="policy",
            y="gain",
            series="side",
            panel="direction",
            low="low",
            high="high",
            caption="Intervals over patients. Oracles saw the masks that they are judged on.",
            only={"class": ["foreground"], "figure": ["dice_pooled"]},
        ),
    ),
    folded=("policies",),
)
