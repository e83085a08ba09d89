"""Tables 2 and 8: the matching methods by the paper's four metrics, with and without its filter, and by function.

The paper's 100% agreement and 0 collision hold by construction: its filter keeps only pairs on which encoder and
decoder agree. So every method stands with and without that filter, and beside them the correlation of the matched
latents' codes on common probe slices, which none of the four metrics asks for.
"""

import polars as pl
import torch

from seglens.dictionaries.codes import Codes
from seglens.diffing.functional import functional_alignment, pair_correlations
from seglens.diffing.methods import ROWS, alignment_methods
from seglens.diffing.sharing import align
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, Published
from seglens.experiments.pairs import pair_name, pairs_alike, probe_codes
from seglens.runtime.progress import Progress
from seglens.studies.stages import Study

OURS, GREEDY, FUNCTIONAL = (
    next(row.title for row in ROWS if row.name == name) for name in ("hungarian_dual", "greedy", "functional")
)
FILTERS = {"none": "none", "tau": "cosine", "shared": "cosine and agreement"}


def run(study: Study, progress: Progress) -> ExperimentResult:
    """Every pair of segmenters of one architecture."""
    pairs = pairs_alike(study.settings)
    tables = []
    for number, (source, target) in enumerate(pairs):
        tables.append(_pair(study, source, target).select(pl.lit(pair_name(source, target)).alias("pair"), pl.all()))
        progress(number + 1, len(pairs))
    table = pl.concat(tables)
    return ExperimentResult({"alignment methods": table}, headlines(table), _words(table))


def with_function(metrics: pl.DataFrame, matched: pl.DataFrame, codes: tuple[Codes, Codes]) -> pl.DataFrame:
    """The metrics of every method and filter with the mean code correlation of the pairs that it keeps.

    Args:
        metrics: of `alignment_metrics`.
        matched: columns method, source_latent, target_latent, similarity_enc, similarity_dec, agrees, close.
        codes: of both dictionaries on the same tokens.
    """
    source, target = (torch.tensor(matched[name].to_list()) for name in ("source_latent", "target_latent"))
    correlations = pair_correlations(*codes, source.long(), target.long())
    evaluated = matched.with_columns(pl.Series("correlation", correlations.numpy()))
    keeps = {"none": pl.lit(True), "tau": pl.col("close"), "shared": pl.col("close") & pl.col("agrees")}
    means = pl.concat(
        evaluated.filter(keep)
        .group_by("method")
        .agg(pl.col("correlation").mean().alias("code correlation"))
        .with_columns(pl.lit(name).alias("filter"))
        for name, keep in keeps.items()
    )
    return metrics.join(means, on=["method", "filter"], how="left", maintain_order="left")


def functional_rows(codes: tuple[Codes, Codes], per_slice: int) -> pl.DataFrame:
    """Matching by function: its correlation, and the share of latents that two halves of the probe match alike.

    A half is every second slice, so that both see both cohorts: the probe holds one after the other.

    Args:
        codes: of both dictionaries on the same tokens, slice after slice.
        per_slice: tokens of a slice.
    """
    found = functional_alignment(*codes)
    slices = torch.arange(codes[0].n).view(-1, per_slice)
    first, second = (
        functional_alignment(codes[0].rows(part), codes[1].rows(part)).pairs.select("source_latent", "target_latent")
        for part in (slices[::2].flatten(), slices[1::2].flatten())
    )
    both = first.join(second, on="source_latent", suffix="_again")
    same = both.filter(pl.col("target_latent") == pl.col("target_latent_again"))
    return pl.DataFrame(
        {
            "method": [FUNCTIONAL],
            "filter": ["none"],
            "n": [found.pairs.height],
            "stability": [same.height / both.height if both.height else None],
            "collision": [0.0],
            "code correlation": [found.mean_correlation],
        },
        schema_overrides={"n": pl.Int64, "stability": pl.Float64, "code correlation": pl.Float64},
    )


