"""LatentAtlas: what every latent of a dictionary means, measured on given slices (paper, section 3.5, appendix C)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any

import polars as pl
import torch
from jaxtyping import Float16
from torch import Tensor

from seglens.artifacts import Artifact, Draft
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.runtime.progress import Progress, silent
from seglens.semantics.describing import base_rates, elsewhere_rows, facts_table, measure
from seglens.semantics.exemplars import RankBy, best_of
from seglens.semantics.localisation import localise
from seglens.semantics.replication import each_words, named, replication
from seglens.shapes import flat, flat_extent, with_depth

FLOAT16_MAX = 65504.0
NOTEBOOK_ROWS = 10


@dataclass(frozen=True)
class LatentAtlas:
    """One row a latent, with exemplar slices and their heat maps.

    Linear metrics (``p_*``, ``inside``, ``boundary``, ``brain``, ``edge``, ``depth``) are over all given slices: sums
    of activation mass over every slice, then one ratio. Columns that end in ``_top`` are the paper's average of
    per-slice values over the top-K slices. ``entropy``, centroids, ``spread`` and ``angular_coverage`` are top-K
    averages only. What does not exist (a dead latent's shares, the lift over a class that never occurs) is null, never
    NaN.

    Attributes:
        table: columns latent (Int32), firing_rate (share of tokens), mean_activation (where active), mass (sum of
            codes), p_<class> and lift_<class> for every class, top_class ("mixed" where no class has lift, null for a
            dead latent), inside, boundary, brain (share of mass inside the brain), edge, depth (0 superficial, 1
            deepest), entropy (nats), spread (exp(entropy) / brain area), centroid_row and centroid_column (0..1 over
            the brain's extent; anterior to posterior, patient's right to left), lateral_spread, angular_coverage, side
            ("left", "right", "midline", "bilateral"), boundary_even (boundary of an even response over the top class),
            n_exemplars, dead; name (of the words that hold in both halves of the patients), withheld (the words that do
            not, null where all do), class_replicates; and p_<class>_top, inside_top, boundary_top, edge_top, depth_top.
        exemplars: columns latent (Int32), rank (Int32, 0 is the highest), row (UInt32, of the slice set), score.
        maps: codes of each exemplar on the token grid, one [d h w] a row of ``exemplars``.
        labels: label value to class name.
        base_rates: share of pixels of every class over the slices.
        replication: for each part of the names how often it came back in both halves of the patients, beside chance
            and other patients' masks, as `seglens.semantics.replication` counts it.
        context: hashes and settings: dictionary_hash, segmenter_hash, slices_hash, hookpoint, top_k, rank_by, size,
            grid (both without the depth of slices), n_slices, n_tokens.
    """

    table: pl.DataFrame
    exemplars: pl.DataFrame
    maps: Float16[Tensor, "n_exemplars d h w"]
    labels: Mapping[int, str]
    base_rates: Mapping[str, float]
    replication: pl.DataFrame
    context: Mapping[str, Any]

    @property
    def n_latents(self) -> int:
        """Width of the dictionary."""
        return self.table.height

    def of(self, latent: int) -> dict[str, Any]:
        """Everything measured about one latent, as a dictionary.

        Raises:
            ValueError: the latent does not exist.
        """
        if not 0 <= latent < self.n_latents:
            raise ValueError(f"latent {latent}: this dictionary has latents 0..{self.n_latents - 1}")
        return self.table.row(latent, named=True)

    def exemplars_of(self, latent: int) -> tuple[pl.DataFrame, Float16[Tensor, "k d h w"]]:
        """The exemplar rows of one latent, highest first, and their heat maps."""
        kept = self.exemplars.with_row_index("place").filter(pl.col("latent") == latent).sort("rank")
        return kept.drop("place"), self.maps[kept["place"].cast(pl.Int64).to_list()]

    def _repr_html_(self) -> str:
        strongest = self.table.sort("mass", descending=True, nulls_last=True).head(NOTEBOOK_ROWS)
        columns = ("latent", "name", "mass", "firing_rate", "top_class", "inside", "depth")
        title = f"LatentAtlas: {self.n_latents} latents at {self.context['hookpoint']} on {self.context['cohort']}"
        return f"{escape(title)}, the {strongest.height} with most mass{strongest.select(columns)._repr_html_()}"

    def write(self, draft: Draft) -> None:
        """Write into an artifact of kind ``"atlas"``."""
        draft.save_table("latents", self.table)
        draft.save_table("exemplars", self.exemplars)
        draft.save_table("replication", self.replication)
        draft.save_tensors("maps", {"maps": flat(self.maps)})
        draft.save_document(
            "atlas",
            {
                "labels": {str(value): name for value, name in self.labels.items()},
                "base_rates": dict(self.base_rates),
                "context": dict(self.context),
            },
        )

    @classmethod
    def read(cls, artifact: Artifact) -> "LatentAtlas":
        """Read what ``write`` wrote."""
        document = artifact.document("atlas")
        return cls(
            table=artifact.table("latents"),
            exemplars=artifact.table("exemplars"),
            maps=with_depth(artifact.tensors("maps")["maps"], 4),
            labels={int(value): name for value, name in document["labels"].items()},
            base_rates=document["base_rates"],
            replication=artifact.table("replication"),
            context=document["context"],
        )


def describe(
    lens: Lens,
    slices: SliceSet,
    *,
    top_k: int = 8,
    batch_size: int = 32,
    rank_by: RankBy = "mass",
    progress: Progress = silent,
) -> LatentAtlas:
    """Measure what every latent means on these slices (paper, section 3.5 and appendix C).

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        slices: with masks and brains; preferably not those that the network was trained on.
        top_k: exemplar slices a latent.
        batch_size: slices a pass; memory holds one batch and the exemplars, whatever the number of slices.
        rank_by: exemplars by activation "mass" in the slice or by "peak".
        progress: told of the slices done.

    Raises:
        ValueError: the slices have other sequences than the segmenter, or none is there.

    Example:
        >>> atlas = describe(lens, slices)
        >>> atlas.of(17)["name"]  # of a fitted dictionary, for instance: edema, left, deep, localised
        '...'
    """
    halves, kept = measure(lens, slices, top_k=top_k, batch_size=batch_size, rank_by=rank_by, progress=progress)
    every, labels = halves[0] + halves[1], slices.labels
    together = kept[0] + kept[1]
    local = localise(together.maps, together.rows, slices)
    best, split = best_of(kept, top_k), len(kept[0].rows)
    places = (best, torch.arange(split), torch.arange(split, len(together.rows)))
    table = partial(facts_table, of_windows=slices.of_windows)
    facts = [
        table(sums, together.taken(of), {name: values[of] for name, values in local.items()}, labels)
        for sums, of in zip((every, *halves), places, strict=True)
    ]
    words, *of_halves = (each_words(part, labels) for part in facts)
    elsewhere = None
    if elsewhere_rows(slices) is not None:
        moved = replace(every, sums=every.elsewhere)
        here = table(moved, together.taken(best), {name: values[best] for name, values in local.items()}, labels)
        elsewhere = each_words(here, labels)
    exemplars = together.taken(best)
    ranked = pl.DataFrame(
        {"latent": exemplars.latents.numpy(), "row": exemplars.rows.numpy(), "score": exemplars.scores.numpy()},
        schema={"latent": pl.Int32, "row": pl.UInt32, "score": pl.Float64},
    ).with_columns(pl.int_range(pl.len(), dtype=pl.Int32).over("latent").alias("rank"))
    return LatentAtlas(
        table=facts[0].hstack(named(words, of_halves, labels)),
        exemplars=ranked.select("latent", "rank", "row", "score"),
        maps=exemplars.maps.clamp_max(FLOAT16_MAX).to(torch.float16),
        labels=dict(labels),
        base_rates=base_rates(every, labels),
        replication=replication(words, of_halves, elsewhere, labels),
        context={
            "dictionary_hash": lens.dictionary_hash,
            "segmenter_hash": lens.segmenter.hash,
            "slices_hash": slices.hash,
            "cohort": slices.name,
            "hookpoint": lens.hookpoint,
            "top_k": top_k,
            "rank_by": rank_by,
            "size": flat_extent(slices.size),
            "grid": flat_extent(exemplars.grid),
            "n_slices": len(slices),
            "n_tokens": every.n_tokens,
        },
    )
