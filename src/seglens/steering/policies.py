"""How latents, operation and alpha are chosen, and what each way of choosing may look at.

``held_out`` sees masks of selection patients only. ``oracle`` takes, slice by slice, the best alpha by the evaluated
slice's own mask (the paper, as far as it says): an upper bound, not a method that can be deployed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.progress import Progress, silent
from seglens.segmenters.scoring import Scores
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import LatentAtlas
from seglens.steering.edits import LatentEdit, Operation
from seglens.steering.levers import LatentEffects, associated_latents, causal_latents, latent_effects
from seglens.steering.sweep import UNEDITED, part_of, sweep

ALPHAS: Mapping[str, tuple[float, ...]] = {
    "multiply": (-2.0, -1.0, 0.0, 0.5, 1.5, 2.0, 3.0),
    "add": (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0),
}
"""In the dictionary's scaled units; beyond about -2..3 a segmentation is destroyed."""
N_LATENTS = (5, 20, 60)
COARSE_SLICES = 40
FINALISTS = 6

Objective = Callable[[Scores], dict[str, float]]
"""From scores to one number an edit, larger is better."""


@dataclass(frozen=True)
class ChosenEdit:
    """What a policy chose, and from what.

    Attributes:
        edit: the edit; an identity where nothing beat the untouched network on the selection slices.
        by_operation: the best edit of each operation (the paper's ALS is ``add``, its MLS ``multiply``).
        selection: one row a candidate and stage: edit, chosen_by (association, causal), operation, value, n_latents,
            latents, stage (coarse: evenly spaced selection slices; full: all of them), objective.
        effects: of every latent on the target, on the selection slices.
    """

    edit: LatentEdit
    by_operation: Mapping[str, LatentEdit]
    selection: pl.DataFrame
    effects: LatentEffects

    def chosen_by(self, edit: LatentEdit) -> str:
        """``association`` or ``causal``: the ranking that an edit's latents come from."""
        found = self.selection.filter(pl.col("edit") == edit.name)["chosen_by"].to_list()
        return found[0] if found else "nothing beat the untouched network"


@dataclass(frozen=True)
class Candidate:
    """An edit that may be chosen, and the ranking its latents come from."""

    edit: LatentEdit
    chosen_by: str


