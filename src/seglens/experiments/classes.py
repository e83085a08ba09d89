"""Table 4 and Figure 7: the weakest class, how it fails, and what scaling or zeroing its latents does.

The paper amplifies, suppresses or zeroes by the kind of a failure (section 6.2). So the action is chosen for each kind
on other patients, and as an oracle for each slice by its own mask, beside matched random latents that choose alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch

from seglens.artifacts import Artifact, Draft
from seglens.cohorts.label_names import FOREGROUND
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, Published, part
from seglens.experiments.recovery_curve import curve_rows, paragraph
from seglens.experiments.segmenters import dice_columns, example_segmenter, require_lesions
from seglens.runtime.progress import Progress
from seglens.segmenters.intervals import share_interval
from seglens.segmenters.scoring import Scores, evaluate
from seglens.semantics.atlas import describe
from seglens.steering.adaptation import tune_on
from seglens.steering.attribution import associated_latents
from seglens.steering.baselines import random_latents
from seglens.steering.edits import LatentEdit
from seglens.steering.failing_slices import MODE_RULE, error_mode
from seglens.steering.policies import label_of
from seglens.steering.sweep import UNEDITED, sweep
from seglens.studies.stages import Study

N_LATENTS = 10
FACTORS = {"suppressed (x 0.25)": 0.25, "suppressed (x 0.5)": 0.5, "zeroed": 0.0, "amplified (x 2)": 2.0,
           "amplified (x 5)": 5.0}  # fmt: skip
DRAWS = 3
RANDOM = "random "
"""Before the number of a draw and the name of an edit: the same on other latents."""
OF_CLASS, OTHERS, RULE = "of the class", "random", "none: rule at the output"
FAILS_BELOW = 0.5
"""Dice of the class in a slice, as in the paper's choice of failures."""
MIN_GAIN = 0.05
RULES = {
    "ccf": "component filter (CCF)",
    "ccf_untuned": "largest component (CCF, untuned)",
    "uf": "entropy filter (UF)",
    "logit_bias": "logit bias",
}


@dataclass(frozen=True)
class FactorRecord:
    """Factor that was best on the val slices.

    Attributes:
        edit: of the class's latents, or the untouched network.
        random: of each draw of random latents.
        words: the edit, in words.
        n_latents: that are multiplied together.
    """

    edit: str
    random: tuple[str, ...]
    words: str
    n_latents: int


def run(study: Study, progress: Progress) -> ExperimentResult:
    """The adult segmenter on its own cohort: chosen on val patients, judged on test patients."""
    names = require_lesions(study)
    name = example_segmenter(study, "adult")
    name = name if name in names else names[0]
    weakest, dice = weakest_class(study, name)
    found = _swept(study, name, weakest)
    progress(1, 1)
    chosen = found.record("chosen", FactorRecord)
    label = label_of(study.segmenter(name), weakest)
    scores, on_selection = (Scores(found.table(table)) for table in ("scores", "selection_scores"))
    failing = failing_slices(scores, label)
    modes = by_mode(scores, failing, label)
    actions, taken = by_action(scores, failing, on_selection, failing_slices(on_selection, label), label)
    overall = _overall(scores, weakest, chosen)
    n = failing.height
    words = [
        f"The weakest class of {name} on the val patients of its own cohort is {weakest} (pooled Dice "
        f"{dice:.2f}); nothing is chosen on the test patients. Failures "
        f"are the {n} test slices in whose mask it is and whose Dice of it is below {FAILS_BELOW:g}. {MODE_RULE}, "
        "counted for this class.",
        f"The latents with the strongest association to it on other patients ({chosen.n_latents}) are multiplied "
        f"together, beside {DRAWS} draws of as many random latents that fire as often and as strongly. A slice is "
        f"recovered when its Dice of {weakest} rises by at least {MIN_GAIN:g}. The factor of the last table is chosen "
        f"on val patients by pooled Dice: {chosen.words}.",
        *(
            paragraph(rows.to_dicts(), f"Action {action}, {mode}")
            for (action, mode), rows in actions.group_by("action", "mode", maintain_order=True)
            if mode == "all"
        ),
        "An action by kind of failure needs to know the kind, and one by slice its mask: both are the paper's reading "
        "and no deployment. Random latents choose their actions in the same way on the same slices.",
        "Where too much is predicted, whatever predicts less helps, and the other way round. What counts is the net "
        "over all slices of a choice that was made on other patients, beside the logit bias. The largest share of any "
        "factor on the test slices is an upper bound, that nobody could have chosen; of random latents it is the mean "
        "over the draws of each draw's own largest.",
    ]
    tables = {"failure modes": modes, "chosen actions": actions, "actions taken": taken, "all test slices": overall}
    return ExperimentResult(tables, headlines(modes, overall, weakest) | action_headlines(actions), words)


