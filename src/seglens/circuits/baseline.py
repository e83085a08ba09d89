"""The fixed baseline: the mean output of each part over the source's slices, whatever cohort is looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from seglens.circuits.graph import Graph, Values
from seglens.cohorts.slice_set import SliceSet
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.inference import each_batch
from seglens.shapes import Images

Over = Literal["position", "channel"]


@dataclass(frozen=True, eq=False)
class Baseline:
    """Mean output of each part.

    Attributes:
        values: by producer, ``[1 c ...]``.
        slices: hash of the slices that it is of.
        over: ``"position"``: one mean a position and channel; ``"channel"``: one a channel, as patches of volumes need
            it, whose positions cannot be compared.
    """

    values: Values
    slices: str
    over: Over


def source_baseline(
    graph: Graph, source: SliceSet, *, over: Over = "position", batch_size: int = 8, progress: Progress = silent
) -> Baseline:
    """Mean output of each part over slices of the source.

    Two cohorts are compared by one baseline, that of the source: with a mean of its own for each, part of the
    difference between them is one of baselines.

    Args:
        graph: of a segmenter, on its device.
        source: slices of patients of the cohort that the segmenter was trained on.
        over: positions or channels, as `Baseline`.
        batch_size: slices at once.
        progress: told after each batch.

    Raises:
        ValueError: slices of other sequences, or prepared otherwise.
    """
    graph.segmenter.check_data(source.name, source.sequences, preprocessing=source.preprocessing, regions=True)
    sums: dict[str, Tensor] = {}

    def sums_of(rows: Sequence[int], images: Images) -> dict[str, Tensor]:
        values = graph.values(images)
        return {name: values[name].double().sum(0, keepdim=True) for name in graph.producers}

    for _, batch in each_batch(
        sums_of, graph.segmenter, source, batch_size=batch_size, what="circuits", progress=progress
    ):
        for name, own in batch.items():
            sums[name] = sums[name] + own if name in sums else own
    means = {name: (total / len(source)).float() for name, total in sums.items()}
    if over == "channel":
        means = {name: mean.mean(tuple(range(2, mean.ndim)), keepdim=True) for name, mean in means.items()}
    return Baseline(means, source.hash, over)
