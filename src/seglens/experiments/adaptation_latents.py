"""Dictionaries and rankings of latents that the experiment `adaptation` brings to its comparison."""

import polars as pl
import torch

from seglens.activations.live import live_activations
from seglens.artifacts import Draft
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.calibration import calibrate
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.differential import differential_latents
from seglens.experiments.differential_bench import responses_of
from seglens.experiments.experiment import part
from seglens.experiments.label_free_policies import few_of
from seglens.runtime.progress import Progress
from seglens.segmenters.segmenter import Segmenter
from seglens.steering.adjustables import LAST_HIDDEN
from seglens.studies.compared import Compared, Probed
from seglens.studies.stages import Study

DEEP_SLICES = 60
DEEP = FitSettings(expansion=2, steps=200, batch_size=2048)
"""The dictionary of what the last layer reads: small, for its grid has many tokens."""


def deep_dictionary(study: Study, name: str, opened: Segmenter) -> SparseAutoencoder:
    """A small dictionary of what a segmenter's last layer reads, fitted on its own training slices."""
    slices = study.own_slices(name, "train")
    few = few_of(slices, DEEP_SLICES)
    inputs = {"segmenter": opened.hash, "slices": few.hash, "seed": study.settings.seed, "settings": str(DEEP)}

    def make(draft: Draft, progress: Progress) -> None:
        store = live_activations(opened, few, LAST_HIDDEN)
        seed = study.settings.seed
        fit_dictionary(store, settings=DEEP, seed=seed, device=study.device, progress=progress).write(draft)

    return SparseAutoencoder.read(part(study, f"adaptation/{name}-last-hidden", "dictionary", inputs, make))


def untrained_like(dictionary: SparseAutoencoder, opened: Segmenter, slices: SliceSet) -> SparseAutoencoder:
    """A dictionary as it is drawn, of the same size and normalisation, with as many active latents a token.

    Args:
        dictionary: fitted, of one of the segmenter's hookpoints.
        opened: the segmenter.
        slices: of its own cohort; the threshold is set on some of them.
    """
    width, m = dictionary.W_enc.shape
    untrained = SparseAutoencoder(width, m, k=dictionary.k, seed=dictionary.seed, hookpoint=dictionary.hookpoint)
    untrained.segmenter_hash = dictionary.segmenter_hash
    untrained.centre.copy_(dictionary.centre.cpu())
    untrained.scale.copy_(dictionary.scale.cpu())
    calibrate(untrained, live_activations(opened, few_of(slices, DEEP_SLICES), dictionary.hookpoint), n_tokens=50_000)
    return untrained.to(dictionary.W_enc.device)


def differing_latents(lens: Lens, own: SliceSet, selection: SliceSet) -> list[int]:
    """Latents that diffing calls specific: those that answer most differently in the two cohorts' patients first.

    By the rank test that survives the planted truth (`differential_latents`), in the segmenter's one code, so that
    nothing that was trained on the patients judged on is asked.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        own: slices of its own cohort that it was not trained on.
        selection: slices of the target cohort for choosing.

    Returns:
        The tested latents; empty where a side has fewer than two patients with a lesion.
    """
    sides = []
    for slices in (own, selection):
        seen = Probed(Compared(slices.name, lens, torch.zeros(0), slices), [slices])
        sides.append(responses_of(seen.codes(lens.dictionary, seen.grid), slices, seen.grid))
    if min(len(side.patients) for side in sides) < 2:
        return []
    effect = (pl.col("auroc") - 0.5).abs()
    ranked = differential_latents(*sides).sort(effect, "latent", "region", descending=[True, False, False])
    return ranked["latent"].unique(maintain_order=True).to_list()
