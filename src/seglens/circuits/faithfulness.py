"""Is it a circuit? How much of a target a few edges keep, how little is left without them, and which of them matter.

Edges are ranked on one half of the patients and the curves are measured on the other, both ways round, so no edge is
chosen by a patient that it is judged on.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float
from torch import Tensor

from seglens.circuits.baseline import Baseline
from seglens.circuits.edge_scores import EdgeScores, UndefinedTargetError, each_slice, undefined
from seglens.circuits.graph import Edge, Graph, Values
from seglens.circuits.targets import Loss, Target
from seglens.cohorts.slice_set import SliceSet
from seglens.runtime.progress import Progress, part_of, silent

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
ENOUGH = 0.8
"""Faithfulness at which edges are called a circuit."""
IDLE = 0.005
"""Rise of the target below which an edge of a circuit could have been left out."""
DRAWS = 1000
Part = Literal["kept", "ablated"]
LOSSES: Mapping[str, Any] = {
    "patient": pl.String,
    "ranking": pl.String,
    "part": pl.String,
    "share": pl.Float64,
    "loss": pl.Float64,
}


@dataclass(frozen=True, eq=False)
class Curves:
    """Target of every patient with some edges kept, or with these ablated.

    Attributes:
        losses: a row a patient, ranking (``"score"``, ``"distance"``, ``"random 1"``, ...), part (``"kept"``: all other
            edges are cut; ``"ablated"``, of scores alone: these are) and share of edges: loss, the mean target of the
            patient's slices.
        idle: share of the edges of the smallest circuit that reaches `ENOUGH` whose cut costs less than `IDLE`, the
            mean of both halves; None where no share below 1 reaches it.
    """

    losses: pl.DataFrame
    idle: float | None

    def table(self, *, seed: int = 0) -> pl.DataFrame:
        """Faithfulness with bands over patients.

        Of a share of edges it is (empty - kept) / (empty - whole), where empty is the mean target with all edges cut
        and whole with none; 1 is all of what the network does, and it may lie above 1 or below 0.

        Args:
            seed: of the draws of patients.

        Returns:
            A row a ranking, part and share: faithfulness, low, high (95% of draws of patients). The random rankings are
            one, ``"random"``, and its band is over its draws of edges.
        """
        frame = self.losses.pivot("patient", index=["ranking", "part", "share"], values="loss", maintain_order=True)
        losses = frame.drop("ranking", "part", "share").to_numpy()
        keys = frame.select("ranking", "part", "share").rows()
        whole = losses[keys.index(("score", "kept", 1.0))]
        empty = losses[keys.index(("score", "kept", 0.0))]
        random = np.random.default_rng(seed)
        n = losses.shape[1]
        weights = random.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
        rows = []
        chance: dict[tuple[str, float], list[float]] = defaultdict(list)
        for (ranking, part, share), own in zip(keys, losses, strict=True):
            value = _faithfulness(own.mean(), empty.mean(), whole.mean())
            if ranking.startswith("random"):
                chance[part, share].append(value)
                continue
            drawn = _faithfulness(weights @ own, weights @ empty, weights @ whole)
            rows.append((ranking, part, share, value, *_ends(drawn)))
        rows += [("random", *key, float(np.mean(values)), *_ends(values)) for key, values in chance.items()]
        columns = ["ranking", "part", "share", "faithfulness", "low", "high"]
        return pl.DataFrame(rows, schema=columns, orient="row")

    def areas(self, ranking: str = "score") -> tuple[float, float]:
        """Area under a ranking's faithfulness, and between it and 1, over shares 0..1."""
        own = self.table().filter((pl.col("ranking") == ranking) & (pl.col("part") == "kept")).sort("share")
        share, faithfulness = own["share"].to_numpy(), own["faithfulness"].to_numpy()
        return float(np.trapezoid(faithfulness, share)), float(np.trapezoid(abs(1 - faithfulness), share))


def faithfulness_curves(
    graph: Graph,
    baseline: Baseline,
    slices: SliceSet,
    target: Target,
    rankings: Mapping[str, EdgeScores],
    *,
    shares: Sequence[float] = SHARES,
    n_random: int = 20,
    seed: int = 0,
    batch_size: int = 8,
    progress: Progress = silent,
) -> Curves:
    """Keep more and more of the edges that score highest, and cut the others; and the other way round.

    Args:
        graph: of a segmenter, on its device.
        baseline: of `source_baseline`.
        slices: of at least two patients.
        target: that the scores are of, or another.
        rankings: scores of the patients of ``slices`` by name; one is ``"score"``, and random edges are drawn beside
            it, as many of each stage as it has.
        shares: of edges, 0..1; 0 and 1 are always measured.
        n_random: draws of random edges.
        seed: of the halves and the draws.
        batch_size: slices at once.
        progress: told after each batch.

    Raises:
        UndefinedTargetError: one patient alone, or a target that is not defined on any slice.
    """
    patients = rankings["score"].patients
    if len(patients) < 2:
        raise UndefinedTargetError(
            f"edges are ranked on other patients than those that judge them, and {slices.name} has {len(patients)} "
            "with a defined target; give slices of two or more"
        )
    random = np.random.default_rng(seed)
    chosen = random.permutation(patients)
    halves = [set(chosen[::2].tolist()), set(chosen[1::2].tolist())]
    owners = slices.index["patient"].to_list()
    shares = sorted({0.0, 1.0, *shares})
    parts, idle = [], []
    done = 0
    for judging, ranking in (halves, halves[::-1]):
        rows = [row for row, patient in enumerate(owners) if patient in judging]
        own = slices.select(rows)
        orders = {name: scores.of_patients(ranking).ranking() for name, scores in rankings.items()}
        step = part_of(progress, done, len(owners))
        ablated = _ablations(graph, orders, shares, n_random, random)
        losses = _losses(graph, baseline, own, target, ablated, batch_size=batch_size, progress=step)
        parts.append(losses)
        idle.append(_idle(graph, baseline, own, target, order=orders["score"], losses=losses, batch_size=batch_size))
        done += len(rows)
    known = [share for share in idle if share is not None]
    return Curves(pl.concat(parts), sum(known) / len(known) if known else None)


