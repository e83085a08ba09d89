"""Scores of edges: exactly, by cutting each, or by integrated gradients along the cut of all edges into a part.

Both are in the unit of the target, positive where the cut makes it worse, and made to agree: Spearman's correlation of
the two says whether gradients will do where there are too many edges to cut each.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.circuits.baseline import Baseline
from seglens.circuits.graph import Edge, Graph, Values
from seglens.circuits.targets import Loss, Target, Truth
from seglens.cohorts.slice_set import SliceSet
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.inference import each_batch
from seglens.shapes import Images

Key = TypeVar("Key", bound=Hashable)
STEPS = 5
MAX_STEPS = 40
MAX_RESIDUAL = 0.1
"""Share of a cut's effect that its edges' scores may miss, or have too much, before steps are doubled."""
NOISE = 1e-4
"""A cut's effect on a slice, in units of the target, below which its residual is measured against this."""
SCHEMA: Mapping[str, Any] = {
    "patient": pl.String,
    "producer": pl.String,
    "consumer": pl.String,
    "stage": pl.String,
    "score": pl.Float64,
    "slices": pl.Int64,
}
CUTS: Mapping[str, Any] = {"consumer": pl.String, "effect": pl.Float64, "residual": pl.Float64, "steps": pl.Int64}


class UndefinedTargetError(ValueError):
    """Too few slices have the target: the network predicts nothing there, or the patients cannot be halved."""


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """Worth of every edge in every patient; all that follows is resampling of this table.

    Attributes:
        table: a row a patient and edge: patient, producer, consumer, stage (of the consumer), score (mean over the
            patient's slices), slices (how many).
        left_out: slices in which the target is not defined.
        cuts: of integrated gradients, a row a part: consumer, effect (mean of the target when all edges into it are
            cut, less the target), residual (mean distance of its edges' sum from that, as a share of the mean absolute
            effect) and steps.
    """

    table: pl.DataFrame
    left_out: int
    cuts: pl.DataFrame

    @classmethod
    def of_table(cls, table: pl.DataFrame) -> "EdgeScores":
        """The scores of a table that was kept, without what was left out of it."""
        return cls(table, 0, pl.DataFrame(schema=CUTS))

    @property
    def patients(self) -> list[str]:
        """Patients with a score, in the order of the table."""
        return self.table["patient"].unique(maintain_order=True).to_list()

    @property
    def edges(self) -> list[Edge]:
        """Edges in the order of the graph."""
        return self.table.select("producer", "consumer").unique(maintain_order=True).rows()

    def matrix(self) -> Float[np.ndarray, "p e"]:
        """Scores, patients by edges."""
        return self.table["score"].to_numpy().reshape(len(self.patients), -1)

    def of_patients(self, patients: Iterable[str]) -> "EdgeScores":
        """The scores of some patients."""
        chosen = self.table.filter(pl.col("patient").is_in(list(patients)))
        return EdgeScores(chosen, self.left_out, self.cuts)

    def mean(self) -> dict[Edge, float]:
        """Mean over patients of every edge's score."""
        return dict(zip(self.edges, self.matrix().mean(0).tolist(), strict=True))

    def ranking(self) -> list[Edge]:
        """Edges by falling size of their mean score."""
        mean = self.mean()
        return sorted(mean, key=lambda edge: -abs(mean[edge]))


def exact_scores(
    graph: Graph,
    baseline: Baseline,
    slices: SliceSet,
    target: Target,
    *,
    batch_size: int = 8,
    progress: Progress = silent,
) -> EdgeScores:
    """Cut every edge alone, and measure how much the target rises.

    Args:
        graph: of a segmenter, on its device.
        baseline: of `source_baseline`.
        slices: of any cohort; masks are looked at by labelled targets only.
        target: one of `seglens.circuits.targets`.
        batch_size: slices at once.
        progress: told after each batch.

    Raises:
        ValueError: slices of other sequences, or a target that is not defined on any slice.
    """

    def scored(values: Values, loss: Loss) -> dict[Edge, Tensor]:
        before = loss(graph.logits(values))
        return {edge: loss(graph.ablated(values, [edge], baseline.values)) - before for edge in graph.edges}

    per_edge = each_slice(scored, graph, slices, target, batch_size=batch_size, progress=progress)
    return _by_patient(graph, slices, per_edge, pl.DataFrame(schema=CUTS))


