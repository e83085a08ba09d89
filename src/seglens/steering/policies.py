"""How latents, operation and alpha are chosen, and what each way of choosing may look at.

``held_out`` sees masks of selection patients only. ``oracle`` takes, slice by slice, the best alpha by that slice's own
Dice (the paper, as far as it says): not a method that can be deployed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.processes import from_first
from seglens.progress import Progress, silent
from seglens.segmenters.scoring import Scores
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import LatentAtlas
from seglens.steering.baselines import random_latents
from seglens.steering.edits import LatentEdit, Operation
from seglens.steering.levers import LatentEffects, associated_latents, causal_latents, latent_effects
from seglens.steering.sweep import UNEDITED, part_of, sweep

ALPHAS: Mapping[str, tuple[float, ...]] = {
    "multiply": (-1.0, 0.0, 0.5, 1.5, 2.0, 3.0),
    "add": (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0),
}
"""In the dictionary's scaled units; beyond about -2..3 a segmentation is destroyed."""
NEUTRAL: Mapping[str, float] = {"multiply": 1.0, "add": 0.0}
N_LATENTS = (10, 60)
COARSE_SLICES = 32
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
        candidates: all that was tried.
    """

    edit: LatentEdit
    by_operation: Mapping[Operation, LatentEdit]
    selection: pl.DataFrame
    effects: LatentEffects
    candidates: tuple["Candidate", ...] = ()

    def value_of(self, edit: LatentEdit) -> float:
        """Objective of a finalist on all selection slices; of an identity that of the untouched network."""
        full = self.selection.filter(pl.col("stage") == "full")
        values: dict[str, float] = dict(full.select("edit", "objective").iter_rows())
        return float(values.get(edit.name, values[UNEDITED]))

    def firing_rate(self, edit: LatentEdit) -> float | None:
        """Mean share of the selection slices' tokens at which the edit's latents fire; None without latents."""
        return float(self.effects.firing[list(edit.latents)].mean()) if edit.latents else None

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
    # gradients may differ in their last bits between GPUs: one process ranks the latents for all
    effects = from_first(lambda: latent_effects(segmenter, dictionary, selection, target=label, batch_size=batch_size))
    allowed = set(range(dictionary.n_latents) if candidates is None else candidates)
    return search(
        segmenter,
        dictionary,
        selection,
        candidates_of(
            dictionary,
            effects,
            [("association", [latent for latent in associated_latents(atlas, target) if latent in allowed])],
            operations={operation: alphas[operation] for operation in operations},
            n_latents=n_latents,
            allowed=allowed,
        ),
        effects,
        objective=lambda scores: pooled_objective(scores, target),
        operations=operations,
        batch_size=batch_size,
        progress=progress,
    )


def candidates_of(
    dictionary: SparseAutoencoder,
    effects: LatentEffects,
    rankings: Sequence[tuple[str, Sequence[int]]],
    *,
    operations: Mapping[Operation, Sequence[float]],
    n_latents: Sequence[int],
    allowed: set[int],
) -> list[Candidate]:
    """Edits of the first n latents of each ranking, and of the causal rankings.

    A causal ranking is tried only with the alphas that go the way its effect points. At most half of the latents that
    fire are edited together, so that as many random ones are left as a control.

    Args:
        dictionary: whose latents they are.
        effects: on the selection slices; they give the causal rankings.
        rankings: further rankings by name, best latent first, tried with every alpha.
        operations: alphas of each operation.
        n_latents: how many latents together.
        allowed: latents that may be chosen.
    """
    live = effects.firing > 0
    most = int(live.sum()) // 2
    identity = dictionary.hash
    found = []
    for operation, alphas in operations.items():
        neutral = NEUTRAL[operation]
        up, down = causal_latents(effects, "scale" if operation == "multiply" else "shift")
        directed = [(name, ranking, 0) for name, ranking in rankings] + [("causal", up, 1), ("causal", down, -1)]
        for name, ranking, direction in directed:
            usable = [latent for latent in ranking if live[latent] and latent in allowed]
            values = [value for value in alphas if value != neutral and (value - neutral) * direction >= 0]
            found += [
                Candidate(LatentEdit(dictionary.hookpoint, identity, tuple(usable[:size]), operation, value), name)
                for size in sorted({min(n, len(usable), most) for n in n_latents} - {0})
                for value in values
            ]
    return found


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
    """Score candidates on evenly spaced slices, each operation's best on all; take the best (see `choose_edit`)."""
    by_name = {candidate.edit.name: candidate for candidate in reversed(candidates)}
    by_name = dict(sorted(by_name.items()))
    names = {
        operation: [name for name, candidate in by_name.items() if candidate.edit.operation == operation]
        for operation in operations
    }
    edits = {name: candidate.edit for name, candidate in by_name.items()}
    rows = evenly_spaced(len(selection), COARSE_SLICES)
    rest = sorted(set(range(len(selection))) - set(rows))

    def scored(chosen: Sequence[int], some: Mapping[str, LatentEdit], before: int) -> Scores:
        step = part_of(progress, before, len(selection))
        part = selection.select(chosen)
        table = sweep(segmenter, dictionary, part, some, batch_size=batch_size, progress=step).table
        numbers = pl.Series(chosen, dtype=pl.UInt32)
        return Scores(table.with_columns(numbers.gather(table["row"]).alias("row")))

    coarse = scored(rows, edits, 0)
    first = objective(coarse)
    finalists = {
        name: edits[name]
        for group in names.values()
        for name in sorted(group, key=lambda name: (-first[name], name))[:FINALISTS]
    }
    both = [Scores(coarse.table.filter(pl.col("edit").is_in([UNEDITED, *finalists])))]
    if rest:
        both.append(scored(rest, finalists, len(rows)))
    final = objective(Scores.merged(both))
    by_operation: dict[Operation, LatentEdit] = {}
    for operation, group in names.items():
        entered = sorted((name for name in group if name in final), key=lambda name: (-final[name], name))
        if entered and final[entered[0]] > final[UNEDITED]:
            by_operation[operation] = edits[entered[0]]
        else:
            latents = edits[entered[0]].latents if entered else ()
            by_operation[operation] = LatentEdit(
                dictionary.hookpoint, dictionary.hash, latents, operation, NEUTRAL[operation]
            )
    best = max(by_operation.values(), key=lambda edit: final.get(edit.name, final[UNEDITED]))
    tried = [
        _row(name, values[name], stage, by_name.get(name))
        for stage, values in (("coarse", first), ("full", final))
        for name in values
    ]
    return ChosenEdit(best, by_operation, pl.DataFrame(tried, schema=SELECTION_SCHEMA), effects, tuple(candidates))