def _pair(study: Study, source: str, target: str) -> pl.DataFrame:
    metrics = study.result("alignment", source, target).table("methods")
    (one, alive_one), (other, alive_other) = study.with_alive(source), study.with_alive(target)
    matched = []
    for method in alignment_methods("weights"):
        pairs = align(
            one, other, tau=study.settings.tau, method=method, alive_source=alive_one, alive_target=alive_other
        ).pairs
        close = pl.min_horizontal("similarity_enc", "similarity_dec") >= pl.lit(study.settings.tau, pl.Float32)
        agrees = (pl.col("target_latent") == pl.col("target_dec")).fill_null(False)
        matched.append(pairs.select(pl.lit(method).alias("method"), pl.all(), close=close, agrees=agrees))
    codes, per_slice = probe_codes(study, source, target)
    by_function = functional_rows(codes, per_slice)
    rows = pl.concat([with_function(metrics, pl.concat(matched), codes), by_function], how="diagonal")
    titles = {name: row.title for name, row in alignment_methods().items()}
    return rows.with_columns(pl.col("filter").replace(FILTERS), pl.col("method").replace(titles)).rename(
        {"n": "latents"}
    )


def headlines(table: pl.DataFrame) -> dict[str, float | None]:
    """Means over the pairs: of the paper's method with its filter and without, of the greedy one, and by function."""
    found: dict[str, float | None] = {}
    for method, kept in ((OURS, "cosine and agreement"), (OURS, "none"), (GREEDY, "none"), (GREEDY, "cosine")):
        rows = table.filter((pl.col("method") == method) & (pl.col("filter") == kept))
        for metric in ("agreement", "stability", "predictability", "code correlation"):
            found[f"{metric}, {method}, filter: {kept}"] = _mean(rows, metric)
    rows = table.filter(pl.col("method") == FUNCTIONAL)
    return found | {f"{metric}, {FUNCTIONAL}": _mean(rows, metric) for metric in ("stability", "code correlation")}


def _mean(rows: pl.DataFrame, column: str) -> float | None:
    known = rows[column].drop_nulls()
    return float(known.sum()) / len(known) if len(known) else None


def _words(table: pl.DataFrame) -> list[str]:
    found = headlines(table)

    def figure(name: str) -> str:
        value = found[name]
        return "–" if value is None else f"{value:.2f}"

    kept = f"{OURS}, filter: cosine and agreement"
    return [
        "Agreement: encoder and decoder match a latent to the same partner. Stability: the partner returns in "
        "subsamples of the dictionaries (for matching by function: on every second probe slice and on the others). "
        "Collision: surplus latents on one partner. Predictability: mean cosine of the pairs less that of random ones.",
        "The filter that defines the paper's shared set makes agreement 1 and collision 0 for any method, so these two "
        f"cells tell the methods apart only where nothing is filtered. With the filter predictability is "
        f"{figure('predictability, ' + kept)}, without {figure('predictability, ' + OURS + ', filter: none')}: the "
        "filter keeps what has a high cosine.",
        f"Codes of the pairs that the paper's rule keeps correlate by {figure('code correlation, ' + kept)} on common "
        f"slices; matched by function the mean is {figure('code correlation, ' + FUNCTIONAL)} over all live latents.",
    ]


_PAPER = "Table 2 (adult and pediatric; ours: mean over the pairs)"
EXPERIMENT = Experiment(
    "alignment",
    "Alignment methods",
    "Tables 2 and 8",
    run,
    version=2,
    figures=(
        Figure(
            "bars",
            "alignment methods",
            "Code correlation of the matched latents, nothing filtered",
            x="method",
            y="code correlation",
            panel="pair",
            only={"filter": ["none"]},
            caption="On slices that both segmenters see; matching by function is optimal for this figure by design.",
        ),
    ),
    published={
        f"agreement, {OURS}, filter: cosine and agreement": Published(
            1.0, f"{_PAPER}; by construction of the shared set"
        ),
        f"stability, {OURS}, filter: cosine and agreement": Published(1.0, _PAPER),
        f"predictability, {OURS}, filter: cosine and agreement": Published(0.90, _PAPER),
        f"agreement, {GREEDY}, filter: none": Published(0.98, f"{_PAPER}; whether filtered is not said"),
        f"predictability, {GREEDY}, filter: none": Published(0.787, f"{_PAPER}; whether filtered is not said"),
    },
    folded=("alignment methods",),
)
