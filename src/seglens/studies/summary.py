"""summary.json: the figures of a run under stable keys."""

from typing import Any

import polars as pl

from seglens.cohorts.slice_set import SliceSet
from seglens.runs import Run
from seglens.studies.settings import StudySettings


def summarise(run: Run, settings: StudySettings) -> dict[str, Any]:
    """Collect what the finished stages found; a stage that was not run leaves an empty list.

    Args:
        run: with finished stages.
        settings: of the study.
    """
    return {
        "study": settings.name,
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
        "cohorts": [_cohort(run, name) for name in settings.cohorts if f"slices/{name}" in run],
        "segmenters": [_segmenter(run, settings, name) for name in settings.segmenters if f"segmenter/{name}" in run],
        "dictionaries": [_dictionary(run, name) for name in settings.segmenters if f"quality/{name}" in run],
        "alignments": [_alignment(run, stage) for stage in run.stages("alignment/")],
        "universal": _universal(run),
        "steering": [entry for stage in run.stages("steering/") for entry in run.artifact(stage).document("results")],
        "failures": [entry for stage in run.stages("failures/") for entry in run.artifact(stage).document("results")],
        "timings": {stage: run.timings[stage] for stage in run.stages() if stage in run.timings},
    }


def _cohort(run: Run, name: str) -> dict[str, Any]:
    check = run.artifact(f"check/{name}").document("check")
    slices = SliceSet.read(run.artifact(f"slices/{name}"))
    empty = [not bool(slices.masks([row]).any()) for row in range(len(slices))]
    index = slices.index.with_columns(pl.Series("empty", empty))
    counted = index.group_by("split", maintain_order=True).agg(
        pl.col("patient").n_unique().alias("patients"),
        pl.len().alias("slices"),
        pl.col("empty").sum().alias("slices_without_label"),
    )
    facts = {key: check[key] for key in ("name", "n_cases", "n_patients", "sequences", "labels", "phantom")}
    return facts | {
        "n_slices": index.height,
        "n_quarantined": len(check["quarantined"]),
        "splits": {row.pop("split"): row for row in counted.to_dicts()},
    }


def _segmenter(run: Run, settings: StudySettings, name: str) -> dict[str, Any]:
    from seglens.segmenters.scoring import Scores

    own = settings.segmenters[name]
    scored = {stage.split("@", 1)[1]: stage for stage in run.stages(f"scores/{name}@")}
    effects = run.artifact(f"effects/{name}").table("effects").to_dicts() if f"effects/{name}" in run else []
    opened = f"dictionary/{name}" in run
    return {
        "name": name,
        "architecture": own.architecture,
        "trained_on": own.cohort,
        "init_from": own.init_from,
        "hookpoint": _head(run, name)["hookpoint"] if opened else None,
        "seconds": run.timings.get(f"segmenter/{name}"),
        "scores": {cohort: Scores(run.artifact(stage).table("scores")).summary() for cohort, stage in scored.items()},
        "effects": effects,
    }


def _head(run: Run, name: str) -> dict[str, Any]:
    head: dict[str, Any] = run.artifact(f"dictionary/{name}").document("dictionary")
    return head


def _dictionary(run: Run, name: str) -> dict[str, Any]:
    head = _head(run, name)
    quality = run.artifact(f"quality/{name}").document("quality")
    latents = run.artifact(f"atlas/{name}").table("latents").height if f"atlas/{name}" in run else None
    return {"name": name, "hookpoint": head["hookpoint"], "k": head["k"], "n_latents": latents} | quality


def _alignment(run: Run, stage: str) -> dict[str, Any]:
    from seglens.diffing.alignment import Alignment

    artifact = run.artifact(stage)
    pair = artifact.document("pair")
    figures = pair["figures"]
    entry = {
        "source": pair["source"],
        "target": pair["target"],
        "shared": None,
        "floor": figures.get("floor"),
        "ceiling": figures.get("ceiling"),
        "ceiling_other_seed": figures.get("ceiling_other_seed"),
        "calibrated": None,
        "functional": {
            "matched_by_weight": figures.get("function"),
            "matched_by_function": figures["functional"],
            "floor": figures["functional_floor"],
            "ceiling": figures.get("functional_ceiling"),
        },
    }
    if pair["comparable_by_weights"]:
        alignment = Alignment.read(artifact)
        entry |= {
            "shared": alignment.shared_share,
            "calibrated": alignment.calibrated,
            "tau": alignment.tau,
            "dead_source": alignment.dead_source,
            "dead_target": alignment.dead_target,
            "n_source": alignment.n_source,
            "n_target": alignment.n_target,
            "methods": _methods(artifact.table("methods")),
            **alignment.notes,
        }
    return entry


def _methods(table: pl.DataFrame) -> dict[str, Any]:
    """Method -> filter -> figures."""
    nested: dict[str, Any] = {}
    for row in table.to_dicts():
        nested.setdefault(row.pop("method"), {})[row.pop("filter")] = row
    return nested


def _universal(run: Run) -> dict[str, Any] | None:
    """Latents shared in every pair of segmenters that live in one activation space; None for fewer than three."""
    from seglens.diffing.alignment import Alignment
    from seglens.diffing.universal import universal_latents

    artifacts = [run.artifact(stage) for stage in run.stages("alignment/")]
    alignments = [Alignment.read(a) for a in artifacts if a.document("pair")["comparable_by_weights"]]
    names = {name for alignment in alignments for name in (alignment.source, alignment.target)}
    if len(names) < 3 or len(alignments) != len(names) * (len(names) - 1) // 2:
        return None
    found = universal_latents(alignments)
    live = min(alignment.n_comparable for alignment in alignments)
    floors = [alignment.floor for alignment in alignments if alignment.floor is not None]
    return {
        "n": found.height,
        "share": found.height / live if live else 0.0,
        "pair_floors": [min(floors), max(floors)] if floors else None,
        "segmenters": sorted(names),
    }
