"""Two segmenters' dictionaries matched by function, beside nulls and the ceiling of one segmenter fitted twice."""

from math import prod

import polars as pl
import torch

from seglens.activations.store import ActivationStore
from seglens.cohorts.patients import other_slice_rows
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.functional import firing_overlap, functional_alignment, pool_codes
from seglens.diffing.nulls import white_noise
from seglens.experiments.activation_cache import ActivationCache
from seglens.studies.stages import Study
from seglens.studies.variants import RESEEDED

PROBE_SLICES = 50
"""Of each cohort, at most: every token of the finer grid is encoded, and then averaged."""


def match_by_function(study: Study, kept: ActivationCache, pair: tuple[str, str]) -> pl.DataFrame:
    """Optimal one-to-one matching of the codes of two segmenters' own dictionaries on test slices of their cohorts.

    Args:
        study: of the segmenters and dictionaries.
        kept: what they compute.
        pair: the two.

    Returns:
        A row for the pair, one for each null of its second side, and one for two dictionaries of the first segmenter
        where the study fits them: ``compared``, ``correlation`` (mean over matched pairs), ``above 0.5`` (share of the
        live latents of the narrower side), ``overlap of firing`` (mean Jaccard index), ``matched pairs``.
    """
    grid = kept.common_grid(pair)
    stores = [_probes(kept, pair, name) for name in pair]

    def codes(dictionary: SparseAutoencoder, store: ActivationStore) -> Codes:
        tokens = store.tokens(torch.arange(store.n_tokens))
        return pool_codes(dictionary.encode(tokens), store.grid, grid)

    source, target = (codes(study.dictionary(name), store) for name, store in zip(pair, stores, strict=True))
    generator = torch.Generator().manual_seed(study.settings.seed)
    places = torch.arange(target.n).view(-1, prod(grid))
    elsewhere = places[other_slice_rows(stores[1].index, seed=study.settings.seed)].flatten()
    noise = white_noise(stores[1], seed=study.settings.seed)
    compared = {
        "same slices": (source, target),
        "permuted tokens": (source, target.rows(torch.randperm(target.n, generator=generator))),
        "another slice at the same position": (source, target.rows(elsewhere)),
        "white noise": (source, codes(study.dictionary(pair[1]), noise)),
    }
    if study.settings.dictionaries.controls:
        compared["one model, two SAE seeds"] = (source, codes(study.dictionary(pair[0], RESEEDED), stores[0]))
    return pl.DataFrame([{"compared": name, **_matched(*sides)} for name, sides in compared.items()])


def _probes(kept: ActivationCache, pair: tuple[str, str], name: str) -> ActivationStore:
    grid = kept.grid(name)
    most = PROBE_SLICES * prod(grid)
    return kept.stores([kept.side(name)], kept.cohorts(pair), "test", grid=grid, most_tokens=most)[name]


def _matched(source: Codes, target: Codes) -> dict[str, float | int | None]:
    found = functional_alignment(source, target)
    pairs = [torch.tensor(found.pairs[side].to_list()).long() for side in ("source_latent", "target_latent")]
    return {
        "correlation": found.mean_correlation,
        "above 0.5": found.share_above(0.5),
        "overlap of firing": float(firing_overlap(source, target, *pairs).mean()) if found.pairs.height else None,
        "matched pairs": found.pairs.height,
    }
