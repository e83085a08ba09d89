"""Fits of a study's dictionaries, and the variants that floors and ceilings need."""

from pathlib import Path

import torch
from torch import Tensor

from seglens.activations.store import ActivationStore
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.progress import Progress
from seglens.segmenters.segmenter import Segmenter
from seglens.studies.settings import DictionarySettings

PLAIN, ROTATED, REORDERED, RESEEDED = "plain", "rotated", "reordered", "reseeded"
VARIANTS = (ROTATED, REORDERED, RESEEDED)
"""``rotated``: same seed, activations turned at random (floor: nothing in common but the seed). ``reordered``: same
seed, other token order. ``reseeded``: other seed (both ceilings: the same model and data)."""
ALIVE_TOKENS = 50_000
"""Tokens on which a latent must fire at least once to count as alive."""


def variant_store(store: ActivationStore, variant: str, seed: int) -> ActivationStore:
    """The activations that a variant is fitted to."""
    return store.transformed(random_rotation(store.d_in, seed)) if variant == ROTATED else store


def variant_seeds(variant: str, seed: int) -> tuple[int, int]:
    """Seeds of a variant's weights and of its token order."""
    return {REORDERED: (seed, seed + 1), RESEEDED: (seed + 1, seed + 1)}.get(variant, (seed, seed))


def fit_to_store(
    store: ActivationStore,
    own: DictionarySettings,
    *,
    seeds: tuple[int, int],
    device: str,
    checkpoint: Path | None,
    progress: Progress,
) -> SparseAutoencoder:
    """`fit_dictionary` with a study's settings."""
    from seglens.dictionaries.fitting import FitSettings, fit_dictionary

    return fit_dictionary(
        store,
        k=own.k,
        expansion=own.expansion,
        settings=FitSettings(steps=own.steps, batch_size=own.batch_size, learning_rate=own.learning_rate),
        seed=seeds[0],
        order_seed=seeds[1],
        device=device,
        checkpoint=checkpoint,
        progress=progress,
    )


def activations_of(segmenter: Segmenter, slices: SliceSet, hookpoint: str, folder: Path | None) -> ActivationStore:
    """Activations that one stage needs, none of it in memory.

    Args:
        segmenter: whose.
        slices: of what.
        hookpoint: where.
        folder: a store is written there, or found there by a stage that was stopped; None: they are computed whenever
            they are read.
    """
    from seglens.activations.extraction import extract
    from seglens.activations.live import live_activations
    from seglens.activations.store import KIND
    from seglens.artifacts import read_artifact
    from seglens.runtime.distributed import broadcast_from_main

    if folder is None:
        return live_activations(segmenter, slices, hookpoint)
    if broadcast_from_main(folder.exists):
        return ActivationStore.read(read_artifact(folder, KIND))
    return extract(segmenter, slices, hookpoint, folder=folder)


def random_rotation(width: int, seed: int) -> Tensor:
    """A random orthogonal matrix [width width], uniformly distributed."""
    gaussian = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return (q * r.diagonal().sign()).float()


def alive_latents(dictionary: SparseAutoencoder, store: ActivationStore) -> Tensor:
    """Mark latents that fire on a sample of activations: bool [m]."""
    rows = torch.randperm(store.n_tokens, generator=torch.Generator().manual_seed(0))[:ALIVE_TOKENS]
    return dictionary.encode(store.tokens(rows.sort().values)).firing_counts() > 0
