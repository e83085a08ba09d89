"""The search for an edit: candidates scored on few slices, the best of them on all, and the same for random latents."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.dictionaries.lens import Lens
from seglens.runtime.progress import Progress, part_of, silent
from seglens.segmenters.scoring import Scores
from seglens.steering.attribution import LatentAttribution, causal_latents
from seglens.steering.baselines import random_latents
from seglens.steering.edits import LatentEdit, Operation
from seglens.steering.sweep import UNEDITED, sweep

NEUTRAL: Mapping[str, float] = {"multiply": 1.0, "add": 0.0}
COARSE_SLICES = 32
FINALISTS = 6

Objective = Callable[[Scores], dict[str, float]]
"""From scores to one number an edit, larger is better."""


@dataclass(frozen=True)
class ChosenEdit:
    """Choice of a policy, and from what it was made.

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
    effects: LatentAttribution
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


def candidates_of(
    lens: Lens,
    effects: LatentAttribution,
    rankings: Sequence[tuple[str, Sequence[int]]],
    *,
    operations: Mapping[Operation, Sequence[float]],
    n_latents: Sequence[int],
    allowed: set[int],
    gates: Sequence[int] = (),
) -> list[Candidate]:
    """Edits of the first n latents of each ranking, and of the causal rankings.

    A causal ranking is tried only with the alphas that go the way its effect points. At most half of the latents that
    fire are edited together, so that as many random ones are left as a control.

    Args:
        lens: whose latents they are.
        effects: on the selection slices; they give the causal rankings.
        rankings: further rankings by name, best latent first, tried with every alpha.
        operations: alphas of each operation.
        n_latents: how many latents together.
        allowed: latents that may be chosen.
        gates: latents; the causal rankings are also tried where each of them fires, and nowhere else.
    """
    live, identity = effects.firing > 0, lens.dictionary_hash
    most = int(live.sum()) // 2
    found = []
    for operation, alphas in operations.items():
        neutral = NEUTRAL[operation]
        up, down = causal_latents(effects, "scale" if operation == "multiply" else "shift")
        directed: list[tuple[str, Sequence[int], int, int | None]] = [
            (name, ranking, 0, None) for name, ranking in rankings
        ]
        for gate in (None, *gates):
            name = "causal" if gate is None else "causal, gated"
            directed += [(name, up, 1, gate), (name, down, -1, gate)]
        for name, ranking, direction, gate in directed:
            usable = [latent for latent in ranking if live[latent] and latent in allowed]
            values = [value for value in alphas if value != neutral and (value - neutral) * direction >= 0]
            found += [
                Candidate(
                    LatentEdit(lens.hookpoint, identity, tuple(usable[:size]), operation, value, gate=gate),
                    name,
                )
                for size in sorted({min(n, len(usable), most) for n in n_latents} - {0})
                for value in values
            ]
    return found


def search(
    lens: Lens,
    selection: SliceSet,
    candidates: Sequence[Candidate],
    effects: LatentAttribution,
    *,
    objective: Objective,
    operations: Sequence[Operation],
    batch_size: int = 16,
    progress: Progress = silent,
) -> ChosenEdit:
    """Score candidates on evenly spaced slices, each operation's best on all; take the best (see `choose_edit`)."""
    (found,) = _searches(
        lens,
        selection,
        [candidates],
        effects,
        objective=objective,
        operations=operations,
        batch_size=batch_size,
        progress=progress,
    )
    return found


