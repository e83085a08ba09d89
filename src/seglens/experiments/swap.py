"""Figures 4 and 14: shared and non-shared latents take the codes of their partners in another dictionary.

Both dictionaries read the same activation, as in the paper. A swap is judged by the correlation of each latent's map
before and after, and by Dice. Codes are taken over in the receiving dictionary's units. Controls: the same latents take
the codes of random partners, or none (zero); the dictionary's own reconstruction in the activation's place, beside
which the swaps in ``replace`` mode (the paper's) stand.
"""

from collections.abc import Mapping
from functools import partial

import polars as pl
import torch
from torch import Tensor

from seglens.activations.extraction import each_grid
from seglens.artifacts import Draft
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.alignment import Alignment
from seglens.diffing.swapping import pairs_of, swap_codes, swap_correlation
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, part
from seglens.experiments.pairs import pair_name, pairs_alike
from seglens.experiments.segmenters import dice_columns, example_segmenter
from seglens.runtime.progress import Progress
from seglens.segmenters.scoring import Scores
from seglens.steering.edits import LatentEdit, swap_source
from seglens.steering.sweep import UNEDITED, sweep
from seglens.studies.compared import probe_of
from seglens.studies.stages import Study

RECONSTRUCTION = "reconstruction only"
PARTNERS = ("own partner", "random partner")


def run(study: Study, progress: Progress) -> ExperimentResult:
    """The adult segmenter's latents (or the first one's) against every other of its architecture."""
    pairs = pairs_alike(study.settings)
    name = example_segmenter(study, "adult")
    pairs = [pair for pair in pairs if name in pair] or pairs[:1]
    maps, dice = [], []
    for number, (source, target) in enumerate(pairs):
        receiver, giver = (name, source if target == name else target) if name in (source, target) else (source, target)
        found = _pair(study, receiver, giver, Alignment.read(study.result("alignment", source, target)))
        label = pl.lit(pair_name(receiver, giver)).alias("into / from")
        maps.append(found[0].select(label, pl.all()))
        dice.append(found[1].select(label, pl.all()))
        progress(number + 1, len(pairs))
    tables = {"correlation of maps": pl.concat(maps), "Dice": pl.concat(dice)}
    words = [
        "Latents of one segmenter take the codes that another segmenter's dictionary gives on the same activation. The "
        "correlation is that of each latent's map before and after, 0 where one of them never fires.",
        f"Mean correlation over the pairs: shared latents {_mean(tables, 'shared', 0):.2f} (random partners "
        f"{_mean(tables, 'shared', 1):.2f}), matched but not shared {_mean(tables, 'not shared', 0):.2f} (random "
        f"partners {_mean(tables, 'not shared', 1):.2f}). The paper's claim needs the first to be high and clearly "
        "above the third. A shared pair is chosen by the cosine of its rows over all directions; the activation fills "
        "few of them, so rows that look alike may read other things.",
        "Dice beside the zeroed latents says how much the segmentation depends on the swapped latents at all. A swap "
        "in the reconstruction also loses what the dictionary does not explain: the reconstruction alone is beside it.",
    ]
    return ExperimentResult(tables, headlines(*tables.values()), words)


def correlations(
    own: SparseAutoencoder, other: SparseAutoencoder, tokens: Tensor, pairs: tuple[Tensor, Tensor], seed: int
) -> dict[str, pl.DataFrame]:
    """Map correlations after a swap with each latent's partner, and with the same partners in random order.

    Args:
        own: dictionary whose latents are replaced.
        other: dictionary whose codes they take.
        tokens: activations that both read, [n d_in].
        pairs: latents of ``own`` and their partners in ``other``.
        seed: of the random order.
    """
    before, given = own.encode(tokens), other.encode(tokens)
    latents, partners = pairs
    mixed = partners[torch.randperm(len(partners), generator=torch.Generator().manual_seed(seed))]
    found = {}
    for words, taken in zip(PARTNERS, (partners, mixed), strict=True):
        after = swap_codes(before, given, latents, taken, factor=float(own.scale) / float(other.scale))
        found[words] = swap_correlation(before, after, latents).filter(pl.col("active_before") > 0)
    return found


def swap_edits(hookpoint: str, dictionary_hash: str, latents: Mapping[str, tuple[int, ...]]) -> dict[str, LatentEdit]:
    """Swap and zero of each kind of latents, the swap in both modes, and the reconstruction alone.

    Args:
        hookpoint: of the dictionary that receives the codes.
        dictionary_hash: its hash.
        latents: kind to latents.
    """
    edit = partial(LatentEdit, hookpoint, dictionary_hash)
    found = {RECONSTRUCTION: edit((), "multiply", 1.0, "replace")}
    for kind, own in latents.items():
        found[f"{kind}, swap"] = edit(own, "swap")
        found[f"{kind}, zero"] = edit(own, "zero")
        found[f"{kind}, swap in the reconstruction"] = edit(own, "swap", 0.0, "replace")
    return found


