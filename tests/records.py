"""Records with figures that a test may choose; whatever it does not choose is the same everywhere."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import polars as pl

from seglens.diffing.records import AlignmentRecord, FunctionRecord
from seglens.reports.verdicts import CONTROLS
from seglens.segmenters.score_summary import FIGURES, ScoreCounts, ScoreSummary
from seglens.segmenters.scoring import SCHEMA, Scores
from seglens.steering.edits import LatentEdit
from seglens.steering.records import Extent, FailureOutcome, FailureRecord, GainRecord, SteeringRecord
from seglens.summaries import CohortRecord, DictionaryRecord, EffectRecord, SegmenterRecord, Summary


def scores(by_class: Mapping[str, float | None], **more: Any) -> ScoreSummary:
    """Scores with one figure a class in every convention, HD95 by it, 50 slices and 3 missed ones a class.

    Args:
        by_class: foreground class to figure.
        more: other fields; a mapping is laid over the class's figures.
    """
    known = [value for value in by_class.values() if value is not None]
    figures = {**by_class, "foreground": sum(known) / len(known) if known else None}
    given: dict[str, Any] = {name: figures | dict(more.pop(name, {})) for name in FIGURES}
    given["hd95_mm"] |= {name: None if value is None else 20 * (1 - value) for name, value in by_class.items()}
    given["hd95_mm"]["foreground"] = None
    n: dict[str, Any] = {
        name: {one: 0 if value is None else 50 for one, value in by_class.items()} | {"foreground": len(known)}
        for name in FIGURES
    }
    n |= {name: dict.fromkeys(by_class, 50) for name in ("missed", "false_alarms")}
    n |= {one.name: 4 for one in fields(ScoreCounts) if one.name.startswith("mean_")}
    return ScoreSummary(
        **given,
        missed=dict.fromkeys(by_class, 3),
        false_alarms=dict.fromkeys(by_class, 2),
        mean_dice_with_background=0.9,
        mean_dice_with_background_empty1=0.9,
        n=ScoreCounts(**n),
    )


def counted(
    by_class: Mapping[str, float], *, patients: int = 8, slices: int = 3, spread: float = 0.04, empty: int = 0
) -> Scores:
    """Scores of patients ``P0``, ``P1``, ... whose Dice of a class lies around a figure.

    Args:
        by_class: foreground class to pooled Dice, about.
        patients: how many.
        slices: of each.
        spread: Dice of every other patient is so much above or below.
        empty: so many of the last patients have no class in the mask, nor in the prediction.
    """
    rows = []
    for patient in range(patients):
        for number in range(slices):
            for label, (name, dice) in enumerate([("background", 1.0), *by_class.items()]):
                own = min(1.0, max(0.0, dice + spread * (-1) ** patient)) if dice and label else dice
                size = 0 if label and patient >= patients - empty else 1000
                case = f"P{patient}"
                row = (patient * slices + number, case, case, case, label, name, round(own * size), size, size, None)
                rows.append(("none", *row))
    return Scores(pl.DataFrame(rows, schema=SCHEMA, orient="row"))


def gain(after: float | None, before: float | None, reach: float) -> GainRecord:
    """A difference with an interval of ``reach`` to each side."""
    if after is None or before is None:
        return GainRecord(None, None, None)
    return GainRecord(after - before, after - before - reach, after - before + reach)


def steering(before: ScoreSummary, after: ScoreSummary, baselines: Mapping[str, ScoreSummary], **more: Any) -> Any:
    """A held-out edit of edema, from adult to pediatric.

    Args:
        before: untouched.
        after: edited.
        baselines: name to scores; the best of them is the one that the selection patients chose.
        more: other fields; ``reach`` is how far the intervals of the gains go to each side.
    """
    edit = LatentEdit("stage3", "abcdef", (3, 8, 11), "multiply", 2.0)
    given = {
        "source": "adult",
        "target": "pediatric",
        "class_name": "edema",
        "policy": "held_out",
        "operation": "multiply",
        "edit": edit.name,
        "edit_description": edit.description(),
        "latents": edit.latents,
        "alpha": 2.0,
        "is_identity": False,
        "chosen": True,
        "chosen_by": "causal",
        "settings": {"logit_bias": {"bias": [0.0, 0.5, -0.5]}, "uf": {"threshold": None}},
        "selection": Extent("pediatric", 8, 80),
        "evaluation": Extent("pediatric", 11, 110),
        "firing_rate": 0.02,
        "random_firing_rates": (0.02, 0.03),
    }
    reach, name = more.pop("reach", 0.02), more.get("class_name", "edema")
    values = {key: one.dice(name).value for key, one in {"none": before, **baselines}.items()}
    final = after.dice(name).value
    given["gains"] = {key: gain(final, value, reach) for key, value in values.items()}
    outside = [key for key in baselines if key not in CONTROLS and values[key] is not None]
    given["best_baseline"] = max(outside, key=lambda key: values[key], default=None)  # type: ignore[arg-type,return-value]
    return SteeringRecord(before=before, after=after, baselines=baselines, **(given | more))


def outcome(recovered: int, worsened: int = 0, mean_after: float = 0.22) -> FailureOutcome:
    """Of a baseline; nothing was tuned."""
    return FailureOutcome(recovered, worsened, recovered - worsened, mean_after, {})


def failure(recovered: int, random: float | None, **more: Any) -> FailureRecord:
    """A held-out edit of adult's worst slices.

    Args:
        recovered: by the edit.
        random: recovered by random latents; None without draws.
        more: other fields.
    """
    worsened, worse = more.get("worsened", 0), more.get("random_worsened", None if random is None else 0)
    given = {
        "segmenter": "adult",
        "cohort": "adult",
        "policy": "held_out",
        "n": 60,
        "n_eligible": 96,
        "dice_of_best_failure": 0.87,
        "minimum_gain": 0.05,
        "recovered_means": "the slice's foreground Dice rises by at least 0.05",
        "mode_rule": "by the share of wrong pixels",
        "edit": "multiply 2",
        "operation": "multiply",
        "latents": (3,),
        "alpha": 2.0,
        "chosen_by": "causal",
        "is_identity": False,
        "worsened": worsened,
        "net": recovered - worsened,
        "mean_before": 0.21,
        "mean_after": 0.25,
        "modes": {},
        "baselines": {},
        "random_worsened": worse,
        "random_net": None if random is None or worse is None else random - worse,
        "random_mean_after": None if random is None else 0.22,
        "random_recovered_draws": (),
        "random_worsened_draws": (),
    }
    given |= more
    given |= {key: float(given[key]) for key in ("random_worsened", "random_net") if given[key] is not None}
    drawn, net = None if random is None else float(random), given["random_net"]
    reach = given.pop("reach", 0.02)
    given.setdefault("over_random", None if net is None else gain(given["net"] / given["n"], net / given["n"], reach))
    return FailureRecord(recovered=recovered, random_recovered=drawn, **given)


def alignment(
    shared: float | None, floor: float | None = 0.55, ceiling: float | None = 0.96, **more: Any
) -> AlignmentRecord:
    """A pair a, b; calibrated follows from its bounds."""
    known = shared is not None and floor is not None and ceiling is not None and ceiling > floor
    given = {
        "source": "a",
        "target": "b",
        "ceiling_other_seed": 0.0,
        "calibrated": (shared - floor) / (ceiling - floor) if known else None,  # type: ignore[operator]
        "functional": FunctionRecord(None, None, None, None, True),
        "tau": 0.8,
    }
    return AlignmentRecord(shared=shared, floor=floor, ceiling=ceiling, **(given | more))


def segmenter(name: str, **more: Any) -> SegmenterRecord:
    """A SegFormer of its own cohort, opened at stage3, neither scored nor measured."""
    given = {
        "architecture": "segformer-b0",
        "trained_on": name,
        "init_from": None,
        "hookpoints": ("stage3",),
        "hookpoint_reason": None,
        "seconds": 60.0,
        "scores": {},
        "effects": (),
    }
    return SegmenterRecord(name=name, **(given | more))


def effect(hookpoint: str, after: float | None, class_name: str = "foreground", before: float = 0.7) -> EffectRecord:
    """Dice before and after a hookpoint is set to its mean."""
    return EffectRecord(hookpoint, class_name, width=32, tokens=64, dice_before=before, dice_ablated=after)


def dictionary(name: str, **more: Any) -> DictionaryRecord:
    """A dictionary with 64 latents at stage3."""
    given = {
        "hookpoint": "stage3",
        "k": 16,
        "n_latents": 64,
        "n_tokens": 1000,
        "explained_variance": 0.931,
        "l0": 15.8,
        "dead_share": 0.12,
        "dice_kept": 0.97,
        "dice_untouched": 0.72,
        "dice_mean_ablated": 0.5,
        "dice_reconstructed": 0.71,
        "control_explained_variance": 0.955,
        "participation_ratio": 3.4,
    }
    return DictionaryRecord(name=name, **(given | more))


def cohort(name: str, **more: Any) -> CohortRecord:
    """A cohort of eight real patients."""
    given = {
        "n_cases": 8,
        "n_patients": 8,
        "n_slices": 24,
        "n_quarantined": 0,
        "sequences": ("T1c",),
        "labels": {0: "background", 1: "edema"},
        "phantom": None,
        "splits": {},
    }
    return CohortRecord(name=name, **(given | more))


def summary(**parts: Any) -> Summary:
    """A summary of the parts that are given; sequences of records become tuples."""
    given: dict[str, Any] = {"study": "phantom cohorts", "seed": 7, "settings": {}, "universal": None, "timings": {}}
    given |= {"seconds": 412.0, "peak_rss_mib": 2130}
    given |= dict.fromkeys(
        ("cohorts", "segmenters", "volume_scores", "dictionaries", "alignments", "steering", "failures"), ()
    )
    return Summary(**(given | {name: tuple(part) if isinstance(part, list) else part for name, part in parts.items()}))
