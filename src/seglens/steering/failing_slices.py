"""The slices that a segmenter gets worst, the kind of their errors, and what fires in them."""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Segmenter

MODE_RULE = "FP where at least two thirds of the errors are foreground that is predicted and not there, FN where at \
most one third are; else mixed (a foreground pixel of a wrong class is one error of each kind)"


def worst_slices(
    segmenter: Segmenter, slices: SliceSet, worst: int, batch_size: int = 16, progress: Progress = silent
) -> tuple[SliceSet, list[int]]:
    """The slices with a lesion and the lowest foreground Dice, and their rows; worst first.

    Raises:
        ValueError: no slice shows a lesion.
    """
    scores = evaluate(segmenter, slices, batch_size=batch_size, progress=progress)
    dice = scores.slice_dice(convention="slice_present").sort("dice", "row")
    if dice.is_empty():
        raise ValueError(f"none of the {len(slices)} slices of {slices.name!r} shows a lesion; failures need some")
    rows = dice["row"].head(worst).to_list()
    return slices.select(rows), rows


def error_mode(false_positive: int, false_negative: int) -> str:
    """``FP``, ``FN`` or ``mixed``: see ``MODE_RULE``; ``none`` without any wrong pixel."""
    wrong = false_positive + false_negative
    if wrong == 0:
        return "none"
    return "FP" if 3 * false_positive >= 2 * wrong else "FN" if 3 * false_positive <= wrong else "mixed"


def slice_activity(
    lens: Lens, slices: SliceSet, batch_size: int = 16, progress: Progress = silent
) -> tuple[Float[Tensor, "B m"], Float[Tensor, "B m"]]:
    """Sum of every latent's codes over each slice, and the share of the slice's tokens at which it fires, 0..1."""
    masses, firing, m = [], [], lens.dictionary.n_latents
    for view in lens.over(slices, batch_size=batch_size, progress=progress):
        n_slices, n_tokens = len(view.tokens), prod(view.grid)
        place = view.codes.token_rows() // n_tokens * m + view.codes.latents
        masses.append(view.mass())
        firing.append(torch.bincount(place, minlength=n_slices * m).view(n_slices, m).cpu() / n_tokens)
    return torch.cat(masses), torch.cat(firing)
