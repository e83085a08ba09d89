"""Edits chosen or fitted without a mask of the target cohort, and what test-time adaptation makes of the same images.

Table ``policies`` and table ``share of the oracle's gain`` want bars with intervals, one panel a transfer. Transfers,
and which patients policies see and which judge them, are those of `adaptation`. What is fixed in `label_free_policies`
was chosen on SSA to adult, SSA to pediatric and pediatric to SSA phantoms, never on a transfer of the demo's tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl

from seglens.artifacts import Artifact, Draft
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, part
from seglens.experiments.label_free_policies import (
    Entry,
    World,
    adaptations,
    baselines,
    evaluated,
    few_of,
    fits,
    matches,
    oracles,
    picks,
    proxy_for,
    without_masks,
)
from seglens.experiments.label_free_tables import EntryRecord, headlines, kept_rows, paragraphs, policy_rows
from seglens.experiments.transfers import Transfer, by_transfer, patients_of, transfers_of
from seglens.runtime.progress import Progress
from seglens.segmenters.scoring import Scores
from seglens.semantics.atlas import LatentAtlas
from seglens.studies.stages import Study

SEEDS = (0, 1, 2)
STEPS = 30
SOURCE_SLICES = 96
UNLABELLED_SLICES = 64
EVALUATION_SLICES = 110
"""Evenly spaced over all patients."""


def run(study: Study, progress: Progress, *, seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> ExperimentResult:
    """Every transfer of `adaptation`: policies, baselines, oracles; judged on patients that none of them saw.

    Args:
        study: with at least one entry under ``steering``.
        progress: told after each transfer.
        seeds: of fits and adaptations; transfers that `adaptation` does not do in full take the first.
        steps: of every fit to labelled slices.
    """
    transfers = _transfers(study)
    policies, kept = [], []
    for number, transfer in enumerate(transfers):
        found = label_free_study(study, transfer, plan_of(transfer, seeds, steps))
        scores, entries = Scores(found.table("scores")), found.record("entries", list[EntryRecord])
        policies.append(policy_rows(scores, entries, transfer.name, transfer.label))
        kept.append(kept_rows(scores, entries, transfer.name))
        progress(number + 1, len(transfers))
    table, shares = pl.concat(policies), pl.concat(kept)
    return ExperimentResult(
        {"policies": table, "share of the oracle's gain": shares}, headlines(shares), paragraphs(table, shares)
    )


def plan_of(transfer: Transfer, seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> dict[str, Any]:
    """Seeds and steps of a transfer; JSON-able."""
    return {"seeds": list(seeds if transfer.in_full else seeds[:1]), "steps": steps}


def one_transfer(study: Study, transfer: Transfer) -> None:
    """A transfer as `run` finds it."""
    label_free_study(study, transfer, plan_of(transfer))


def label_free_study(study: Study, transfer: Transfer, plan: Mapping[str, Any]) -> Artifact:
    """Entries of one transfer, chosen and judged: scores.parquet and entries.json."""
    name = transfer.segmenter
    lens = study.lens(name)
    selection, evaluation = (
        few_of(slices, most)
        for slices, most in zip(patients_of(study, transfer), (UNLABELLED_SLICES, EVALUATION_SLICES), strict=True)
    )
    source = few_of(study.own_slices(name, "train"), SOURCE_SLICES)
    atlas = LatentAtlas.read(study.result("atlas", name))
    inputs = dict(plan) | {
        "dictionary": lens.dictionary_hash,
        "source": source.hash,
        "selection": selection.hash,
        "evaluation": evaluation.hash,
        "version": 2,
    }

    def make(draft: Draft, progress: Progress) -> None:
        unlabelled = without_masks(selection)
        proxy = proxy_for(lens.segmenter, source, unlabelled, seed=plan["seeds"][0])
        world = World(lens, atlas, source, unlabelled, proxy, plan["seeds"], plan["steps"])
        parts: Sequence[Callable[[World], list[Entry]]] = (picks, matches, fits, adaptations, baselines)
        entries: list[Entry] = []
        for number, make_entries in enumerate(parts):
            entries += make_entries(world)
            progress(number + 1, len(parts) + 1)
        entries += oracles(world, evaluation)
        scores, entries = evaluated(lens.segmenter, entries, evaluation)
        draft.save_table("scores", scores.table)
        draft.save_record("entries", [entry.record for entry in entries], list[EntryRecord])

    return part(study, f"label_free/{name}-{transfer.cohort}", "label_free", inputs, make)


def _transfers(study: Study) -> list[Transfer]:
    """Each segmenter on a cohort once: no policy here asks for a class."""
    found: dict[tuple[str, str], Transfer] = {}
    for transfer in transfers_of(study):
        found.setdefault((transfer.segmenter, transfer.cohort), replace(transfer, names_label=False))
    return list(found.values())


EXPERIMENT = Experiment(
    name="label_free",
    title="Edits chosen without a mask of the target cohort, and test-time adaptation",
    paper="beyond the paper",
    run=run,
    parts=partial(by_transfer, one_transfer),
    version=7,
    figures=(
        Figure(
            kind="bars",
            table="policies",
            title="Gain in pooled Dice of the foreground on patients that nothing was chosen on",
            x="policy",
            y="gain",
            series="side",
            panel="transfer",
            low="low",
            high="high",
            caption="Intervals over patients. Oracles saw the masks that they are judged on.",
            only={"class": ["foreground"], "figure": ["dice_pooled"]},
        ),
    ),
    folded=("policies",),
)