def integrated_scores(
    graph: Graph,
    baseline: Baseline,
    slices: SliceSet,
    target: Target,
    *,
    steps: int = STEPS,
    batch_size: int = 8,
    progress: Progress = silent,
) -> EdgeScores:
    """Integrated gradients of edges (EAP-IG, arXiv 2403.17806), one part at a time.

    All that a part reads moves together from what it is to the baseline; the gradient is taken in the middle of each of
    some steps, so neither end counts, where that of a distance to the clean run is 0. The scores of the edges into a
    part add up to the effect of cutting them all but for a residual; steps are doubled, to `MAX_STEPS` at most, until
    it is below `MAX_RESIDUAL`, and it is in ``cuts``.

    Args:
        graph: of a segmenter, on its device.
        baseline: of `source_baseline`.
        slices: of any cohort.
        target: one of `seglens.circuits.targets`.
        steps: to begin with, at least 1.
        batch_size: slices at once.
        progress: told after each batch.

    Raises:
        ValueError: as `exact_scores`, or steps below 1.
    """
    if steps < 1:
        raise ValueError(f"steps {steps} must be at least 1")
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(4, dtype=torch.float64))  # effect, |effect|, missed, n
    used: dict[str, int] = defaultdict(int)

    def scored(values: Values, loss: Loss) -> dict[Edge, Tensor]:
        before = loss(graph.logits(values))
        defined = ~before.isnan()
        found: dict[Edge, Tensor] = {}
        for node in graph.nodes:
            edges = graph.into(node.name)
            effect = loss(graph.ablated(values, edges, baseline.values)) - before
            m = steps
            while True:
                own = _integrated(graph, node.name, values, baseline.values, loss, steps=m)
                missed = (torch.stack(list(own.values())).sum(0) - effect).abs()[defined].double()
                size = effect.abs()[defined].double()
                if missed.sum() < MAX_RESIDUAL * size.clamp_min(NOISE).sum() or 2 * m > MAX_STEPS:
                    break
                m *= 2
            found |= {edge: torch.where(defined, score, torch.nan) for edge, score in own.items()}
            used[node.name] = max(used[node.name], m)
            sums[node.name] += torch.stack(
                [effect[defined].double().sum(), size.clamp_min(NOISE).sum(), missed.sum(), defined.double().sum()]
            ).cpu()
        return found

    per_edge = each_slice(scored, graph, slices, target, batch_size=batch_size, progress=progress)
    cuts = [(name, *(figures[[0, 2]] / figures[[3, 1]]).tolist(), used[name]) for name, figures in sums.items()]
    return _by_patient(graph, slices, per_edge, pl.DataFrame(cuts, schema=CUTS, orient="row"))


def distances(
    graph: Graph, baseline: Baseline, slices: SliceSet, *, batch_size: int = 8, progress: Progress = silent
) -> EdgeScores:
    """How far each producer is from its baseline: the control that knows no gradient and no target.

    Args:
        graph: of a segmenter, on its device.
        baseline: of `source_baseline`.
        slices: of any cohort.
        batch_size: slices at once.
        progress: told after each batch.
    """

    def scored(values: Values, loss: Loss) -> dict[Edge, Tensor]:
        far = {name: (baseline.values[name] - values[name]).flatten(1).norm(dim=1) for name in graph.producers}
        return {edge: far[edge[0]] for edge in graph.edges}

    per_edge = each_slice(scored, graph, slices, _anything, batch_size=batch_size, progress=progress)
    return _by_patient(graph, slices, per_edge, pl.DataFrame(schema=CUTS))


def _anything(decision: Any, clean: Tensor, truth: Truth) -> Loss:
    return lambda logits: logits.flatten(1).sum(1)