def _pair(study: Study, receiver: str, giver: str, alignment: Alignment) -> tuple[pl.DataFrame, pl.DataFrame]:
    lens, other = study.lens(receiver), study.dictionary(giver)
    own = lens.dictionary
    slices, seed = probe_of(study.own_slices(receiver, "test")), study.settings.seed
    pairs = {kind: pairs_of(alignment.pairs, shared=kind == "shared") for kind in ("shared", "not shared")}
    if alignment.source != receiver:
        pairs = {kind: (target, source) for kind, (source, target) in pairs.items()}

    def make(draft: Draft, progress: Progress) -> None:
        grids = [
            grid.cpu().flatten(0, 3) for _, grid in each_grid(lens.segmenter, slices, lens.hookpoint, batch_size=16)
        ]
        maps = [
            table.select(pl.lit(kind).alias("latents"), pl.lit(words).alias("partner"), "correlation")
            for kind, both in pairs.items()
            for words, table in correlations(own, other, torch.cat(grids), both, seed).items()
        ]
        draft.save_table("maps", pl.concat(maps))
        edits = swap_edits(
            lens.hookpoint, lens.dictionary_hash, {kind: tuple(both[0].tolist()) for kind, both in pairs.items()}
        )
        partners = {int(a): int(b) for both in pairs.values() for a, b in zip(*both, strict=True)}
        source = swap_source(own, other, partners)
        draft.save_table("scores", sweep(lens, slices, edits, source=source, progress=progress).table)

    inputs = {
        "dictionaries": [own.hash, other.hash],
        "pairs": {kind: [side.tolist() for side in both] for kind, both in pairs.items()},
        "slices": slices.hash,
        "seed": seed,
        "version": 2,
    }
    done = part(study, f"swap/{receiver}-{giver}", "swap", inputs, make)
    maps = done.table("maps").group_by("latents", "partner", maintain_order=True)
    summary = maps.agg(
        pl.len().alias("n"),
        pl.col("correlation").mean().alias("mean correlation"),
        pl.col("correlation").median().alias("median"),
        (pl.col("correlation") >= 0.5).mean().alias("share at least 0.5"),
    )
    return summary, _dice(Scores(done.table("scores")), {kind: len(both[0]) for kind, both in pairs.items()})


def _dice(scores: Scores, sizes: Mapping[str, int]) -> pl.DataFrame:
    rows = []
    for edit, summary in scores.summaries().items():
        figures = dice_columns(summary, "foreground")
        words = "untouched" if edit == UNEDITED else edit
        rows.append({"edit": words, "latents changed": sizes.get(edit.split(", ")[0], 0), **figures})
    return pl.DataFrame(rows, infer_schema_length=None)


def _mean(tables: Mapping[str, pl.DataFrame], kind: str, partner: int) -> float:
    """Mean over the pairs of a kind of latents and partners; NaN where there are none."""
    rows = tables["correlation of maps"].filter((pl.col("latents") == kind) & (pl.col("partner") == PARTNERS[partner]))
    return float(rows["mean correlation"].sum()) / rows.height if rows.height else float("nan")


def headlines(maps: pl.DataFrame, dice: pl.DataFrame) -> dict[str, float | None]:
    """Mean correlation of shared and of other latents, and Dice after their swap."""
    found: dict[str, float | None] = {
        f"map correlation, {row['latents']}, {row['partner']}, {row['into / from']}": row["mean correlation"]
        for row in maps.iter_rows(named=True)
        if row["partner"] == PARTNERS[0]
    }
    return found | {
        f"Dice (pooled), {row['edit']}, {row['into / from']}": row["foreground Dice, pooled"]
        for row in dice.iter_rows(named=True)
        if row["edit"] == "untouched" or row["edit"] == RECONSTRUCTION or ", swap" in row["edit"]
    }


EXPERIMENT = Experiment(
    "swap",
    "Swapping latents between dictionaries",
    "Figures 4 and 14",
    run,
    figures=(
        Figure(
            "bars",
            "correlation of maps",
            "Correlation of a latent's map before and after the swap",
            x="latents",
            y="mean correlation",
            series="partner",
            panel="into / from",
        ),
        Figure(
            "bars",
            "Dice",
            "Foreground Dice (pooled) after the swap",
            x="edit",
            y="foreground Dice, pooled",
            panel="into / from",
        ),
    ),
    version=2,
)
