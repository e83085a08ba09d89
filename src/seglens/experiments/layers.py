"""Figures 9 and 10: where latents fire at every encoder stage, beside what the stage does for the segmentation."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from seglens.activations.live import live_activations
from seglens.artifacts import Draft
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, part
from seglens.experiments.segmenters import example_segmenter
from seglens.runtime.progress import Progress
from seglens.semantics.atlas import LatentAtlas, describe
from seglens.studies.stages import Study
from seglens.studies.variants import fit_to_store

GEOMETRY = {"inside": "inside a label", "boundary": "on a border", "edge": "at the brain's edge", "depth": "depth"}


def run(study: Study, progress: Progress) -> ExperimentResult:
    """One segmenter (the paper takes the pediatric one), a dictionary for each of its hookpoints."""
    name = example_segmenter(study, "pediatric")
    segmenter = study.segmenter(name)
    stages = list(segmenter.hookpoints)
    effects = study.result("effects", name).table("effects").filter(pl.col("class") == "foreground")
    drops = {row["hookpoint"]: row for row in effects.iter_rows(named=True)}
    rows = []
    for number, hookpoint in enumerate(stages):
        atlas = _atlas(study, name, hookpoint)
        before, after = drops[hookpoint]["dice_before"], drops[hookpoint]["dice_ablated"]
        rows.append(
            {
                "hookpoint": hookpoint,
                **stage_geometry(atlas.table, atlas.context),
                "Dice lost by mean ablation": None if before is None or after is None else before - after,
            }
        )
        progress(number + 1, len(stages))
    table = pl.DataFrame(rows, infer_schema_length=None)
    measures = [*GEOMETRY.values(), "spread over the brain", "Dice lost by mean ablation"]
    long = table.unpivot(measures, index="hookpoint", variable_name="measure")
    strongest = max(rows, key=lambda row: row["Dice lost by mean ablation"] or 0.0)["hookpoint"]
    headline = {
        f"{measure}, {row['hookpoint']}": row[measure]
        for row in (rows[0], rows[-1])
        for measure in ("inside a label", "Dice lost by mean ablation")
    }
    words = [
        f"A dictionary of {name} at every hookpoint, its latents described by the geometry of appendix C (means "
        "over live latents, each weighted by its activation), and beside it what the segmentation loses when the "
        "stage's activation is replaced by its mean.",
        f"The paper chooses its layer by geometry alone. Here the stage that costs the most Dice is {strongest}: a "
        "stage may look localised and hardly matter. Token grids differ between stages, so spread is given as a share "
        "of the brain, and a coarse grid cannot be narrower than its cell.",
    ]
    return ExperimentResult({"layers": table, "by measure": long}, headline, words)


def stage_geometry(latents: pl.DataFrame, context: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the live latents of an atlas, weighted by activation mass; entropy also as a share of its maximum."""
    live = latents.filter(~pl.col("dead"))

    def mean(column: str) -> float | None:
        known = live.filter(pl.col(column).is_not_null())
        total = float(known["mass"].sum())
        return float((known[column] * known["mass"]).sum()) / total if total else None

    pixels = math.prod(context["size"])
    entropy = mean("entropy")
    return {
        "token grid": " x ".join(str(cells) for cells in context["grid"]),
        "live latents": live.height,
        **{words: mean(column) for column, words in GEOMETRY.items()},
        "entropy (share of its maximum)": None if entropy is None else entropy / math.log(pixels),
        "spread over the brain": mean("spread"),
    }


def _atlas(study: Study, name: str, hookpoint: str) -> LatentAtlas:
    if hookpoint == study.hookpoint(name):
        return LatentAtlas.read(study.result("atlas", name))
    segmenter, slices, unseen = study.segmenter(name), study.own_slices(name, "train"), study.unseen_slices(name)
    own, seed = study.settings.dictionaries, study.settings.seed

    def fit(draft: Draft, progress: Progress) -> None:
        store = live_activations(segmenter, slices, hookpoint)
        fit_to_store(store, own, seeds=(seed, seed), device=study.device, checkpoint=None, progress=progress).write(
            draft
        )

    inputs = {
        "segmenter": segmenter.hash,
        "slices": slices.hash,
        "hookpoint": hookpoint,
        "settings": own.model_dump(mode="json", exclude={"controls"}),
        "seed": seed,
    }
    dictionary = SparseAutoencoder.read(part(study, f"layer-dictionary/{name}-{hookpoint}", "dictionary", inputs, fit))

    def make(draft: Draft, progress: Progress) -> None:
        describe(Lens(segmenter, dictionary), unseen, top_k=study.settings.atlas_top_k, progress=progress).write(draft)

    inputs = {"dictionary": dictionary.hash, "slices": unseen.hash, "top_k": study.settings.atlas_top_k}
    return LatentAtlas.read(part(study, f"layer-atlas/{name}-{hookpoint}", "atlas", inputs, make))


EXPERIMENT = Experiment(
    "layers",
    "Encoder stages",
    "Figures 9 and 10",
    run,
    figures=(
        Figure(
            "bars",
            "by measure",
            "Geometry by depth, and what the stage does",
            x="hookpoint",
            y="value",
            panel="measure",
            own_axes=True,
        ),
    ),
    folded=("by measure",),
)