Variant = tuple[str, Part, float]


def _ablations(
    graph: Graph,
    orders: Mapping[str, Sequence[Edge]],
    shares: Sequence[float],
    n_random: int,
    random: np.random.Generator,
) -> dict[Variant, frozenset[Edge]]:
    """Edges that are ablated, for every ranking, part and share."""
    every = frozenset(graph.edges)
    ablated: dict[Variant, frozenset[Edge]] = {}

    def add(name: str, share: float, circuit: frozenset[Edge]) -> None:
        ablated[name, "kept", share] = every - circuit
        if name == "score":
            ablated[name, "ablated", share] = circuit

    for share in shares:
        n = ceil(share * len(every) - 1e-9)
        for name, order in orders.items():
            add(name, share, frozenset(order[:n]))
        for draw in range(n_random):
            add(f"random {draw + 1}", share, _matched(graph, orders["score"][:n], random))
    return ablated


def _matched(graph: Graph, circuit: Sequence[Edge], random: np.random.Generator) -> frozenset[Edge]:
    """Random edges, as many into each stage as a circuit has."""
    drawn: list[Edge] = []
    for stage in dict.fromkeys(graph.stages[consumer] for _, consumer in circuit):
        pool = [edge for edge in graph.edges if graph.stages[edge[1]] == stage]
        n = sum(graph.stages[consumer] == stage for _, consumer in circuit)
        drawn += [pool[place] for place in random.choice(len(pool), n, replace=False)]
    return frozenset(drawn)


def _losses(
    graph: Graph,
    baseline: Baseline,
    slices: SliceSet,
    target: Target,
    ablated: Mapping[Variant, frozenset[Edge]],
    *,
    batch_size: int,
    progress: Progress,
) -> pl.DataFrame:
    different = set(ablated.values())

    def scored(values: Values, loss: Loss) -> dict[frozenset[Edge], Tensor]:
        return {edges: loss(graph.ablated(values, edges, baseline.values)) for edges in different}

    found = each_slice(scored, graph, slices, target, batch_size=batch_size, progress=progress)
    owners = np.array(slices.index["patient"].to_list())
    defined = ~np.isnan(next(iter(found.values())))
    if not defined.any():
        raise undefined(slices)
    patients = list(dict.fromkeys(owners[defined].tolist()))
    means = {edges: [own[defined & (owners == name)].mean() for name in patients] for edges, own in found.items()}
    rows = [
        (patient, *variant, float(loss))
        for variant, edges in ablated.items()
        for patient, loss in zip(patients, means[edges], strict=True)
    ]
    return pl.DataFrame(rows, schema=LOSSES, orient="row")


def _idle(
    graph: Graph,
    baseline: Baseline,
    slices: SliceSet,
    target: Target,
    *,
    order: Sequence[Edge],
    losses: pl.DataFrame,
    batch_size: int,
) -> float | None:
    """Share of the smallest circuit's edges that it does as well without."""
    own = losses.filter((pl.col("ranking") == "score") & (pl.col("part") == "kept"))
    means = dict(own.group_by("share").agg(pl.col("loss").mean()).sort("share").rows())
    enough = [
        share for share, loss in means.items() if share < 1 and _faithfulness(loss, means[0.0], means[1.0]) >= ENOUGH
    ]
    if not enough:
        return None
    circuit = order[: ceil(enough[0] * len(order) - 1e-9)]
    if not circuit:
        return None
    every = frozenset(graph.edges)
    rest = every - set(circuit)
    ablated: dict[Variant, frozenset[Edge]] = {
        (str(number), "kept", 0.0): rest | {edge} for number, edge in enumerate(circuit)
    }
    without = _losses(graph, baseline, slices, target, ablated, batch_size=batch_size, progress=silent)
    costs = without.group_by("ranking").agg(pl.col("loss").mean())["loss"].to_numpy() - means[enough[0]]
    return float((costs < IDLE).mean())


def _faithfulness(loss: Any, empty: Any, whole: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(empty - loss, empty - whole)


def _ends(values: Sequence[float] | Float[np.ndarray, " n"]) -> tuple[float, float]:
    low, high = np.nanquantile(np.asarray(values, float), [0.025, 0.975])
    return float(low), float(high)
