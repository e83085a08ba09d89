"""The ladder of controls: what stands in a lens's place to tell what a claim about its latents is worth.

A claim about latents says something about what a model has learnt only where the same computation, on features that
know nothing of the model, does not say it too. In a fixed order:

1. an untrained network of the same architecture, with a dictionary of its own, several draws;
2. an untrained dictionary of the trained network, with as many active latents a token;
3. dense features of the trained network: its channels, and as many principal components, each with both signs;
4. pixels: patch means, spreads and roughness on the token grid;
5. the lens where the correspondence is broken: another patient at the same place, permuted labels;
6. random latents of the lens, matched by firing rate and activation mass.

`Ladder` holds what an analysis gave on each, in this order, and cannot be built without one of them or a reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.cells import cell_shares
from seglens.activations.hooks import activations
from seglens.activations.store import ActivationStore
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.calibration import calibrate
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.lens import Lens, View
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.inference import each_batch
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Extent, Images, TokenGrid, Tokens

LENS = "the lens"
PIXELS = "pixels"
UNTRAINED_NETWORK = "untrained network"
DENSE = "dense features"
UNTRAINED_DICTIONARY = "untrained dictionary"
RANDOM_LATENTS = "random latents"
SHUFFLED = "shuffled correspondence"
RUNGS = (UNTRAINED_NETWORK, UNTRAINED_DICTIONARY, DENSE, PIXELS, SHUFFLED, RANDOM_LATENTS)
"""In the one order in which every result and page has them."""
UNTRAINED_SEEDS = (0, 1, 2)
"""Draws of an untrained network."""
CALIBRATION_TOKENS = 50_000

T = TypeVar("T")


@dataclass(frozen=True)
class LeftOut:
    """A rung that a claim goes without, and why."""

    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("a rung is left out for a reason; say it in words")


@dataclass(frozen=True)
class Ladder(Generic[T]):
    """Results of an analysis for a lens and for everything that could stand in its place.

    Attributes:
        claim: what is claimed, as one clause.
        lens: what the analysis gives for the lens.
        rungs: each of `RUNGS` to what it gives there, one value a draw, or to why it is left out.

    Raises:
        ValueError: a rung is missing, unknown, or has no draw.
    """

    claim: str
    lens: T
    rungs: Mapping[str, Sequence[T] | LeftOut]

    def __post_init__(self) -> None:
        missing = [rung for rung in RUNGS if rung not in self.rungs]
        unknown = [rung for rung in self.rungs if rung not in RUNGS]
        empty = [rung for rung, found in self.rungs.items() if not isinstance(found, LeftOut) and not len(found)]
        if missing or unknown or empty:
            raise ValueError(
                f"{self.claim}: controls missing: {', '.join(missing) or 'none'}; unknown: "
                f"{', '.join(unknown) or 'none'}; without a value: {', '.join(empty) or 'none'}; give each of "
                f"{', '.join(RUNGS)}, or LeftOut(reason)"
            )

    def __iter__(self) -> Iterator[tuple[str, Sequence[T] | LeftOut]]:
        """The lens, then the rungs in their fixed order."""
        yield LENS, [self.lens]
        for rung in RUNGS:
            yield rung, self.rungs[rung]


@dataclass(frozen=True, eq=False)
class Features:
    """Non-negative features of any tokens of images, in a lens's place: the same face as `Lens.over`.

    Attributes:
        segmenter: whose sequences the slices must have, and on whose device the images come.
        n_latents: how many features.
        tokens: from images to a token grid.
        encode: from tokens to features, 0 or more.
    """

    segmenter: Segmenter
    n_latents: int
    tokens: Callable[[Images], TokenGrid]
    encode: Callable[[Tokens], Codes]

    def over(self, slices: SliceSet, *, batch_size: int = 32, progress: Progress = silent) -> Iterator[View]:
        """All slices as features, batch by batch, in order; arguments and errors as in `Lens.over`."""
        self.segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing)

        def view(rows: Sequence[int], images: Images) -> View:
            tokens = self.tokens(images)
            return View(rows, images, tokens, self.encode(tokens.flatten(0, 3)))

        for _, seen in each_batch(
            view, self.segmenter, slices, batch_size=batch_size, what="features", progress=progress
        ):
            yield seen


def lens_features(lens: Lens) -> Features:
    """A lens's own latents."""
    hookpoint, dictionary = lens.hookpoint, lens.dictionary
    return Features(
        lens.segmenter,
        dictionary.n_latents,
        lambda images: activations(lens.segmenter, hookpoint, images),
        dictionary.encode,
    )


