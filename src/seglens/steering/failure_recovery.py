"""The worst slices of a segmenter, how they fail, and how many an edit of latents recovers (paper, section 6.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from seglens.activations.replay import Replay
from seglens.artifacts import Artifact, Draft
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.runtime.distributed import broadcast_from_main
from seglens.runtime.progress import Progress, part_of, silent
from seglens.segmenters.decision import most_likely
from seglens.segmenters.intervals import mean_interval
from seglens.segmenters.scoring import Scores
from seglens.semantics.atlas import LatentAtlas
from seglens.shapes import Masks, flat, with_depth
from seglens.steering.adaptation import check_disjoint, tune_on, whole_activation
from seglens.steering.attribution import latent_attribution
from seglens.steering.baselines import mean_slice_foreground, random_latents
from seglens.steering.edits import LatentEdit, Operation, change_of, check_edits, slice_change
from seglens.steering.failing_slices import MODE_RULE, error_mode, slice_activity, worst_slices
from seglens.steering.policies import N_LATENTS, oracle_choice, oracle_scores
from seglens.steering.records import FailureOutcome, FailureRecord, GainRecord, ModeOutcome, Policy, Setting
from seglens.steering.searching import candidates_of, random_searches, search
from seglens.steering.shared_codes import SharedCodes
from seglens.steering.sweep import UNEDITED, RowChange, always, sweep, sweep_changes

Alphas = Mapping[Operation, tuple[float, ...]]
PAPER_ALPHAS = (0.25, 0.5, 1.0, 2.0, 5.0)
HELD_OUT_ALPHAS: Alphas = {"multiply": (0.25, 0.5, 2.0, 5.0), "add": (-1.0, -0.5, 0.5, 1.0)}
N_EXAMPLES = 6
OWN_COLUMNS = ("row", UNEDITED, *get_args(Policy))


@dataclass(frozen=True)
class FailureResult:
    """Result of edits on a segmenter's worst slices.

    Attributes:
        results: one record a policy, held_out first. Dice of a slice: mean over the classes in its mask.
        slices: one row a failing slice: row (of the evaluation set), case, patient, volume, mode, false_positive,
            false_negative (pixels), dice_before, dice_held_out, dice_oracle, oracle_alpha, oracle_latents, and
            dice_<name> of every control and baseline (``dice_ccf``, ``dice_random 0``; ``dice_oracle 2`` is the slice's
            own latents at alpha 2 and ``dice_random oracle 0 2`` other latents).
        examples: up to six slices evenly spaced from the largest to the smallest gain of held_out: rows [e] (of the
            evaluation set), truth, before, held_out, oracle [e D H W] uint8.
    """

    results: list[FailureRecord]
    slices: pl.DataFrame
    examples: Mapping[str, Tensor]

    def write(self, draft: Draft) -> None:
        """Write into an artifact of kind ``"failures"``."""
        draft.save_record("results", self.results, list[FailureRecord])
        draft.save_table("slices", self.slices)
        masks = {name: flat(own) for name, own in self.examples.items() if name != "rows"}
        draft.save_tensors("examples", {**self.examples, **masks})

    @classmethod
    def read(cls, artifact: Artifact) -> "FailureResult":
        """Read what ``write`` wrote."""
        examples = {
            name: own if name == "rows" else with_depth(own, 4) for name, own in artifact.tensors("examples").items()
        }
        return cls(artifact.record("results", list[FailureRecord]), artifact.table("slices"), examples)


def recover(
    lens: Lens,
    atlas: LatentAtlas,
    selection: SliceSet,
    evaluation: SliceSet,
    *,
    worst: int = 60,
    minimum_gain: float = 0.05,
    n_latents: Sequence[int] = N_LATENTS,
    n_most_active: int = 5,
    random_draws: int = 2,
    source: str = "",
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress = silent,
) -> FailureResult:
    """Steer a segmenter's worst slices, by two policies, beside random latents and output-level baselines.

    ``oracle`` multiplies each slice's own most active latents by the best of 0.25, 0.5, 1, 2, 5 for that slice's mask
    (the paper). ``held_out`` takes one edit, chosen on the worst slices of the selection patients for their mean
    foreground Dice. Random latents follow the same policy: for ``held_out`` they are searched as freely as the edit,
    for ``oracle`` drawn anew for each slice among those that fire in it as often and as strongly, with the same alphas.
    The baselines are tuned on what they are judged by: the mean foreground Dice of the worst selection slices.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        atlas: of that dictionary; its dead latents are left out.
        selection: labelled slices of selection patients.
        evaluation: labelled slices of other patients; the worst of them are the failures.
        worst: how many slices, of those with a lesion; fewer where there are fewer.
        minimum_gain: a slice is recovered when its foreground Dice rises by at least this.
        n_latents: how many latents ``held_out`` tries together.
        n_most_active: how many of its latents ``oracle`` scales in each slice.
        random_draws: searches over random latents; each takes as long as the search for the edit.
        source: name of the segmenter in the results.
        batch_size: slices at once.
        seed: of the random latents.
        progress: told as batches are done.

    Raises:
        ValueError: a patient in both sets, no slice with a lesion, or parts that do not belong together.
    """
    check_disjoint(selection, evaluation)
    check_edits(lens)
    lens.segmenter.check_data(selection.name, selection.sequences, selection.labels)
    steps = len(selection) + len(evaluation) + 2 * worst
    chosen_from, _ = worst_slices(lens.segmenter, selection, worst, batch_size, part_of(progress, 0, steps))
    done = len(selection)
    failing, rows = worst_slices(lens.segmenter, evaluation, worst, batch_size, part_of(progress, done, steps))
    done += len(evaluation)

    dead = set(atlas.table.filter(pl.col("dead"))["latent"].to_list())
    # gradients may differ in their last bits between GPUs: one process ranks the latents for all
    effects = broadcast_from_main(lambda: latent_attribution(lens, chosen_from, target=None, batch_size=batch_size))
    by_mass = effects.mass.sort(descending=True, stable=True).indices.tolist()
    chosen = search(
        lens,
        chosen_from,
        candidates_of(
            lens,
            effects,
            [("most active", by_mass)],
            operations=HELD_OUT_ALPHAS,
            n_latents=n_latents,
            allowed=set(range(lens.dictionary.n_latents)) - dead,
        ),
        effects,
        objective=mean_slice_dice,
        operations=list(HELD_OUT_ALPHAS),
        batch_size=batch_size,
        progress=part_of(progress, done, steps),
    )
    drawn = random_searches(
        lens,
        chosen_from,
        chosen,
        draws=random_draws,
        objective=mean_slice_dice,
        seed=seed,
        batch_size=batch_size,
    )
    controls = [found.edit for found in drawn]
    on_selection = [found.value_of(found.edit) for found in drawn]
    tuned = tune_on(lens.segmenter, chosen_from, target=None, objective=mean_slice_foreground, batch_size=batch_size)

    mass, firing = slice_activity(lens, failing, batch_size)
    most = min(n_most_active, int((firing > 0).any(0).sum()) // 2)
    own = mass.sort(dim=1, descending=True, stable=True).indices[:, :most]
    of_slices = _random_of_slices(firing, mass, own, random_draws, seed)
    changes: dict[str, RowChange] = {"held_out": always(change_of(lens.dictionary, [chosen.edit]))}
    changes |= {f"random {number}": always(change_of(lens.dictionary, [edit])) for number, edit in enumerate(controls)}
    for name, latents in [("oracle", own), *((f"random oracle {d}", each) for d, each in enumerate(of_slices))]:
        shared = SharedCodes(lens.dictionary)
        changes |= {f"{name} {alpha:g}": _of_slices(shared, latents, alpha) for alpha in PAPER_ALPHAS if alpha != 1}
    changes |= whole_activation(lens)
    scores = sweep_changes(
        lens.segmenter,
        lens.hookpoint,
        failing,
        changes,
        rules={name: rule.rule for name, rule in tuned.items()},
        batch_size=batch_size,
        progress=part_of(progress, steps - len(failing), steps),
    )
    tables = [scores]
    for name in ["oracle", *(f"random oracle {number}" for number in range(random_draws))]:
        names = [f"{name} {alpha:g}" for alpha in PAPER_ALPHAS if alpha != 1]
        tables.append(oracle_scores(scores, names, target=None, name=name))
    dice = _dice_by_slice(Scores.merged(tables))
    table = _table(failing, rows, scores, dice, own)
    everywhere = sweep(lens, evaluation, {"held_out": chosen.edit}, batch_size=batch_size)
    untouched = dice[UNEDITED]
    patients = failing.index["patient"].to_list()
    baselines = {
        name: _outcome(dice, name, minimum_gain, tuned[name].setting if name in tuned else {})
        for name in (*tuned, *whole_activation(lens))
    }

    def recorded(
        policy: Policy, random: str, *, edit: str, operation: Operation, chosen_by: str, is_identity: bool
    ) -> FailureRecord:
        outcome = _outcome(dice, policy, minimum_gain)
        of_draws = [f"{random} {number}" for number in range(random_draws)]
        controls = [_outcome(dice, name, minimum_gain) for name in of_draws]
        return FailureRecord(
            segmenter=source,
            cohort=evaluation.name,
            policy=policy,
            n=len(failing),
            n_eligible=everywhere.slice_dice(convention="slice_present")["row"].n_unique(),
            dice_of_best_failure=max(untouched.to_list()),
            minimum_gain=minimum_gain,
            recovered_means=f"the slice's foreground Dice rises by at least {minimum_gain:g}",
            mode_rule=MODE_RULE,
            edit=edit,
            operation=operation,
            latents=None,
            alpha=None,
            chosen_by=chosen_by,
            is_identity=is_identity,
            recovered=outcome.recovered,
            worsened=outcome.worsened,
            net=outcome.net,
            mean_before=float(untouched.sum()) / len(failing),
            mean_after=outcome.mean_after,
            modes=_modes(table, policy, minimum_gain),
            baselines=baselines,
            random_recovered=_mean([control.recovered for control in controls]),
            random_worsened=_mean([control.worsened for control in controls]),
            random_net=_mean([control.net for control in controls]),
            random_mean_after=_mean([control.mean_after for control in controls]),
            over_random=_over_random(dice, policy, of_draws, patients, minimum_gain),
            random_recovered_draws=tuple(control.recovered for control in controls),
            random_worsened_draws=tuple(control.worsened for control in controls),
        )

    held_out = replace(
        recorded(
            "held_out",
            "random",
            edit=chosen.edit.name,
            operation=chosen.edit.operation,
            chosen_by=chosen.chosen_by(chosen.edit),
            is_identity=chosen.edit.is_identity,
        ),
        latents=chosen.edit.latents,
        alpha=chosen.edit.value,
        firing_rate=chosen.firing_rate(chosen.edit),
        random_firing_rates=tuple(found.firing_rate(found.edit) for found in drawn),
        dice_all_before=everywhere.dice(edit=UNEDITED).value,
        dice_all_after=everywhere.dice(edit="held_out").value,
    )
    if drawn:
        best = _outcome(dice, f"random {max(range(random_draws), key=on_selection.__getitem__)}", minimum_gain)
        held_out = replace(
            held_out,
            random_best_recovered=best.recovered,
            random_best_worsened=best.worsened,
            random_best_net=best.net,
            random_best_mean_after=best.mean_after,
        )
    oracle = recorded(
        "oracle",
        "random oracle",
        edit=f"multiply, each slice's {own.shape[1]} most active latents, best alpha a slice",
        operation="multiply",
        chosen_by="the evaluated slice's own mask",
        is_identity=own.shape[1] == 0,
    )
    return FailureResult([held_out, oracle], table, _examples(lens, failing, table, edit=chosen.edit, own=own))


def mean_slice_dice(scores: Scores) -> dict[str, float]:
    """Mean over slices of the foreground Dice, for each edit."""
    dice = scores.slice_dice(convention="slice_present")
    return dict(dice.group_by("edit", maintain_order=True).agg(pl.col("dice").mean()).iter_rows())


def _random_of_slices(
    firing: Float[Tensor, "B m"], mass: Float[Tensor, "B m"], own: Int[Tensor, "B s"], draws: int, seed: int
) -> list[Int[Tensor, "B s"]]:
    """For each slice as many other latents that fire in it about as often and as strongly, drawn anew for each slice.

    Where too few others fire in a slice it takes them all, and for the rest such as match over all slices.
    """
    sets = []
    for number, latents in enumerate(own.tolist()):
        inside, masses, wanted = firing[number], mass[number], latents
        others = sorted(set(inside.nonzero()[:, 0].tolist()) - set(latents))
        if len(others) < len(latents):
            inside, masses, wanted = firing.mean(0), mass.sum(0), latents[len(others) :]
        else:
            others = []
        avoid = [*latents, *others]
        drawn = random_latents(inside, wanted, draws=draws, seed=seed + number, avoid=avoid, masses=masses)
        sets.append([(*others, *one) for one in drawn])
    return [torch.tensor([of_slice[draw] for of_slice in sets]) for draw in range(draws)]


def _of_slices(shared: SharedCodes, latents: Int[Tensor, "B s"], alpha: float) -> RowChange:
    return lambda rows: slice_change(shared.dictionary, latents[list(rows)], alpha, shared)


def _dice_by_slice(scores: Scores) -> pl.DataFrame:
    return scores.slice_dice(convention="slice_present").pivot("edit", index="row", values="dice").sort("row")


def _outcome(dice: pl.DataFrame, name: str, minimum_gain: float, setting: Setting | None = None) -> FailureOutcome:
    gain = dice[name] - dice[UNEDITED]
    recovered, worsened = int((gain >= minimum_gain).sum()), int((gain <= -minimum_gain).sum())
    return FailureOutcome(recovered, worsened, recovered - worsened, float(dice[name].sum()) / len(dice), setting)


def _over_random(
    dice: pl.DataFrame, policy: Policy, draws: Sequence[str], patients: Sequence[str], minimum_gain: float
) -> GainRecord | None:
    """Net share recovered by a policy, less that of its draws of random latents, over patients."""
    if not draws:
        return None

    def net(name: str) -> pl.Series:
        gain = dice[name] - dice[UNEDITED]
        return (gain >= minimum_gain).cast(pl.Float64) - (gain <= -minimum_gain).cast(pl.Float64)

    others = [net(name) for name in draws]
    return GainRecord.of(mean_interval(patients, (net(policy) - sum(others) / len(draws)).to_list()), bound=2.0)


def _mean(values: Sequence[float | int]) -> float | None:
    return sum(values) / len(values) if values else None


def _modes(table: pl.DataFrame, policy: Policy, minimum_gain: float) -> dict[str, ModeOutcome]:
    modes = {}
    for mode in ("FP", "FN", "mixed"):
        rows = table.filter(pl.col("mode") == mode)
        before, after = rows["dice_before"], rows[f"dice_{policy}"]
        modes[mode] = ModeOutcome(
            n=len(rows),
            recovered=int((after - before >= minimum_gain).sum()),
            worsened=int((after - before <= -minimum_gain).sum()),
            mean_before=float(before.sum()) / len(rows) if len(rows) else None,
            mean_after=float(after.sum()) / len(rows) if len(rows) else None,
        )
    return modes


def _table(
    failing: SliceSet, rows: Sequence[int], scores: Scores, dice: pl.DataFrame, own: Int[Tensor, "B s"]
) -> pl.DataFrame:
    wrong = (
        scores.table.filter((pl.col("edit") == UNEDITED) & (pl.col("label") > 0))
        .group_by("row", maintain_order=True)
        .agg(
            (pl.col("predicted") - pl.col("tp")).sum().alias("false_positive"),
            (pl.col("truth") - pl.col("tp")).sum().alias("false_negative"),
        )
        .sort("row")
    )
    taken = oracle_choice(scores, [f"oracle {alpha:g}" for alpha in PAPER_ALPHAS if alpha != 1], target=None)
    alphas = {UNEDITED: 1.0} | {f"oracle {alpha:g}": alpha for alpha in PAPER_ALPHAS}
    return failing.index.select("case", "patient", "volume").with_columns(
        pl.Series("row", rows, dtype=pl.UInt32),
        pl.Series("mode", [error_mode(p, n) for p, n in wrong.select("false_positive", "false_negative").iter_rows()]),
        wrong["false_positive"],
        wrong["false_negative"],
        dice[UNEDITED].alias("dice_before"),
        dice["held_out"].alias("dice_held_out"),
        dice["oracle"].alias("dice_oracle"),
        pl.Series("oracle_alpha", [alphas[edit] for edit in taken["edit"]]),
        pl.Series("oracle_latents", own.tolist(), dtype=pl.List(pl.Int32)),
        *(dice[name].alias(f"dice_{name}") for name in dice.columns if name not in OWN_COLUMNS),
    )


@torch.no_grad()
def _examples(
    lens: Lens,
    failing: SliceSet,
    table: pl.DataFrame,
    *,
    edit: LatentEdit,
    own: Int[Tensor, "B s"],
) -> dict[str, Tensor]:
    gains = (table["dice_held_out"] - table["dice_before"]).to_list()
    order = sorted(range(len(gains)), key=lambda number: (-gains[number], number))
    count = min(N_EXAMPLES, len(order))
    places = [order[round(i * (len(order) - 1) / max(1, count - 1))] for i in range(count)]
    masks: dict[str, list[Masks]] = {"before": [], "held_out": [], "oracle": []}
    replay = Replay(lens.segmenter, lens.hookpoint)
    for place in places:
        before = replay.record(failing.images([place]).to(lens.segmenter.device))
        best = slice_change(lens.dictionary, own[[place]], table["oracle_alpha"][place])
        masks["before"].append(most_likely(before))
        masks["held_out"].append(most_likely(replay.logits(change_of(lens.dictionary, [edit]))))
        masks["oracle"].append(most_likely(replay.logits(best)))
    rows = torch.tensor(table["row"].to_list(), dtype=torch.int64)[places]
    return {"rows": rows, "truth": failing.masks(places)} | {
        name: torch.cat(part).cpu() for name, part in masks.items()
    }