def random_searches(
    segmenter: Segmenter,
    dictionary: SparseAutoencoder,
    selection: SliceSet,
    chosen: ChosenEdit,
    *,
    draws: int,
    objective: Objective,
    seed: int,
    batch_size: int = 16,
) -> list[ChosenEdit]:
    """The control of a search: the same search over random latents, once a draw.

    In each draw every set of latents that the search tried is replaced by one of other latents that fire about as
    often (the chosen edit's own latents are avoided where enough others fire). So a draw has exactly the freedom of
    the edit: as many sets, sizes and alphas, the same slices, the same finalists, and an identity where nothing beats
    the untouched network.
    """
    found = []
    for draw in range(draws):
        sets: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
        candidates = []
        for candidate in chosen.candidates:
            edit = candidate.edit
            key = (edit.operation, edit.latents)
            if key not in sets:
                own = seed + 10_007 * draw + len(sets)
                avoid = chosen.by_operation[edit.operation].latents
                (sets[key],) = random_latents(chosen.effects.firing, edit.latents, draws=1, seed=own, avoid=avoid)
            candidates.append(Candidate(replace(edit, latents=sets[key]), "random"))
        found.append(
            search(
                segmenter,
                dictionary,
                selection,
                candidates,
                chosen.effects,
                objective=objective,
                operations=list(chosen.by_operation),
                batch_size=batch_size,
            )
        )
    return found


SELECTION_SCHEMA: Mapping[str, Any] = {
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
    """Of several edits the best on each slice, by the slice's own mask (see `oracle_choice`), as rows of their own.

    Args:
        scores: with all ``edits`` and ``none`` on the same slices.
        edits: names to choose among; ``none`` always belongs to them.
        target: label whose Dice is compared; None for the mean over the foreground classes in the slice's mask.
        name: what the new rows are called.
    """
    best = oracle_choice(scores, edits, target=target)
    chosen = scores.table.join(best, on=["row", "edit"], how="semi", maintain_order="left")
    return Scores(chosen.sort("row", "label").with_columns(pl.lit(name).alias("edit")))


def oracle_choice(scores: Scores, edits: Sequence[str], *, target: int | None) -> pl.DataFrame:
    """The edit with the highest Dice on each slice: columns row, edit; in the order of the rows.

    A tie goes to the edit with the fewest false-positive pixels (where a class is not in the mask every edit that
    predicts it has Dice 0), then to the untouched network, then to the edit that is listed first.
    """
    order = [UNEDITED, *(edit for edit in edits if edit != UNEDITED)]
    label = pl.col("label")
    wrong = (
        scores.table.filter(label > 0 if target is None else label == target)
        .group_by("edit", "row")
        .agg((pl.col("predicted") - pl.col("tp")).sum().alias("wrong"))
    )
    places = pl.DataFrame({"edit": order, "order": range(len(order))}, schema={"edit": pl.String, "order": pl.Int64})
    ranked = slice_dice(scores, target).join(places, on="edit").join(wrong, on=["edit", "row"])
    best = ranked.sort(["row", "dice", "wrong", "order"], descending=[False, True, False, False])
    return best.unique("row", keep="first", maintain_order=True).select("row", "edit")


def slice_dice(scores: Scores, target: int | None) -> pl.DataFrame:
    """Dice of every slice and edit: columns edit, row, dice.

    A class absent from mask and prediction gives 1. With ``target`` None: the mean over the foreground classes in the
    slice's mask; slices without any are left out.
    """
    both = pl.col("predicted") + pl.col("truth")
    dice = pl.when(both > 0).then(2 * pl.col("tp") / both).otherwise(1.0)
    rows = (
        scores.table.filter(pl.col("label") == target)
        if target is not None
        else scores.table.filter((pl.col("label") > 0) & (pl.col("truth") > 0))
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
