"""Figures 2, 12 and 13: what latents fire on, by rules from geometry. The page draws the cards from the atlases."""

from typing import Any

import polars as pl

from seglens.experiments.experiment import Experiment, ExperimentResult, Figure
from seglens.runtime.progress import Progress
from seglens.semantics.atlas import LatentAtlas
from seglens.semantics.naming import MIXED
from seglens.studies.stages import Study

BEST = 5
"""Latents a class that the table names."""


def run(study: Study, progress: Progress) -> ExperimentResult:
    """Every segmenter's atlas: how many latents each class has, and the best of them."""
    names = list(study.settings.segmenters)
    counts, best = [], []
    for number, name in enumerate(names):
        atlas = LatentAtlas.read(study.result("atlas", name))
        labels = [label for _, label in sorted(atlas.labels.items())]
        counts += latents_by_class(name, atlas.table, labels)
        best += best_latents(name, atlas.table, labels[1:])
        progress(number + 1, len(names))
    table = pl.DataFrame(counts)
    words = [
        "A latent is named by rules from where its activation lies (class association over the class's base rate, "
        "border, edge, depth, side), measured on slices of patients that neither the segmenter nor the dictionary was "
        "trained on. Lift, not the raw share, decides: most pixels are background.",
        "A word stands in a name only if each half of the patients alone gives it too; the table of names that come "
        "back says how many do, beside chance and beside the masks of other patients.",
        "A name says what a latent goes with. Whether the segmentation uses it is asked by the steering experiments.",
    ]
    tables = {"latents by class": table, "best latents": pl.DataFrame(best, infer_schema_length=None)}
    return ExperimentResult(tables, headlines(table), words)


def latents_by_class(name: str, latents: pl.DataFrame, labels: list[str]) -> list[dict[str, Any]]:
    """Live latents of each class, and those of none."""
    live = latents.filter(~pl.col("dead"))
    rows = []
    for label in [*labels, MIXED]:
        own = live.filter(pl.col("top_class") == label)
        rows.append(
            {
                "segmenter": name,
                "class": label,
                "latents": own.height,
                "in both halves": own["class_replicates"].sum(),
                "different names": own["name"].n_unique(),
                "share of activation": float(own["mass"].sum()) / float(live["mass"].sum()) if live.height else 0.0,
            }
        )
    return rows


def best_latents(name: str, latents: pl.DataFrame, labels: list[str]) -> list[dict[str, Any]]:
    """Of each class the live latents with the largest lift among those with at least a tenth of the mean mass."""
    live = latents.filter(~pl.col("dead"))
    heavy = live.filter(pl.col("mass") >= 0.1 * pl.col("mass").mean())
    rows = []
    for label in labels:
        own = heavy.filter(pl.col("top_class") == label).sort([f"lift_{label}", "latent"], descending=[True, False])
        for row in own.head(BEST).iter_rows(named=True):
            rows.append(
                {
                    "segmenter": name,
                    "class": label,
                    "latent": row["latent"],
                    "name": row["name"],
                    "class association": row[f"p_{label}"],
                    "lift": row[f"lift_{label}"],
                    "on a border": row["boundary"],
                    "at the brain's edge": row["edge"],
                    "depth": row["depth"],
                    "entropy": row["entropy"],
                }
            )
    return rows


def headlines(counts: pl.DataFrame) -> dict[str, float | None]:
    """Live latents with a class, those that keep it in both halves of the patients, and those without one."""
    found: dict[str, float | None] = {}
    for (name,), rows in counts.group_by("segmenter", maintain_order=True):
        found[f"live latents of a class, {name}"] = float(rows.filter(pl.col("class") != MIXED)["latents"].sum())
        both = rows.filter(pl.col("class") != MIXED)["in both halves"].sum()
        found[f"live latents of a class in both halves of the patients, {name}"] = float(both)
        found[f"live latents of no class, {name}"] = float(rows.filter(pl.col("class") == MIXED)["latents"].sum())
    return found


EXPERIMENT = Experiment(
    "interpretation",
    "What latents fire on",
    "Figures 2, 12 and 13",
    run,
    figures=(Figure("bars", "latents by class", "Live latents by class", x="class", y="latents", panel="segmenter"),),
    version=2,
    folded=("latents by class", "best latents"),
)
