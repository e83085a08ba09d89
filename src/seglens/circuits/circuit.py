"""The circuit of a segmenter: scores of its edges, whether they are a circuit, and what stands beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

from seglens.circuits.baseline import Over, source_baseline
from seglens.circuits.edge_scores import EdgeScores, distances, exact_scores, integrated_scores
from seglens.circuits.faithfulness import SHARES, Curves, faithfulness_curves
from seglens.circuits.graph import Graph, graph_of
from seglens.circuits.reliability import half_split_reliability
from seglens.circuits.targets import Target, self_dice
from seglens.cohorts.slice_set import SliceSet
from seglens.runtime.progress import Progress, part_of, silent
from seglens.segmenters.segmenter import Segmenter

MAX_EXACT = 200
"""Edges up to which each is cut."""


@dataclass(frozen=True, eq=False)
class Circuit:
    """Edges that a segmentation rests on.

    Attributes:
        graph: of the segmenter.
        scores: worth of every edge in every patient.
        exact: whether each edge was cut; otherwise by integrated gradients.
        curves: how much a few edges keep.
        reliability: of the ranks of edges, 0..1 (`half_split_reliability`).
    """

    graph: Graph
    scores: EdgeScores
    exact: bool
    curves: Curves
    reliability: float


def find_circuit(
    segmenter: Segmenter,
    slices: SliceSet,
    *,
    source: SliceSet,
    target: Target = self_dice,
    exact: bool | None = None,
    over: Over = "position",
    shares: Sequence[float] = SHARES,
    n_random: int = 20,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress = silent,
) -> Circuit:
    """Find which edges of a segmenter a cohort's segmentations rest on.

    Args:
        segmenter: on the device where it is to run.
        slices: of the cohort that is asked about, of two patients or more; no masks are needed by `self_dice`.
        source: slices of the cohort that the segmenter was trained on; a cut edge gives their mean.
        target: one of `seglens.circuits.targets`: ``self_dice``, ``class_odds(label)``, ``labelled_dice``.
        exact: cut every edge; False: integrated gradients; None: cut where there are at most `MAX_EXACT` edges.
        over: mean of the source a position, or a channel.
        shares: of edges, at which the curves are measured.
        n_random: draws of random edges beside the curves.
        seed: of halves of patients and random edges.
        batch_size: slices at once.
        progress: told after each batch.

    Raises:
        ValueError: slices that the segmenter was not made for.
        UndefinedTargetError: one patient alone, or a target that no slice has.

    Example:
        >>> segmenter = sl.build_segmenter("unet", sequences=adult.sequences, labels=adult.labels, size=128)
        >>> circuit = find_circuit(segmenter, adult, source=adult.train, shares=[0.5], n_random=0)
        >>> len(circuit.scores.edges), circuit.exact
        (14, True)
    """
    whole = len(source) + 3 * len(slices)
    graph = graph_of(segmenter, source.images([0]).to(segmenter.device))
    baseline = source_baseline(graph, source, over=over, batch_size=batch_size, progress=part_of(progress, 0, whole))
    exact = len(graph.edges) <= MAX_EXACT if exact is None else exact
    score = exact_scores if exact else integrated_scores
    reports = [part_of(progress, len(source) + step * len(slices), whole) for step in range(3)]
    scores = score(graph, baseline, slices, target, batch_size=batch_size, progress=reports[0])
    far = distances(graph, baseline, slices, batch_size=batch_size, progress=reports[1])
    curves = faithfulness_curves(
        graph,
        baseline,
        slices,
        target,
        {"score": scores, "distance": far},
        shares=shares,
        n_random=n_random,
        seed=seed,
        batch_size=batch_size,
        progress=reports[2],
    )
    return Circuit(graph, scores, exact, curves, half_split_reliability(scores, seed=seed))