def random_searches(
    lens: Lens,
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
    often and with as much mass (the chosen edit's own latents are avoided where enough others fire). So a draw has
    exactly the freedom of the edit: as many sets, sizes and alphas, the same slices, the same finalists, and an
    identity where nothing beats the untouched network.
    """
    tried = []
    for draw in range(draws):
        sets: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
        candidates = []
        for candidate in chosen.candidates:
            edit = candidate.edit
            key = (edit.operation, edit.latents)
            if key not in sets:
                own = seed + 10_007 * draw + len(sets)
                avoid = chosen.by_operation[edit.operation].latents
                (sets[key],) = random_latents(
                    chosen.effects.firing, edit.latents, draws=1, seed=own, avoid=avoid, masses=chosen.effects.mass
                )
            candidates.append(Candidate(replace(edit, latents=sets[key]), "random"))
        tried.append(candidates)
    return _searches(
        lens,
        selection,
        tried,
        chosen.effects,
        objective=objective,
        operations=list(chosen.by_operation),
        batch_size=batch_size,
    )


def _searches(
    lens: Lens,
    selection: SliceSet,
    candidates: Sequence[Sequence[Candidate]],
    effects: LatentAttribution,
    *,
    objective: Objective,
    operations: Sequence[Operation],
    batch_size: int,
    progress: Progress = silent,
) -> list[ChosenEdit]:
    """Several searches in the same two sweeps; none knows of the others."""
    if not candidates:
        return []
    rows = evenly_spaced(len(selection), COARSE_SLICES)
    rest = sorted(set(range(len(selection))) - set(rows))
    edits = dict(sorted((candidate.edit.name, candidate.edit) for some in candidates for candidate in some))

    def scored(chosen: Sequence[int], names: Iterable[str], before: int) -> Scores:
        step = part_of(progress, before, len(selection))
        some = {name: edits[name] for name in names}
        part = selection.select(chosen)
        table = sweep(lens, part, some, batch_size=batch_size, progress=step).table
        numbers = pl.Series(chosen, dtype=pl.UInt32)
        return Scores(table.with_columns(numbers.gather(table["row"]).alias("row")))

    coarse = scored(rows, edits, 0)
    first = objective(coarse)
    finalists = [_finalists(some, first, operations) for some in candidates]
    entered = sorted({name for names in finalists for name in names})
    both = [Scores(coarse.table.filter(pl.col("edit").is_in([UNEDITED, *entered])))]
    if rest:
        both.append(scored(rest, entered, len(rows)))
    final = objective(Scores.merged(both))
    return [
        _chosen(
            lens,
            some,
            effects,
            coarse=first,
            full={name: final[name] for name in (UNEDITED, *names)},
            operations=operations,
        )
        for some, names in zip(candidates, finalists, strict=True)
    ]


def _finalists(
    candidates: Sequence[Candidate], values: Mapping[str, float], operations: Sequence[Operation]
) -> list[str]:
    """The best edits of each operation, in the order of their names."""
    entered: set[str] = set()
    for operation in operations:
        names = {candidate.edit.name for candidate in candidates if candidate.edit.operation == operation}
        entered.update(sorted(names, key=lambda name: (-values[name], name))[:FINALISTS])
    return sorted(entered)


def _chosen(
    lens: Lens,
    candidates: Sequence[Candidate],
    effects: LatentAttribution,
    *,
    coarse: Mapping[str, float],
    full: Mapping[str, float],
    operations: Sequence[Operation],
) -> ChosenEdit:
    """The best finalist of each operation, and of all; an identity where none beats the untouched network."""
    by_name = {candidate.edit.name: candidate for candidate in reversed(candidates)}
    by_operation: dict[Operation, LatentEdit] = {}
    for operation in operations:
        entered = [name for name in full if name in by_name and by_name[name].edit.operation == operation]
        entered.sort(key=lambda name: (-full[name], name))
        if entered and full[entered[0]] > full[UNEDITED]:
            by_operation[operation] = by_name[entered[0]].edit
        else:
            latents = by_name[entered[0]].edit.latents if entered else ()
            by_operation[operation] = LatentEdit(
                lens.hookpoint, lens.dictionary_hash, latents, operation, NEUTRAL[operation]
            )
    best = max(by_operation.values(), key=lambda edit: full.get(edit.name, full[UNEDITED]))
    stages = [("coarse", name, coarse[name]) for name in (UNEDITED, *sorted(by_name))]
    stages += [("full", name, value) for name, value in full.items()]
    tried = [_row(name, value, stage, by_name.get(name)) for stage, name, value in stages]
    return ChosenEdit(best, by_operation, pl.DataFrame(tried, schema=SELECTION_SCHEMA), effects, tuple(candidates))


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
