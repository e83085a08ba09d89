"""Does a hookpoint matter? Its activation is replaced by its mean and the loss of Dice is measured."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.hooks import Change, capture
from seglens.activations.replay import Replay, record_together
from seglens.cohorts.slices import SliceSet
from seglens.runtime.progress import Progress, part_of, silent
from seglens.segmenters.inference import all_batches, each_batch
from seglens.segmenters.scoring import Counts, count_scores, pooled_dice
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images, Logits, TokenGrid

MIN_WIDTH = 32
"""With the least k of `auto`, 4, an eighth of the width is active at a token; in less, codes are hardly sparse."""
SCHEMA: Mapping[str, Any] = {
    "hookpoint": pl.String,
    "class": pl.String,
    "width": pl.Int32,
    "tokens": pl.Int32,
    "dice_before": pl.Float64,
    "dice_ablated": pl.Float64,
}


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
        progress: told of every slice once for the means and once for every hookpoint.

    Returns:
        One row a hookpoint and foreground class, and one with class ``"foreground"`` (the mean of the classes that are
        defined): hookpoint, class, width (of its activation), tokens (of a slice), dice_before, dice_ablated (0..1,
        null where the class is nowhere). Hookpoints stand in the order of ``hookpoints``.

    Raises:
        ValueError: unknown hookpoint, or slices of other sequences or labels.
    """
    segmenter.check_data(slices.name, slices.sequences, slices.labels, preprocessing=slices.preprocessing, regions=True)
    names = list(segmenter.hookpoints if hookpoints is None else hookpoints)
    for name in names:
        segmenter.module_at(name)
    if not names:
        return pl.DataFrame(schema=SCHEMA)
    total = (1 + len(names)) * len(slices)
    sums: dict[str, Tensor] = {}
    n_tokens: dict[str, int] = {}

    def sums_of(_rows: Sequence[int], images: Images) -> dict[str, tuple[Tensor, int]]:
        with ExitStack() as stack:
            captures = {name: stack.enter_context(capture(segmenter, name)) for name in names}
            segmenter.logits(images)
        tokens = {name: captured.tokens.flatten(0, -2) for name, captured in captures.items()}
        return {name: (own.double().sum(0), len(own)) for name, own in tokens.items()}

    step = part_of(progress, 0, total)
    for _, batch in each_batch(sums_of, segmenter, slices, batch_size=batch_size, what="hookpoints", progress=step):
        for name, (own, n) in batch.items():
            sums[name] = sums.get(name, 0) + own
            n_tokens[name] = n_tokens.get(name, 0) + n

    # a hookpoint is ablated by what follows it alone: all else of a batch is computed once, for all hookpoints
    replays = {name: Replay(segmenter, name) for name in names}
    changes = {name: to_mean((sums[name] / n_tokens[name]).float()) for name in names}

    def counted(rows: Sequence[int], images: Images) -> list[Counts]:
        counts = [_counts(segmenter, record_together(list(replays.values()), images), slices, rows)]
        for order, (name, replay) in enumerate(replays.items()):
            counts.append(_counts(segmenter, replay.logits(changes[name]), slices, rows))
            progress(len(slices) + rows[0] * len(names) + (order + 1) * len(rows), total)
        return counts

    parts = all_batches(counted, segmenter, slices, batch_size=batch_size, what="hookpoints")
    before, *afters = (pooled_dice(torch.cat(counts), slices.labels) for counts in zip(*parts, strict=True))
    after = dict(zip(names, afters, strict=True))
    table = [
        (name, label, len(sums[name]), n_tokens[name] // len(slices), before[label], after[name][label])
        for name in names
        for label in before
    ]
    return pl.DataFrame(table, schema=SCHEMA, orient="row")


def _counts(segmenter: Segmenter, logits: Logits, slices: SliceSet, rows: Sequence[int]) -> Counts:
    decision = segmenter.decision
    return count_scores(decision.labels(logits).cpu(), slices.masks(rows), slices.labels, decision)


@dataclass(frozen=True)
class HookpointChoice:
    """Where a segmenter is opened, and why.

    Attributes:
        hookpoint: its name.
        reason: one sentence, with the figures that decided.
    """

    hookpoint: str
    reason: str


def choose_hookpoint(
    effects: pl.DataFrame, *, minimum_drop: float = 0.2, minimum_width: int = MIN_WIDTH
) -> HookpointChoice:
    """Choose the deepest hookpoint whose mean ablation really costs Dice and whose width carries a dictionary.

    Deeper is what has fewer tokens, and of equally many what comes later in the forward pass. So a decoder's level
    stands behind the encoder's of the same grid, and where skip connections carry an image past the bottleneck, the
    decoder's level that joins them is found: the bottleneck alone then hardly costs any Dice.

    Args:
        effects: of :func:`hookpoint_effects`, hookpoints in the order of the forward pass.
        minimum_drop: how much of the foreground's pooled Dice must be lost (0..1, absolute).
        minimum_width: channels below which a dictionary has nothing to be sparse in.

    Returns:
        The deepest hookpoint that meets both; where none does, of the wide ones (of all, where none is wide) the one
        that loses most.

    Raises:
        ValueError: no effects.
    """
    rows = effects.filter(pl.col("class") == "foreground").to_dicts()
    if not rows:
        raise ValueError("no hookpoint has a measured effect on the foreground; give the table of hookpoint_effects")
    drops = [(row["dice_before"] or 0.0) - (row["dice_ablated"] or 0.0) for row in rows]
    wide = [number for number, row in enumerate(rows) if row["width"] >= minimum_width] or list(range(len(rows)))
    real = [number for number in wide if drops[number] >= minimum_drop]
    if real:
        chosen = min(real, key=lambda number: (rows[number]["tokens"], -number))
        why = f"the deepest of {len(real)} whose mean ablation costs at least {minimum_drop:g}"
    else:
        chosen = max(wide, key=lambda number: drops[number])
        why = f"none costs {minimum_drop:g}; this one costs most"
    if len(wide) < len(rows):
        narrow = ", ".join(row["hookpoint"] for number, row in enumerate(rows) if number not in wide)
        why += f"; {narrow} {'have' if ',' in narrow else 'has'} fewer than {minimum_width} channels"
    row = rows[chosen]
    figures = f"{drops[chosen]:.2f} of foreground Dice, {row['width']} channels, {row['tokens']} tokens a slice"
    return HookpointChoice(row["hookpoint"], f"{row['hookpoint']} ({figures}): {why}.")
