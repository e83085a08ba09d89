"""Dictionaries and rankings of latents that the experiment `adaptation` brings to its comparison."""

from contextlib import suppress

import polars as pl
import torch

from seglens.activations.live import live_activations
from seglens.artifacts import Draft
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.differential import called_in_words, differential_latents
from seglens.diffing.rank_test import Strata, strata_of
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


PLAIN, OF_LIKE_SIZE = "all patients", "patients with lesions of like size"
"""How patients of two cohorts are compared."""


def differing_latents(lens: Lens, own: SliceSet, selection: SliceSet) -> pl.DataFrame:
    """Latents that answer differently in two cohorts' patients, as a whole and within strata of lesion size.

    By the rank test that survives the planted truth (`differential_latents`), in the segmenter's one code, so that
    nothing that was trained on the patients judged on is asked.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        own: slices of its own cohort that it was not trained on.
        selection: slices of the target cohort for choosing.

    Returns:
        A row a test as `differential_latents` gives it, and whom it compares: the largest effects in `PLAIN` first.
        Empty where a side has fewer than two patients with a lesion; without the strata where none has both.
    """
    sides, sizes = [], []
    for slices in (own, selection):
        seen = Probed(Compared(slices.name, lens, torch.zeros(0), slices), [slices])
        sides.append(responses_of(seen.codes(lens.dictionary, seen.grid), slices, seen.grid))
        pixels = pl.Series("pixels", (slices.masks() > 0).flatten(1).sum(1).tolist())
        by_patient = slices.index.select("patient").with_columns(pixels).group_by("patient").mean()
        mean = dict(by_patient.iter_rows())
        sizes.append([mean[patient] for patient in sides[-1].patients])
    if min(len(side.patients) for side in sides) < 2:
        return pl.DataFrame(schema={"compared": pl.String, "latent": pl.Int32})
    compared = {PLAIN: differential_latents(*sides)}
    if len({*sizes[0], *sizes[1]}) == 1:
        compared[OF_LIKE_SIZE] = compared[PLAIN]
    else:
        strata: Strata | None = None
        with suppress(ValueError):  # the median parts nobody: no group is of like size
            strata = strata_of({"lesion size": (sizes[0], sizes[1])}, bins=2)
        if strata is not None and set(strata[0]) & set(strata[1]):
            compared[OF_LIKE_SIZE] = differential_latents(*sides, strata=strata)
    effect = (pl.col("auroc") - 0.5).abs()
    return pl.concat(
        [
            table.sort(effect, "latent", "region", descending=[True, False, False]).select(
                pl.lit(who).alias("compared"), pl.all()
            )
            for who, table in compared.items()
        ]
    )


def differing_in_words(table: pl.DataFrame, transfer: str) -> list[str]:
    """One sentence for each way to compare: latents that were called, and the least effect that could have been."""
    return [
        f"{transfer}, latents that answer differently in the two cohorts, {who}: {called_in_words(rows)}."
        for (who,), rows in table.group_by("compared", maintain_order=True)
    ]
