"""Does a hookpoint matter? Its activation is replaced by its mean and the loss of Dice is measured."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.hooks import Change, capture
from seglens.activations.replay import Replay, record_together
from seglens.cohorts.slices import SliceSet
from seglens.progress import Progress, silent
from seglens.segmenters.scoring import Counts, count_scores, pooled_dice
from seglens.segmenters.segmenter import Segmenter, most_likely
from seglens.shapes import Logits, TokenGrid

SCHEMA: Mapping[str, Any] = {
    "hookpoint": pl.String,
    "class": pl.String,
    "dice_before": pl.Float64,
    "dice_ablated": pl.Float64,
}


def to_mean(mean: Float[Tensor, " d_in"]) -> Change:
    """Mean ablation: the edit that puts ``mean`` in the place of every token."""
    return partial(_filled, mean)


def _filled(mean: Tensor, tokens: TokenGrid) -> TokenGrid:
    return mean.to(tokens).expand_as(tokens)


@torch.no_grad()
def hookpoint_effects(
    segmenter: Segmenter,
    slices: SliceSet,
    *,
    hookpoints: Sequence[str] | None = None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Pooled Dice before and after each hookpoint's activation is replaced by its mean over all tokens of ``slices``.

    The mean is taken per channel, over slices and positions alike: what is left carries no information on the image.

    Args:
        segmenter: on the device where it is to run.
        slices: with masks.
        hookpoints: which; None: all.
        batch_size: slices a pass.
        progress: told after each batch, once for its means and once for every hookpoint.

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
    if not names:
        return pl.DataFrame(schema=SCHEMA)
    batches = list(slices.batches(batch_size))
    total = (1 + len(names)) * len(batches)

    sums: dict[str, Tensor] = {}
    n_tokens: dict[str, int] = {}
    for number, rows in enumerate(batches):
        with ExitStack() as stack:
            seen = {name: stack.enter_context(capture(segmenter, name)) for name in names}
            segmenter.logits(slices.images(rows).to(segmenter.device))
        for name, captured in seen.items():
            tokens = captured.tokens.flatten(0, 2)
            sums[name] = sums.get(name, 0) + tokens.double().sum(0)
            n_tokens[name] = n_tokens.get(name, 0) + len(tokens)
        progress(number + 1, total)

    # a hookpoint is ablated by what follows it alone: all else of a batch is computed once, for all hookpoints
    replays = {name: Replay(segmenter, name) for name in names}
    changes = {name: to_mean((sums[name] / n_tokens[name]).float()) for name in names}
    untouched: list[Counts] = []
    ablated: dict[str, list[Counts]] = {name: [] for name in names}
    for number, rows in enumerate(batches):
        logits = record_together(list(replays.values()), slices.images(rows).to(segmenter.device))
        untouched.append(_counts(logits, slices, rows))
        for order, (name, replay) in enumerate(replays.items()):
            ablated[name].append(_counts(replay.logits(changes[name]), slices, rows))
            progress(len(batches) + number * len(names) + order + 1, total)
    before = pooled_dice(torch.cat(untouched), slices.labels)
    after = {name: pooled_dice(torch.cat(counts), slices.labels) for name, counts in ablated.items()}
    table = [(name, label, before[label], after[name][label]) for name in names for label in before]
    return pl.DataFrame(table, schema=SCHEMA, orient="row")


def _counts(logits: Logits, slices: SliceSet, rows: Sequence[int]) -> Counts:
    return count_scores(most_likely(logits).cpu(), slices.masks(rows), slices.labels)


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