def _integrated(
    graph: Graph, name: str, values: Values, baseline: Values, loss: Loss, *, steps: int
) -> dict[Edge, Tensor]:
    """Score of each edge into a part, a slice."""
    node = graph.node(name)
    edges = graph.into(name)
    starts = graph.slots(node, values)
    ends = graph.slots(node, values, edges, baseline)
    sums = [torch.zeros_like(start) for start in starts]
    for step in range(steps):
        way = (step + 0.5) / steps
        with torch.enable_grad():
            points = [torch.lerp(start, end, way).requires_grad_() for start, end in zip(starts, ends, strict=True)]
            rise = loss(graph.after(name, node.run(*points), values))
            gradients = torch.autograd.grad(rise[~rise.isnan()].sum(), points, allow_unused=True)
        sums = [
            total if gradient is None else total + gradient / steps
            for total, gradient in zip(sums, gradients, strict=True)
        ]
    return {
        (producer, name): _along(
            baseline[producer] - values[producer],
            [total for slot, total in zip(node.slots, sums, strict=True) if producer in slot],
        )
        for producer, _ in edges
    }


def _along(way: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack([(way * gradient).flatten(1).sum(1) for gradient in gradients]).sum(0)


def each_slice(
    scored: Callable[[Values, Loss], Mapping[Key, Tensor]],
    graph: Graph,
    slices: SliceSet,
    target: Target,
    *,
    batch_size: int,
    progress: Progress,
) -> dict[Key, Float[np.ndarray, " n"]]:
    """Numbers a slice, by any keys, from its parts' outputs and its target.

    Args:
        scored: from a batch's values and its loss to a number a sample for each key.
        graph: of a segmenter, on its device.
        slices: that it is run on.
        target: one of `seglens.circuits.targets`.
        batch_size: slices at once.
        progress: told after each batch.

    Raises:
        ValueError: slices of other sequences, or prepared otherwise.
    """
    segmenter = graph.segmenter
    segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing, regions=True)

    def work(rows: Sequence[int], images: Images) -> dict[Key, Tensor]:
        values = graph.values(images)
        loss = target(segmenter.decision, graph.logits(values), lambda: slices.masks(rows))
        return {key: own.double().cpu() for key, own in scored(values, loss).items()}

    found: dict[Key, list[Tensor]] = defaultdict(list)
    for _, batch in each_batch(work, segmenter, slices, batch_size=batch_size, what="circuits", progress=progress):
        for key, own in batch.items():
            found[key].append(own)
    return {key: torch.cat(parts).numpy() for key, parts in found.items()}


def _by_patient(
    graph: Graph, slices: SliceSet, per_edge: Mapping[Edge, Float[np.ndarray, " n"]], cuts: pl.DataFrame
) -> EdgeScores:
    patients = slices.index["patient"]
    parts = [
        pl.DataFrame(
            {
                "patient": patients,
                "producer": producer,
                "consumer": consumer,
                "stage": graph.stages[consumer],
                "score": own,
            }
        )
        for (producer, consumer), own in per_edge.items()
    ]
    whole = pl.concat(parts)
    kept = whole.filter(pl.col("score").is_not_nan())
    if not len(kept):
        raise undefined(slices)
    keys = ["patient", "producer", "consumer", "stage"]
    order = {edge: number for number, edge in enumerate(per_edge)}
    table = kept.group_by(keys, maintain_order=True).agg(pl.col("score").mean(), slices=pl.len().cast(pl.Int64))
    ranked = sorted(table.rows(), key=lambda row: (row[0], order[row[1], row[2]]))
    left_out = (len(whole) - len(kept)) // len(per_edge)
    return EdgeScores(pl.DataFrame(ranked, schema=SCHEMA, orient="row"), left_out, cuts)


def undefined(slices: SliceSet) -> "UndefinedTargetError":
    """The error of a target that no slice has."""
    return UndefinedTargetError(
        f"the target is not defined on any of the {len(slices)} slices of {slices.name}: the network predicts none of "
        "its classes there, or no mask has one; give other slices or another target"
    )