def weakest_class(study: Study, name: str) -> tuple[str, float]:
    """The class with the lowest pooled Dice on the val patients of a segmenter's own cohort, and that Dice.

    Raises:
        NotApplicableError: fewer than two classes.
    """
    pooled = evaluate(study.segmenter(name), study.own_slices(name, "val")).summary().dice_pooled
    known = {label: dice for label, dice in pooled.items() if label != FOREGROUND and dice is not None}
    if len(known) < 2:
        raise NotApplicableError(f"needs two classes to tell the weaker; {name} has {', '.join(known) or 'none'}")
    weakest = min(known, key=known.__getitem__)
    return weakest, known[weakest]


def _swept(study: Study, name: str, weakest: str) -> Artifact:
    """Scores of every factor on the test slices, and the factor that is best on the val slices."""
    lens, seed = study.lens(name), study.settings.seed
    selection, evaluated = study.own_slices(name, "val"), study.own_slices(name, "test")
    label = label_of(lens.segmenter, weakest)

    def make(draft: Draft, progress: Progress) -> None:
        atlas = describe(lens, selection, top_k=1)
        latents = associated_latents(atlas, weakest)[:N_LATENTS]
        if not latents:
            raise NotApplicableError(f"no latent of {name} goes with {weakest}")
        known = atlas.table.sort("latent")
        firing, masses = (torch.tensor(known[column].to_list()) for column in ("firing_rate", "mass"))
        drawn = random_latents(firing, latents, draws=DRAWS, seed=seed, masses=masses)
        sets = {"": latents, **{f"{RANDOM}{draw}, ": own for draw, own in enumerate(drawn)}}
        edits = {
            kind + words: LatentEdit(lens.hookpoint, lens.dictionary_hash, tuple(own), "multiply", factor)
            for kind, own in sets.items()
            for words, factor in FACTORS.items()
        }
        chosen_on = sweep(lens, selection, edits)
        value = chosen_on.pooled_by_edit(weakest)
        best, *best_random = (
            max([UNEDITED, *(kind + words for words in FACTORS)], key=value.__getitem__) for kind in sets
        )
        tuned = tune_on(lens.segmenter, selection, target=label)
        rules = {words: tuned[rule].rule for rule, words in RULES.items()}
        scores = sweep(lens, evaluated, edits, rules=rules, progress=progress)
        draft.save_table("scores", scores.table)
        draft.save_table("selection_scores", chosen_on.table)
        words = "nothing beats the untouched segmenter" if best == UNEDITED else best
        draft.save_record("chosen", FactorRecord(best, tuple(best_random), words, len(latents)))

    inputs = {
        "dictionary": lens.dictionary_hash,
        "selection": selection.hash,
        "evaluation": evaluated.hash,
        "class": weakest,
        "factors": FACTORS,
        "n_latents": N_LATENTS,
        "draws": DRAWS,
        "seed": seed,
    }
    return part(study, f"classes/{name}-{weakest}", "classes", inputs, make)


def failing_slices(scores: Scores, label: int) -> pl.DataFrame:
    """Slices with the class in the mask and a low Dice of it: row, patient, mode, dice."""
    own = scores.table.filter((pl.col("label") == label) & (pl.col("edit") == UNEDITED) & (pl.col("truth") > 0))
    dice = Scores(own).slice_dice().filter(pl.col("dice") < FAILS_BELOW).select("row", "dice")
    found = own.join(dice, on="row").sort("row")
    wrong = zip(found["predicted"] - found["tp"], found["truth"] - found["tp"], strict=True)
    modes = pl.Series("mode", [error_mode(int(p), int(n)) for p, n in wrong], dtype=pl.String)
    return found.select("row", "patient", "dice").with_columns(modes)


