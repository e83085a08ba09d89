"""A run folder with generated artifacts: everything a report can show, made in a second without any model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tests.records import (
    alignment,
    cohort,
    counted,
    dictionary,
    effect,
    failure,
    outcome,
    scores,
    segmenter,
    steering,
    summary,
)

from seglens.artifacts import Draft, new_artifact
from seglens.cohorts.slice_set import SliceSet
from seglens.diffing.records import AlignmentRecord, FunctionRecord, MatchingRecord, UniversalRecord
from seglens.documents import to_document
from seglens.runs import Run, Stage
from seglens.segmenters.intervals import FIGURES
from seglens.segmenters.score_summary import ScoreSummary
from seglens.segmenters.worst_patients import WorstPatients
from seglens.semantics.atlas import LatentAtlas
from seglens.steering.adaptation import SteeringResult
from seglens.steering.failure_recovery import FailureResult
from seglens.steering.records import FailureRecord, ModeOutcome, SteeringRecord
from seglens.summaries import PhantomRecord, SplitRecord

TUMOUR = {0: "background", 1: "necrotic_core", 2: "edema", 3: "enhancing"}
HEALTHY = dict(enumerate(["background", "csf", "cortex", "white", "thalamus", "putamen", "caudate", "stem", "vermis"]))
SEQUENCES = ["T1", "T1c", "T2", "FLAIR"]
SIZE = 48


def scores_of(labels: dict[int, str], level: float, **overrides: float | None) -> ScoreSummary:
    """Scores that fall from class to class; ``overrides`` set a class in every convention."""
    names = [name for value, name in labels.items() if value]
    return scores({name: overrides.get(name, max(0.0, level - 0.06 * place)) for place, name in enumerate(names)})


def slices_of(name: str, labels: dict[int, str], case: str, seed: int) -> SliceSet:
    """Ellipses with a lesion, a few patients in each split."""
    generator = torch.Generator().manual_seed(seed)
    n = 24
    axis = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    brain = (x / 0.7) ** 2 + (y / 0.88) ** 2 < 1
    images, masks = [], []
    for place in range(n):
        cx, cy = (torch.rand(2, generator=generator) * 0.6 - 0.3).tolist()
        radius = torch.sqrt((x - cx) ** 2 + (y - cy) ** 2)
        mask = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
        step = 0.38 / (len(labels) - 1)
        for value in sorted(labels)[1:] if place % 5 else []:
            mask[(radius < 0.38 - step * (value - 1)) & brain] = value
        image = torch.stack([torch.cos(6 * radius + c) + 0.5 * (mask > 0) * (c + 1) for c in range(len(SEQUENCES))])
        image = (image + 0.15 * torch.randn(image.shape, generator=generator)) * brain
        images.append(image)
        masks.append(mask)
    patients = [f"{case}{place // 3}" for place in range(n)]
    splits = ["train" if place < 12 else "val" if place < 15 else "test" for place in range(n)]
    index = pl.DataFrame({"case": patients, "patient": patients, "split": splits})
    return SliceSet.from_tensors(
        torch.stack(images),
        torch.stack(masks),
        brain.expand(n, -1, -1).clone(),
        index,
        name=name,
        sequences=SEQUENCES,
        labels=labels,
    )


def atlas_of(labels: dict[int, str], n_latents: int, name: str) -> LatentAtlas:
    """Latents that go around the classes; the last three are dead."""
    classes = list(labels.values())
    rows = []
    for latent in range(n_latents):
        top = classes[latent % len(classes)]
        dead = latent >= n_latents - 3
        row: dict[str, Any] = {
            "latent": latent,
            "firing_rate": 0.0 if dead else 0.02,
            "mean_activation": None if dead else 1.0,
            "mass": 0.0 if dead else 100.0 - latent,
            "top_class": None if dead else top,
            "inside": None if dead else 0.6,
            "boundary": 0.2,
            "name": f"{top}, left, deep{name}",
            "dead": dead,
            "class_replicates": None if dead else True,
        }
        for place, other in enumerate(classes):
            row[f"p_{other}"] = None if dead else 0.7 if other == top else 0.05
            row[f"lift_{other}"] = None if dead else (20.0 - latent / 10 if other == top else 0.5) / (place + 1)
        rows.append(row)
    exemplars = pl.DataFrame(
        [
            {"latent": latent, "rank": rank, "row": (latent + rank) % 12, "score": 1.0 - rank / 10}
            for latent in range(n_latents - 3)
            for rank in range(4)
        ]
    )
    grid = torch.linspace(-1, 1, 8)
    maps = torch.exp(-4 * ((grid[:, None] - 0.2) ** 2 + (grid[None, :] + 0.2) ** 2))
    return LatentAtlas(
        pl.DataFrame(rows, infer_schema_length=None),
        exemplars,
        maps.expand(len(exemplars), 1, 8, 8).to(torch.float16).contiguous(),
        labels,
        dict.fromkeys(classes, 0.04),
        pl.DataFrame(
            {
                "part": ["class", "side"],
                "named": [9, 9],
                "replicated": [6, 1],
                "by_chance": [2.5, 4.0],
                "other_masks": [1, None],
            }
        ),
        {"top_k": 4, "hookpoint": "stage3"},
    )


BASELINES = {
    "ccf": 0.053,
    "uf": 0.054,
    "logit_bias": 0.056,
    "logit_bias_foreground": 0.051,
    "drop_class": 0.0,
    "predict_nothing": 0.0,
    "flip_augmentation": 0.055,
    "mean_ablation": 0.144,
    "reconstruct_only": 0.052,
    "random_latents": 0.048,
}


def steering_results(source: str, target: str, before: float, after: float) -> list[SteeringRecord]:
    """Two held-out rows (one is the policy's choice) and two of the oracle."""
    results = []
    for policy in ("held_out", "oracle"):
        for operation in ("multiply", "add"):
            gain = 0.02 if policy == "oracle" else 0.0
            results.append(
                steering(
                    scores_of(TUMOUR, 0.3, edema=before),
                    scores_of(TUMOUR, 0.3, edema=after + gain - (0.002 if operation == "add" else 0)),
                    {name: scores_of(TUMOUR, 0.3, edema=value) for name, value in BASELINES.items()},
                    source=source,
                    target=target,
                    policy=policy,
                    operation=operation,
                    alpha=None if policy == "oracle" else 2.0,
                    chosen=operation == "multiply",
                )
            )
    return results


def curves() -> pl.DataFrame:
    """Figures over alpha; one value is undefined."""
    rows = []
    for operation, alphas in (
        ("multiply", (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)),
        ("add", (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0)),
    ):
        for latents in ("chosen", "random"):
            for alpha in alphas:
                for name in ("edema", "foreground"):
                    top = 0.06 if latents == "chosen" else 0.05
                    value = top - 0.005 * (alpha - 1.5) ** 2
                    row = {"operation": operation, "latents": latents, "alpha": alpha, "class": name}
                    row |= {key: max(value, 0.0) * (place + 1) for place, key in enumerate(FIGURES)}
                    rows.append(row | {"precision": None if alpha == -2 else 0.1})
    return pl.DataFrame(rows, infer_schema_length=None)


def failure_results(segmenter: str, cohort: str) -> list[FailureRecord]:
    """One row a policy."""
    common = {
        "segmenter": segmenter,
        "cohort": cohort,
        "n": 12,
        "baselines": {"ccf": outcome(1), "logit_bias": outcome(4, mean_after=0.26)},
        "modes": {
            "FP": ModeOutcome(5, 2, 0, 0.2, 0.25),
            "FN": ModeOutcome(7, 1, 0, 0.2, 0.22),
            "mixed": ModeOutcome(0, 0, 0, None, None),
        },
        "random_recovered_draws": (1, 2, 2),
        "random_worsened_draws": (0, 0, 0),
    }
    return [
        failure(3, 5 / 3, **common),
        failure(7, 6.0, **common, policy="oracle", mean_after=0.31, alpha=None, latents=None, edit="best of 5"),
    ]


def aligned(source: str, target: str, place: int) -> AlignmentRecord:
    """One pair; the U-Net is not comparable by weights."""
    functional = FunctionRecord(0.04, 0.31, 0.12, 0.46, True)
    if "unet" in source + target:
        functional = replace(functional, matched_by_weight=None)
        bounds = dict.fromkeys(("floor", "ceiling", "ceiling_other_seed", "tau"))
        return alignment(None, source=source, target=target, functional=functional, **bounds)
    by_filter = {
        "none": MatchingRecord(0.71, 0.1, 64, 0.6, 0.7),
        "shared": MatchingRecord(1.0, 0.0, 50, 0.9, 0.8),
    }
    return alignment(
        0.84 - 0.05 * place,
        0.62,
        0.93,
        source=source,
        target=target,
        functional=functional,
        methods=dict.fromkeys(("hungarian_dual", "greedy", "sinkhorn", "encoder_only"), by_filter),
        dead_source=12,
        dead_target=30,
        n_source=64,
        n_target=64,
        same_segmenter_start=True,
        same_sae_seed=True,
    )


def build(
    folder: Path,
    cohorts: dict[str, dict[int, str]],
    segmenters: dict[str, str],
    *,
    full: bool,
    case: str = "P",
    suffix: str = "",
) -> Run:
    """Write a run.

    Args:
        folder: of the run.
        cohorts: name to labels.
        segmenters: name to the cohort it is trained on.
        full: with alignments, steering and failures.
        case: beginning of every case id.
        suffix: end of every latent's name.
    """
    run = Run(folder)

    def put(name: str, kind: str, write: Callable[[Draft], None]) -> None:
        stage = Stage(name, kind, {"fake": 1})

        def make(path: Path, _: Path) -> None:
            with new_artifact(path, kind=kind, inputs=stage.inputs) as draft:
                write(draft)

        run.finish(stage, make)

    parts: dict[str, Any] = {
        "settings": {
            "name": "phantom cohorts",
            "cohorts": {"adult": {"sources": [{"path": "/home/someone/secret/BraTS"}]}},
        },
        "cohorts": [],
        "segmenters": [],
        "dictionaries": [],
    }
    with run.writing({"name": "phantom cohorts"}):
        for place, (name, labels) in enumerate(cohorts.items()):
            slices = slices_of(name, labels, case, place)
            fault = {
                "case": f"{case}9",
                "file": "data/x.nii.gz",
                "code": "short",
                "what": "412 of 900 bytes",
                "fix": "copy it again",
            }
            findings = [fault] if place == 0 else []
            check = {"findings": findings, "quarantined": [fault["case"] for fault in findings]}
            put(f"check/{name}", "check", lambda draft, check=check: draft.save_document("check", check))
            put(f"slices/{name}", "slices", slices.write)
            parts["cohorts"].append(
                cohort(
                    name,
                    n_quarantined=len(findings),
                    splits=dict.fromkeys(("train", "val", "test"), SplitRecord(4, 12, 0)),
                    sequences=tuple(SEQUENCES),
                    labels=labels,
                    phantom=PhantomRecord(name, {"noise": "ssa"}, 8, 3) if place == 0 else None,
                )
            )
        for place, (name, home) in enumerate(segmenters.items()):
            labels = cohorts[home]
            parts["segmenters"].append(
                segmenter(
                    name,
                    architecture="unet" if "unet" in name else "segformer-b0",
                    trained_on=home,
                    init_from="healthy" if place else None,
                    scores={
                        other: scores_of(labels, 0.85 - 0.3 * (other != home))
                        for other, its in cohorts.items()
                        if its == labels
                    },
                    effects=tuple(
                        effect(f"stage{n + 1}", 0.1 + 0.2 * n, one, before=0.72)
                        for n in range(4)
                        for one in (labels[1], labels[2], "foreground")
                    ),
                )
            )
            control = 0.955 if place else None
            for other, own in parts["segmenters"][-1].scores.items():
                lost = {"necrotic_core": 0.05} if (name, other) == ("adult", "pediatric") else {}
                table = counted({one: own.dice(one).value or 0.0 for one in own.classes} | lost).table
                shown = WorstPatients((1, 4), slices_of(other, labels, case, 0).split("test").masks([1, 4]).flip(3))

                def write(draft: Draft, table: pl.DataFrame = table, shown: WorstPatients = shown) -> None:
                    draft.save_table("scores", table)
                    shown.write(draft)

                put(f"scores/{name}@{other}", "scores", write)
            parts["dictionaries"].append(dictionary(name, control_explained_variance=control))
            put(f"atlas/{name}", "atlas", atlas_of(labels, 64, suffix).write)
        if full:
            names = list(segmenters)
            pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
            parts["alignments"] = [aligned(a, b, place) for place, (a, b) in enumerate(pairs)]
            parts["universal"] = UniversalRecord(17, 0.27, (0.1, 0.4), tuple(names))
            parts["steering"] = steering_results("adult", "pediatric", 0.053, 0.060)
            nothing = pl.DataFrame({"edit": ["x"]})
            put(
                "steering/adult-pediatric-edema",
                "steering",
                SteeringResult(parts["steering"], curves(), nothing, nothing).write,
            )
            parts["failures"] = failure_results("adult", "adult")
            masks = slices_of("adult", cohorts["adult"], case, 0).split("test").masks([1, 4])
            table = pl.DataFrame(
                {"row": [1, 4], "dice_before": [0.2, 0.3], "dice_held_out": [0.5, 0.28], "dice_oracle": [0.6, 0.3]}
            )
            examples = {
                "rows": torch.tensor([1, 4]),
                "truth": masks,
                "before": masks.flip(3),
                "held_out": masks.roll(3, 2),
                "oracle": masks.roll(2, 3),
            }
            put("failures/adult-adult", "failures", FailureResult(parts["failures"], table, examples).write)
    (folder / "summary.json").write_text(json.dumps(to_document(summary(**parts))))
    (folder / "timings.json").write_text(
        json.dumps({"segmenter/adult": 60.0, "segmenter/healthy": 70.5, "store/adult": 3.2})
    )
    return Run(folder)


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four cohorts, five dictionaries, every stage."""
    cohorts = {"healthy": HEALTHY, "adult": TUMOUR, "pediatric": TUMOUR, "ssa": TUMOUR}
    segmenters = {name: name for name in cohorts} | {"adult-unet": "adult"}
    return build(tmp_path_factory.mktemp("runs") / "full", cohorts, segmenters, full=True)


@pytest.fixture
def small_run(tmp_path: Path) -> Run:
    """One cohort, no comparison, no steering, no failures."""
    return build(tmp_path / "small", {"adult": TUMOUR}, {"adult": "adult"}, full=False)


@pytest.fixture
def hostile_run(tmp_path: Path) -> Run:
    """Names that are mark-up."""
    name = "<script>alert(1)</script>"
    return build(
        tmp_path / "hostile",
        {"adult": TUMOUR},
        {"adult": "adult"},
        full=False,
        case='"><img src=x onerror=alert(2)>',
        suffix=name,
    )
