"""How much of the activation, and of the segmentation, a dictionary keeps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.dictionaries.sae import SparseAutoencoder
from seglens.dictionaries.token_source import TokenSource
from seglens.shapes import Images, TokenGrid

if TYPE_CHECKING:
    from seglens.cohorts.slices import SliceSet
    from seglens.dictionaries.lens import Lens

BATCH = 16384
SLICES = 16
"""Slices a pass: larger batches leave the cache."""
MIN_EFFECT = 1e-3
"""Dice kept is a share of the effect of mean ablation; below this effect it would be noise over noise."""


@dataclass(frozen=True, kw_only=True)
class QualityRecord:
    """Figures of merit of a dictionary; None where one is undefined or was not measured.

    Attributes:
        explained_variance: 1 - squared error / squared deviation from the mean.
        l0: active latents a token.
        dead_share: of the latents that never fire, 0..1.
        participation_ratio: of the activation's covariance, its effective number of dimensions, 1..d_in.
        n_tokens: that it was judged on.
        dice_untouched: foreground Dice (pooled) of the network.
        dice_reconstructed: with the reconstruction in place of the activation.
        dice_mean_ablated: with the activation's mean in its place.
        dice_kept: share of what the activation gives to Dice; None where a mean ablation costs less than 0.001.
        control_explained_variance: what a dictionary of an untrained segmenter explains.
    """

    explained_variance: float | None
    l0: float
    dead_share: float
    participation_ratio: float | None
    n_tokens: int
    dice_untouched: float | None
    dice_reconstructed: float | None
    dice_mean_ablated: float | None
    dice_kept: float | None
    control_explained_variance: float | None


@torch.no_grad()
def dictionary_quality(dictionary: SparseAutoencoder, store: TokenSource) -> QualityRecord:
    """Figures of merit on a store, ideally of slices that were not used for the fit.

    Explained variance alone proves nothing: run the same on a random-weight segmenter, and read it beside the
    participation ratio and `lens_quality`.

    Args:
        dictionary: what is judged.
        store: activations of the dictionary's hookpoint and network.

    Raises:
        ValueError: the dictionary is of another hookpoint, network or width.
    """
    wrong = [
        f"its {name} is {mine!r}, here it is {other!r}"
        for name, mine, other in [
            ("hookpoint", dictionary.hookpoint, store.hookpoint),
            ("segmenter", dictionary.segmenter_hash, store.segmenter_hash),
        ]
        if mine and other and mine != other
    ]
    if wrong:
        raise ValueError(f"the dictionary does not belong here: {'; '.join(wrong)}")
    return _token_figures(dictionary, store)


def lens_quality(lens: "Lens", store: TokenSource, slices: "SliceSet") -> QualityRecord:
    """Figures of `dictionary_quality`, and how much of the segmentation the reconstruction keeps.

    Dice kept = (Dice with the reconstruction in place of the activation - Dice with its mean in place) / (Dice
    untouched - Dice with its mean in place), with the foreground ``dice_pooled``.

    Args:
        lens: what is judged.
        store: activations of its segmenter at its hookpoint; their mean is the mean that is put in place.
        slices: with masks.

    Raises:
        ValueError: the store or the slices are not the segmenter's.
    """
    return _with_dice(dictionary_quality(lens.dictionary, store), lens, store.centre, slices)


def participation_ratio(covariance: Float[Tensor, "d d"]) -> float | None:
    """``(sum of eigenvalues)^2 / sum of their squares``, the effective number of dimensions; None if all are 0."""
    squared = float(covariance.square().sum())
    return float(covariance.trace()) ** 2 / squared if squared > 0 else None


def _token_figures(dictionary: SparseAutoencoder, store: TokenSource) -> QualityRecord:
    device = dictionary.W_enc.device
    centre = store.centre.to(device)
    total = torch.zeros(store.d_in, dtype=torch.float64, device=device)
    products = torch.zeros(store.d_in, store.d_in, dtype=torch.float64, device=device)
    fired = torch.zeros(dictionary.n_latents, dtype=torch.int64, device=device)
    error = 0.0
    for start in range(0, store.n_tokens, BATCH):
        tokens = store.tokens(torch.arange(start, min(start + BATCH, store.n_tokens))).to(device)
        codes = dictionary.encode(tokens)
        error += float((dictionary.decode(codes) - tokens).double().square().sum())
        fired += codes.firing_counts()
        deviation = tokens - centre
        total += deviation.double().sum(0)
        products += (deviation.T @ deviation).double()
    n = store.n_tokens
    covariance = products / n - torch.outer(total / n, total / n)
    variance = float(covariance.trace()) * n
    return QualityRecord(
        explained_variance=1 - error / variance if variance > 0 else None,
        l0=float(fired.sum()) / n,
        dead_share=float((fired == 0).double().mean()),
        participation_ratio=participation_ratio(covariance),
        n_tokens=n,
        dice_untouched=None,
        dice_reconstructed=None,
        dice_mean_ablated=None,
        dice_kept=None,
        control_explained_variance=None,
    )


def _with_dice(quality: QualityRecord, lens: "Lens", centre: Tensor, slices: "SliceSet") -> QualityRecord:
    from seglens.activations.effects import to_mean
    from seglens.activations.replay import Replay
    from seglens.segmenters.decision import most_likely
    from seglens.segmenters.inference import all_batches
    from seglens.segmenters.scoring import count_scores, scores_from_counts

    segmenter, dictionary = lens.segmenter, lens.dictionary

    def reconstructed(grid: TokenGrid) -> TokenGrid:
        tokens = grid.flatten(0, 3).to(dictionary.W_enc)
        return dictionary.decode(dictionary.encode(tokens)).view(grid.shape).to(grid)

    segmenter.check_data(slices.name, slices.sequences, slices.labels, preprocessing=slices.preprocessing)
    replay = Replay(segmenter, dictionary.hookpoint)

    def counted(rows: Sequence[int], images: Images) -> list[Tensor]:
        outcomes = [replay.record(images)]
        outcomes += [replay.logits(change) for change in (reconstructed, to_mean(centre))]
        return [count_scores(most_likely(logits).cpu(), slices.masks(rows), slices.labels) for logits in outcomes]

    parts = all_batches(counted, segmenter, slices, batch_size=SLICES, what="quality")
    untouched, kept, ablated = (
        scores_from_counts(torch.cat(counts), slices).dice().value for counts in zip(*parts, strict=True)
    )
    share = None
    if untouched is not None and kept is not None and ablated is not None:
        effect = untouched - ablated
        share = (kept - ablated) / effect if effect >= MIN_EFFECT else None
    return replace(
        quality, dice_untouched=untouched, dice_reconstructed=kept, dice_mean_ablated=ablated, dice_kept=share
    )