def by_mode(scores: Scores, failing: pl.DataFrame, label: int) -> pl.DataFrame:
    """Of every failure mode and edit the mean Dice of the class before and after, and the recovered share.

    The column ``draw`` tells the draws of random latents apart; it is null for everything else.
    """
    dice = Scores(scores.table.filter(pl.col("label") == label)).slice_dice()
    rows: list[dict[str, Any]] = []
    for mode in ("FP", "FN", "mixed", "all"):
        own = failing if mode == "all" else failing.filter(pl.col("mode") == mode)
        if own.is_empty():
            continue
        for edit in dice["edit"].unique(maintain_order=True):
            if edit == UNEDITED:
                continue
            after = own.join(dice.filter(pl.col("edit") == edit), on="row", suffix="_after").sort("row")
            gain = after["dice_after"] - after["dice"]
            share = share_interval(after["patient"].to_list(), (gain >= MIN_GAIN).to_list())
            rows.append(
                {
                    "mode": mode,
                    "slices": own.height,
                    "edit": action_of(edit),
                    "latents": kind_of(edit),
                    "draw": int(edit.split(", ", 1)[0].removeprefix(RANDOM)) if edit.startswith(RANDOM) else None,
                    "mean Dice before": float(after["dice"].sum()) / own.height,
                    "mean Dice after": float(after["dice_after"].sum()) / own.height,
                    "recovered share": share.value,
                    "low": share.low,
                    "high": share.high,
                    "worsened share": float((gain <= -MIN_GAIN).sum()) / own.height,
                }
            )
    columns = {"mode": pl.String, "latents": pl.String, "draw": pl.Int64, "recovered share": pl.Float64}
    return pl.DataFrame(rows, schema=None if rows else columns, schema_overrides={"draw": pl.Int64})


ACTIONS = ("by kind of failure, chosen on val patients", "by slice, by its own mask")
MODES = ("FP", "FN", "mixed")