def untrained_dictionary(dictionary: SparseAutoencoder, store: ActivationStore) -> SparseAutoencoder:
    """A dictionary as it is drawn, of the same size and normalisation, with as many active latents a token.

    Args:
        dictionary: fitted.
        store: activations of its hookpoint; the threshold is set on them.
    """
    width, m = dictionary.W_enc.shape
    untrained = SparseAutoencoder(width, m, k=dictionary.k, seed=dictionary.seed, hookpoint=dictionary.hookpoint)
    untrained.segmenter_hash = dictionary.segmenter_hash
    untrained.centre.copy_(dictionary.centre.cpu())
    untrained.scale.copy_(dictionary.scale.cpu())
    calibrate(untrained, store, n_tokens=CALIBRATION_TOKENS)
    return untrained.to(dictionary.W_enc.device)


def channels(segmenter: Segmenter, store: ActivationStore, *, principal: bool = False) -> Features:
    """Channels of an activation about their mean, each with both signs: 2 d features.

    Args:
        segmenter: of the activation.
        store: gives hookpoint, mean and, for principal components, their directions.
        principal: as many principal components in the place of the channels.
    """
    rotation = torch.eye(store.d_in)
    if principal:
        sample = store.tokens(torch.arange(store.n_tokens)[:: max(1, store.n_tokens // CALIBRATION_TOKENS)])
        rotation = torch.linalg.eigh(torch.cov(sample.double().T)).eigenvectors.float()

    def encode(tokens: Tokens) -> Codes:
        return both_signs((tokens.cpu().float() - store.centre) @ rotation)

    hookpoint = store.hookpoint
    return Features(segmenter, 2 * store.d_in, lambda images: activations(segmenter, hookpoint, images), encode)


def pixels(segmenter: Segmenter, grid: Extent) -> Features:
    """Statistics of the image itself at every token: 4 features a sequence (`pixel_grid`, the mean with both signs).

    Args:
        segmenter: whose sequences the slices have.
        grid: slices, rows and columns of its tokens.
    """

    def encode(tokens: Tokens) -> Codes:
        return Codes.from_dense(torch.cat([tokens, -tokens[:, ::3]], 1).clamp_min(0).cpu())

    return Features(segmenter, 4 * len(segmenter.sequences), lambda images: pixel_grid(images, grid), encode)


def both_signs(values: Float[Tensor, "n d"]) -> Codes:
    """Values of either sign as features of 0 or more: first what is positive, then what is negative."""
    return Codes.from_dense(torch.cat([values, -values], 1).clamp_min(0))


def pixel_grid(images: Images, grid: Extent) -> TokenGrid:
    """Mean, spread and roughness of each sequence in the cell of each token [B d h w 3 C].

    The spread is the standard deviation in the cell, the roughness the root mean square difference of neighbours along
    a row, which sees noise where the spread sees edges too.

    Args:
        images: normalised.
        grid: slices, rows and columns of tokens.
    """
    step = torch.nn.functional.pad(images.diff(dim=-1), (0, 1))
    found = []
    for sequence in range(images.shape[1]):
        own = images[:, sequence]
        mean = cell_shares(own, grid)
        spread = (cell_shares(own.square(), grid) - mean.square()).clamp_min(0).sqrt()
        found += [mean, spread, cell_shares(step[:, sequence].square(), grid).sqrt()]
    return torch.stack(found, dim=-1)
