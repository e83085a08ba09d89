"""Depth of what a segmentation rests on: late or early parts, the skip or the coarse path, and each part as a whole.

After the Dependency Depth Bias of Inside-Out (arXiv 2604.08192), for networks whose consumers read several depths: a
SegFormer's decoder reads four stages, a level of a U-Net a coarser level and a skip.
"""

from collections.abc import Mapping
from itertools import chain
from math import log, nan

import polars as pl
from torch import Tensor

from seglens.circuits.baseline import Baseline
from seglens.circuits.edge_scores import EdgeScores, each_slice
from seglens.circuits.graph import Graph, Values
from seglens.circuits.targets import Loss, Target
from seglens.cohorts.slice_set import SliceSet
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.network_node import INPUT


def depths(graph: Graph) -> dict[str, float]:
    """Longest path from the images to each part, as a share of that to the last part, 0..1."""
    steps = {INPUT: 0}
    for node in graph.nodes:
        steps[node.name] = 1 + max(steps[producer] for producer in chain(*node.slots))
    whole = steps[graph.nodes[-1].name]
    return {name: own / whole for name, own in steps.items()}


def depth_bias(graph: Graph, scores: EdgeScores, consumer: str) -> float:
    """Log ratio of what a part gets of the deeper half of its producers to what it gets of the shallower half.

    At a SegFormer's ``"head"`` that is stages 3 and 4 against 1 and 2; at a U-Net's ``"upcat_1"`` the coarser level
    against the skip, so that less is more reliance on the skip.

    Args:
        graph: that the scores are of.
        scores: of any patients.
        consumer: name of a part that reads several.

    Returns:
        NaN where one half is worth exactly nothing.

    Raises:
        ValueError: a part that reads one other, or no part.
    """
    deep = depths(graph)
    producers = sorted((edge[0] for edge in graph.into(consumer)), key=deep.__getitem__)
    if len(producers) < 2:
        several = [node.name for node in graph.nodes if len(graph.into(node.name)) > 1]
        raise ValueError(
            f"{consumer!r} reads {len(producers)} parts; give one that reads several: {', '.join(several)}"
        )
    mean = scores.mean()
    half = len(producers) // 2
    early, late = (
        sum(abs(mean[producer, consumer]) for producer in part) for part in (producers[:half], producers[-half:])
    )
    return log(late / early) if early > 0 and late > 0 else nan


def node_effects(
    graph: Graph,
    baseline: Baseline,
    slices: SliceSet,
    target: Target,
    *,
    batch_size: int = 8,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Ablate every part for all that read it, and measure how much the target rises.

    Args:
        graph: of a segmenter, on its device.
        baseline: of `source_baseline`.
        slices: of any cohort.
        target: one of `seglens.circuits.targets`.
        batch_size: slices at once.
        progress: told after each batch.

    Returns:
        A row a patient and part: patient, part, depth (0..1), effect (mean over the patient's slices). Slices without a
        target are left out.
    """

    def scored(values: Values, loss: Loss) -> Mapping[str, Tensor]:
        before = loss(graph.logits(values))
        return {
            name: loss(graph.ablated(values, graph.out_of(name), baseline.values)) - before for name in graph.producers
        }

    found = each_slice(scored, graph, slices, target, batch_size=batch_size, progress=progress)
    deep = depths(graph)
    parts = [
        pl.DataFrame({"patient": slices.index["patient"], "part": name, "depth": deep[name], "effect": own})
        for name, own in found.items()
    ]
    kept = pl.concat(parts).filter(pl.col("effect").is_not_nan())
    return kept.group_by("patient", "part", "depth", maintain_order=True).agg(pl.col("effect").mean())


def centre_of_depth(effects: pl.DataFrame) -> float:
    """Mean depth of the parts, weighted by the size of their mean effect, 0..1; NaN where none has any.

    Args:
        effects: of `node_effects`.
    """
    mean = effects.group_by("part", "depth").agg(pl.col("effect").mean().abs())
    depth, size = mean["depth"].to_numpy(), mean["effect"].to_numpy()
    return float(depth @ size / size.sum()) if size.sum() > 0 else nan