def by_action(
    scores: Scores, failing: pl.DataFrame, selected: Scores, failing_selected: pl.DataFrame, label: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Recovery where each kind of failure, or each slice, has an action of its own (paper, section 6.2).

    Args:
        scores: of the test slices, with every factor of the class's latents and of the draws of random ones.
        failing: `failing_slices` of them.
        selected: the same of the val slices, on which the action of each kind is chosen: the factor, or none, with the
            highest mean Dice over their failures of that kind.
        failing_selected: their failures.
        label: of the class.

    Returns:
        One row an action, kind of failure and threshold (`recovery_curve`); and the factor that each kind of failure
        takes, of the class's latents and of each draw.
    """
    draws = sorted({edit.split(", ", 1)[0] for edit in scores.table["edit"].unique() if edit.startswith(RANDOM)})
    on_test, on_selection = (_dice_by_edit(one, label) for one in (scores, selected))
    val = failing_selected.select("row", "mode").join(on_selection, on="row").sort("row")
    test = failing.select("row", "patient", "mode").join(on_test, on="row").sort("row")
    taken, after = [], {}
    for kind in ("", *(f"{draw}, " for draw in draws)):
        factors = [UNEDITED, *(kind + words for words in FACTORS if kind + words in test.columns)]
        of_mode = {}
        for mode in MODES:
            own = val.filter(pl.col("mode") == mode)
            of_mode[mode] = max(factors, key=lambda edit: float(own[edit].sum()))  # without failures: untouched
            row = {"latents": kind.removesuffix(", ") or OF_CLASS, "mode": mode, "val failures": own.height}
            taken.append(row | {"action": "none" if of_mode[mode] == UNEDITED else action_of(of_mode[mode])})
        chosen = [row[of_mode.get(row["mode"], UNEDITED)] for row in test.iter_rows(named=True)]
        best = test.select(pl.max_horizontal(factors)).to_series()
        after[kind] = dict(zip(ACTIONS, (pl.Series(chosen, dtype=pl.Float64), best), strict=True))
    rows = []
    for action in ACTIONS:
        for mode in (*MODES, "all"):
            inside = pl.Series([mode in (own, "all") for own in test["mode"]], dtype=pl.Boolean)
            if not inside.any():
                continue
            before, (edited, *random) = (
                test[UNEDITED].filter(inside),
                (one[action].filter(inside) for one in after.values()),
            )
            patients = test["patient"].filter(inside).to_list()
            rows += [{"action": action, "mode": mode, **row} for row in curve_rows(before, edited, random, patients)]
    columns = {"action": pl.String, "mode": pl.String, "threshold": pl.Float64, "recovered share": pl.Float64}
    schema = None if rows else columns | {"random share": pl.Float64}
    return pl.DataFrame(rows, schema=schema, infer_schema_length=None), pl.DataFrame(taken)


def _dice_by_edit(scores: Scores, label: int) -> pl.DataFrame:
    own = Scores(scores.table.filter(pl.col("label") == label))
    return own.slice_dice().pivot("edit", index="row", values="dice")


def action_headlines(actions: pl.DataFrame) -> dict[str, float | None]:
    """Share of all failures recovered at any gain and at .05, of the class's latents and of random ones."""
    found: dict[str, float | None] = {}
    rows = actions.filter((pl.col("mode") == "all") & pl.col("threshold").is_in([0.0, MIN_GAIN]))
    for row in rows.iter_rows(named=True):
        name = f"{row['action']}, {'any gain' if row['threshold'] == 0 else 'gain of .05'}"
        found |= {f"recovered {name}": row["recovered share"], f"recovered {name}, random latents": row["random share"]}
    return found


def action_of(edit: str) -> str:
    """The action alone, without the draw of the latents it acts on."""
    return edit.split(", ", 1)[1] if edit.startswith(RANDOM) else edit


def kind_of(edit: str) -> str:
    """Kind of latents that an edit of this name changes."""
    if edit in RULES.values():
        return RULE
    return OTHERS if edit.startswith(RANDOM) else OF_CLASS


def _overall(scores: Scores, weakest: str, chosen: FactorRecord) -> pl.DataFrame:
    methods = [("untouched", UNEDITED), *((words, words) for words in RULES.values())]
    methods += [("latents, held-out", chosen.edit)]
    methods += [(f"random latents {draw}, held-out", edit) for draw, edit in enumerate(chosen.random)]
    rows = []
    for words, edit in methods:
        summary = scores.summary(edit)
        figures = dice_columns(summary, weakest) | dice_columns(summary, "foreground")
        rows.append({"method": words, **figures, "mean Dice with background": summary.mean_dice_with_background})
    return pl.DataFrame(rows, infer_schema_length=None)


def headlines(modes: pl.DataFrame, overall: pl.DataFrame, weakest: str) -> dict[str, float | None]:
    """Dice of the weakest class and with background, and of each mode an upper bound of the recovered share.

    The bound is the largest share of any factor on the slices judged on; of random latents the mean over the draws of
    each draw's largest, so that both choose among as many factors.
    """
    found: dict[str, float | None] = {}
    for row in overall.iter_rows(named=True):
        found[f"{weakest} Dice (pooled), {row['method']}"] = row[f"{weakest} Dice, pooled"]
        found[f"mean Dice with background, {row['method']}"] = row["mean Dice with background"]
    found |= _best(modes.filter(pl.col("latents") == OF_CLASS), "")
    return found | _best(modes.filter(pl.col("latents") == OTHERS), RANDOM)


def _best(modes: pl.DataFrame, kind: str) -> dict[str, float | None]:
    of_draw = modes.group_by("mode", "draw", maintain_order=True).agg(pl.col("recovered share").max())
    best = of_draw.group_by("mode", maintain_order=True).agg(pl.col("recovered share").mean())
    rows: Sequence[tuple[str, float]] = best.rows()
    return {f"upper bound of the recovered share, {kind}{mode}": share for mode, share in rows}


_TABLE_4 = "Table 4 (its caption says failure cases, but those are chosen for an edema Dice below 0.5)"
EXPERIMENT = Experiment(
    "classes",
    "The weakest class",
    "Table 4 and Figure 7",
    run,
    figures=(
        Figure(
            "bars",
            "failure modes",
            "Share of failures that is recovered, by kind of error",
            x="edit",
            y="recovered share",
            low="low",
            high="high",
            series="latents",
            panel="mode",
            caption="Whiskers: 95% over patients. FP: too much predicted; FN: too little.",
        ),
    ),
    published={
        "edema Dice (pooled), untouched": Published(0.658, f"{_TABLE_4}; how averaged is not said"),
        "edema Dice (pooled), latents, held-out": Published(0.691, _TABLE_4),
        "mean Dice with background, untouched": Published(0.818, f"{_TABLE_4}; includes background by Table 5's sums"),
        "mean Dice with background, latents, held-out": Published(0.826, _TABLE_4),
        "recovered by slice, by its own mask, any gain": Published(
            0.4725, "section 6.2: 1,344 of 2,844 failures, which can only be slices"
        ),
    },
    folded=("failure modes", "actions taken"),
    version=5,
)
