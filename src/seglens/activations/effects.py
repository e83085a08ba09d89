"""Does a hookpoint matter? Its activation is replaced by its mean and the loss of Dice is measured."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.hooks import Change, capture, edit
from seglens.cohorts.slices import SliceSet
from seglens.progress import Progress, silent
from seglens.segmenters.scoring import Counts, count_scores, pooled_dice
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import TokenGrid


def to_mean(mean: Float[Tensor, " d_in"]) -> Change:
    """Mean ablation: the edit that puts ``mean`` in the place of every token."""
    return partial(_filled, mean)


def _filled(mean: Tensor, tokens: TokenGrid) -> TokenGrid:
    return mean.to(tokens).expand_as(tokens)


def hookpoint_effects(
    segmenter: Segmenter,
    slices: SliceSet,
    *,
    hookpoints: Sequence[str] | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Pooled Dice before and after each hookpoint's activation is replaced by its mean over all tokens of ``slices``.

    The mean is taken per channel, over slices and positions alike: what is left carries no information on the image.

    Args:
        segmenter: on the device where it is to run.
        slices: with masks.
        hookpoints: which; None: all.
        batch_size: slices a pass.
        progress: told after each batch of each pass; there is one pass more than hookpoints.

    Returns:
        One row a hookpoint and foreground class, and one with class ``"foreground"`` (the mean of the classes that are
        defined): hookpoint, class, dice_before, dice_ablated (0..1, null where the class is nowhere).

    Raises:
        ValueError: unknown hookpoint, or slices of other sequences or labels.
    """
    segmenter.check_data(slices.name, slices.sequences, slices.labels)
    names = list(segmenter.hookpoints if hookpoints is None else hookpoints)
    for name in names:
        segmenter.module_at(name)
    batches = list(slices.batches(batch_size))
    total = (1 + len(names)) * len(batches)

    sums: dict[str, Tensor] = {}
    n_tokens: dict[str, int] = {}
    counts = []
    for number, rows in enumerate(batches):
        with ExitStack() as stack:
            seen = {name: stack.enter_context(capture(segmenter, name)) for name in names}
            counts.append(_counts(segmenter, slices, rows))
        for name, captured in seen.items():
            tokens = captured.tokens.flatten(0, 2)
            sums[name] = sums.get(name, 0) + tokens.double().sum(0)
            n_tokens[name] = n_tokens.get(name, 0) + len(tokens)
        progress(number + 1, total)
    before = pooled_dice(torch.cat(counts), slices.labels)

    table = []
    for order, name in enumerate(names):
        counts = []
        with edit(segmenter, name, to_mean((sums[name] / n_tokens[name]).float())):
            for number, rows in enumerate(batches):
                counts.append(_counts(segmenter, slices, rows))
                progress((order + 1) * len(batches) + number + 1, total)
        ablated = pooled_dice(torch.cat(counts), slices.labels)
        table += [(name, label, before[label], ablated[label]) for label in before]
    schema = {"hookpoint": pl.String, "class": pl.String, "dice_before": pl.Float64, "dice_ablated": pl.Float64}
    return pl.DataFrame(table, schema=schema, orient="row")


def _counts(segmenter: Segmenter, slices: SliceSet, rows: Sequence[int]) -> Counts:
    predicted = segmenter.predict(slices.images(rows).to(segmenter.device)).cpu()
    return count_scores(predicted, slices.masks(rows), slices.labels)


def choose_hookpoint(effects: pl.DataFrame, *, candidates: Sequence[str], minimum_drop: float = 0.2) -> str:
    """The deepest hookpoint whose mean ablation really costs foreground Dice.

    Args:
        effects: of :func:`hookpoint_effects`.
        candidates: hookpoints from shallow to deep.
        minimum_drop: how much of the foreground's pooled Dice must be lost (0..1, absolute).

    Returns:
        The deepest candidate that loses at least ``minimum_drop``; if none does, the one that loses most.

    Raises:
        ValueError: no candidates, or one without a row in ``effects``.
    """
    foreground = effects.filter(pl.col("class") == "foreground")
    rows = {row["hookpoint"]: row for row in foreground.to_dicts()}
    unknown = [name for name in candidates if name not in rows]
    if unknown or not candidates:
        raise ValueError(
            f"no effects measured at {', '.join(unknown) or 'any candidate'}; there are {', '.join(rows) or 'none'}"
        )
    drops = {name: (rows[name]["dice_before"] or 0.0) - (rows[name]["dice_ablated"] or 0.0) for name in candidates}
    for name in reversed(candidates):
        if drops[name] >= minimum_drop:
            return name
    return max(candidates, key=lambda name: drops[name])