def choose_edit(
    segmenter: Segmenter,
    dictionary: SparseAutoencoder,
    atlas: LatentAtlas,
    selection: SliceSet,
    *,
    target: str,
    policy: Literal["held_out"] = "held_out",
    n_latents: Sequence[int] = N_LATENTS,
    operations: Sequence[Operation] = ("multiply", "add"),
    alphas: Mapping[str, Sequence[float]] = ALPHAS,
    candidates: Sequence[int] | None = None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> ChosenEdit:
    """Choose latents, operation and alpha for one class on labelled selection slices, and on nothing else.

    Latents are ranked by class association (with firing mass and lift demanded) and by signed causal effect (gradient x
    code on hits, false positives and false negatives). Every ranking's first n, with every alpha that goes the way its
    effect points, is scored on evenly spaced selection slices; the best ones on all of them. The winner has the highest
    pooled Dice of the class; where nothing beats the untouched network, the winner is an identity.

    Args:
        segmenter: the network that the dictionary was fitted to.
        dictionary: whose latents are edited.
        atlas: of that dictionary.
        selection: slices of the target cohort's selection patients, with masks.
        target: name of the class.
        policy: only ``held_out`` gives one edit; for the oracle see `oracle_scores`.
        n_latents: how many latents to try together.
        operations: of ``multiply`` and ``add``.
        alphas: values of each operation.
        candidates: only these latents may be chosen; None for all.
        batch_size: slices at once.
        progress: told while candidates are scored.

    Raises:
        ValueError: an unknown policy, class or operation.
    """
    if policy != "held_out":
        raise ValueError(f"policy {policy!r} gives no single edit; use 'held_out', or oracle_scores() for the oracle")
    label = label_of(segmenter, target)
    unknown = [operation for operation in operations if operation not in alphas]
    if unknown:
        raise ValueError(f"no alphas for {', '.join(unknown)}; give them, or choose among {', '.join(alphas)}")
    effects = latent_effects(segmenter, dictionary, selection, target=label, batch_size=batch_size)
    entries: list[Candidate] = []
    for operation in operations:
        rankings = [("association", associated_latents(atlas, target), 0)]
        kind = "scale" if operation == "multiply" else "shift"
        up, down = causal_latents(effects, kind)
        rankings += [("causal", up, 1), ("causal", down, -1)]
        for chosen_by, ranking, direction in rankings:
            ranking = [latent for latent in ranking if candidates is None or latent in candidates]
            entries += [
                Candidate(edit, chosen_by)
                for edit in grid_of_edits(dictionary, ranking, operation, alphas[operation], n_latents, direction)
            ]
    return search(
        segmenter,
        dictionary,
        selection,
        entries,
        effects,
        objective=lambda scores: pooled_objective(scores, target),
        operations=operations,
        batch_size=batch_size,
        progress=progress,
    )


def grid_of_edits(
    dictionary: SparseAutoencoder,
    ranking: Sequence[int],
    operation: Operation,
    alphas: Sequence[float],
    n_latents: Sequence[int],
    direction: int = 0,
) -> list[LatentEdit]:
    """Edits of a ranking's first n latents.

    Args:
        dictionary: whose latents they are.
        ranking: latents, best first.
        operation: of the edits.
        alphas: their values.
        n_latents: how many latents together; more than the ranking has means all of it.
        direction: 1 keeps alphas that strengthen (above 1 for multiply, 0 for add), -1 those that weaken, 0 all.
    """
    neutral = 1.0 if operation == "multiply" else 0.0
    values = [value for value in alphas if value != neutral and (value - neutral) * direction >= 0]
    sizes = sorted({min(n, len(ranking), max(1, dictionary.n_latents // 4)) for n in n_latents})
    identity = dictionary.hash
    return [
        LatentEdit(dictionary.hookpoint, identity, tuple(ranking[:size]), operation, value)
        for size in sizes
        if size
        for value in values
    ]


def search(
    segmenter: Segmenter,
    dictionary: SparseAutoencoder,
    selection: SliceSet,
    candidates: Sequence[Candidate],
    effects: LatentEffects,
    *,
    objective: Objective,
    operations: Sequence[Operation],
    batch_size: int = 16,
    progress: Progress = silent,
) -> ChosenEdit:
    """Score candidates on evenly spaced slices, the best of each operation on all, and take the best (see `choose_edit`)."""
    by_name = {candidate.edit.name: candidate for candidate in reversed(candidates)}
    by_name = dict(sorted(by_name.items()))
    names = {
        operation: [name for name, candidate in by_name.items() if candidate.edit.operation == operation]
        for operation in operations
    }
    coarse = selection.select(evenly_spaced(len(selection), COARSE_SLICES))
    coarse_edits = {name: candidate.edit for name, candidate in by_name.items()}
    steps = len(coarse) + len(selection)
    scored = sweep(
        segmenter,
        dictionary,
        coarse,
        coarse_edits,
        batch_size=batch_size,
        progress=part_of(progress, 0, steps),
    )
    first = objective(scored)
    finalists = {
        name: coarse_edits[name]
        for group in names.values()
        for name in sorted(group, key=lambda name: (-first[name], name))[:FINALISTS]
    }
    final = objective(
        sweep(
            segmenter,
            dictionary,
            selection,
            finalists,
            batch_size=batch_size,
            progress=part_of(progress, len(coarse), steps),
        )
    )
    by_operation = {}
    for operation, group in names.items():
        entered = sorted((name for name in group if name in final), key=lambda name: (-final[name], name))
        if entered and final[entered[0]] > final[UNEDITED]:
            by_operation[operation] = coarse_edits[entered[0]]
        else:
            latents = coarse_edits[entered[0]].latents if entered else ()
            neutral = 1.0 if operation == "multiply" else 0.0
            by_operation[operation] = LatentEdit(dictionary.hookpoint, dictionary.hash, latents, operation, neutral)
    best = max(by_operation.values(), key=lambda edit: final.get(edit.name, final[UNEDITED]))
    rows = [
        _row(name, values[name], stage, by_name.get(name))
        for stage, values in (("coarse", first), ("full", final))
        for name in values
    ]
    return ChosenEdit(best, by_operation, pl.DataFrame(rows, schema=SELECTION_SCHEMA), effects)


SELECTION_SCHEMA = {
    "edit": pl.String,
    "chosen_by": pl.String,
    "operation": pl.String,
    "value": pl.Float64,
    "n_latents": pl.Int32,
    "latents": pl.List(pl.Int32),
    "stage": pl.String,
    "objective": pl.Float64,
}


def oracle_scores(scores: Scores, edits: Sequence[str], *, target: int | None, name: str = "oracle") -> Scores:
    """Of several edits the best on each slice, by the slice's own mask; a tie goes to the untouched network.

    Args:
        scores: with all ``edits`` and ``none`` on the same slices.
        edits: names to choose among; ``none`` always belongs to them.
        target: label whose Dice is compared; None for the mean over the foreground classes in the slice's mask.
        name: what the new rows are called.
    """
    order = [UNEDITED, *(edit for edit in edits if edit != UNEDITED)]
    ranked = slice_dice(scores, target).join(
        pl.DataFrame({"edit": order, "order": range(len(order))}, schema={"edit": pl.String, "order": pl.Int64}),
        on="edit",
    )
    best = ranked.sort(["row", "dice", "order"], descending=[False, True, False]).unique(
        "row", keep="first", maintain_order=True
    )
    chosen = scores.table.join(best.select("row", "edit"), on=["row", "edit"], how="semi", maintain_order="left")
    return Scores(chosen.sort("row", "label").with_columns(pl.lit(name).alias("edit")))


def slice_dice(scores: Scores, target: int | None) -> pl.DataFrame:
    """Dice of every slice and edit: columns edit, row, dice.

    A class absent from mask and prediction gives 1. With ``target`` None: the mean over the foreground classes in the
    slice's mask; slices without any are left out.
    """
    both = pl.col("predicted") + pl.col("truth")
    dice = pl.when(both > 0).then(2 * pl.col("tp") / both).otherwise(1.0)
    rows = scores.table.filter(pl.col("label") == target) if target is not None else scores.table.filter(
        (pl.col("label") > 0) & (pl.col("truth") > 0)
    )
    return rows.group_by("edit", "row", maintain_order=True).agg(dice.mean().alias("dice"))


def pooled_objective(scores: Scores, target: str) -> dict[str, float]:
    """Pooled Dice of a class for each edit; 0 where the class is neither predicted nor true."""
    pooled = (
        scores.table.filter(pl.col("class") == target)
        .group_by("edit", maintain_order=True)
        .agg(pl.col("tp", "predicted", "truth").sum())
    )
    return {
        row["edit"]: 2 * row["tp"] / max(1, row["predicted"] + row["truth"]) for row in pooled.iter_rows(named=True)
    }


def label_of(segmenter: Segmenter, target: str) -> int:
    """The label of a foreground class.

    Raises:
        ValueError: no such class.
    """
    known = {name: label for label, name in segmenter.labels.items() if label != 0}
    if target not in known:
        raise ValueError(f"no class {target!r} to steer; this segmenter has {', '.join(known)}")
    return known[target]


def evenly_spaced(n: int, most: int) -> list[int]:
    """At most ``most`` of 0..n-1, evenly spaced."""
    return [number * n // most for number in range(most)] if n > most else list(range(n))


def _row(name: str, objective: float, stage: str, candidate: Candidate | None) -> dict[str, object]:
    edit = candidate.edit if candidate else None
    return {
        "edit": name,
        "chosen_by": candidate.chosen_by if candidate else None,
        "operation": edit.operation if edit else None,
        "value": edit.value if edit else None,
        "n_latents": len(edit.latents) if edit else 0,
        "latents": list(edit.latents) if edit else [],
        "stage": stage,
        "objective": objective,
    }
