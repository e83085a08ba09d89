"""Differences between populations patient by patient, and whether specific latents answer to a planted factor.

A latent's response is its mean activation over a patient's tokens of a region. Patients, not tokens, are the sample:
the tokens of a patient are not independent, and with 10^5 of them everything would differ. Latents are found on
discovery patients and judged on others, who are rendered twice, with the planted factor off and on, and so differ in
nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from seglens.dictionaries.codes import Codes
from seglens.diffing.alignment import Alignment
from seglens.diffing.functional import FunctionalAlignment
from seglens.diffing.rank_test import Strata, rank_test

TESTABLE = 0.2
"""A response that is above 0 in a smaller share of all patients is not tested."""
LARGE_EFFECT = 0.737
"""AUROC on the discovery patients from which a difference counts; Cliff's delta 0.474, from which Romano et al. (2006)
call an effect large."""
Scores = Float32[np.ndarray, " m"]


@dataclass(frozen=True)
class Responses:
    """How strongly each latent answers in each patient.

    Attributes:
        patients: P names, each once.
        regions: R names.
        values: [P R m], mean activation over the patient's tokens of a region, 0 or more.
    """

    patients: tuple[str, ...]
    regions: tuple[str, ...]
    values: Float64[np.ndarray, "p r m"]

    def of(self, patients: Sequence[str]) -> "Responses":
        """Only these patients, in this order."""
        place = {patient: number for number, patient in enumerate(self.patients)}
        return replace(self, patients=tuple(patients), values=self.values[[place[patient] for patient in patients]])

    def beside(self, other: "Responses") -> "Responses":
        """The latents of both, first these, of the same patients.

        Raises:
            ValueError: other patients or regions.
        """
        if (self.patients, self.regions) != (other.patients, other.regions):
            raise ValueError(
                f"responses of {len(self.patients)} patients in {', '.join(self.regions)} beside those of "
                f"{len(other.patients)} in {', '.join(other.regions)}: both need the same patients and regions"
            )
        return replace(self, values=np.concatenate([self.values, other.values], axis=2))

    @classmethod
    def pooled(cls, parts: "Sequence[Responses]") -> "Responses":
        """The patients of all parts as one population; names are made different by the part's number."""
        names = [f"{number}/{patient}" for number, part in enumerate(parts) for patient in part.patients]
        return cls(tuple(names), parts[0].regions, np.concatenate([part.values for part in parts]))


@dataclass(frozen=True)
class Response:
    """How the latents that a method calls specific answer to a planted factor, on held-out patients.

    An AUROC of 0.5 is chance, below it they answer in the other direction than on the discovery patients. All three
    are 0.5 where nothing is called: a factor that is not found counts as a miss.

    Attributes:
        called: how many latents.
        within: mean over the latents of the chance that a patient's response is larger with the factor on than with it
            off, in the same patient.
        between: mean over the latents of the AUROC of the response, on against off, over all patients.
        together: AUROC of one score a patient, the mean of the latents' standardised responses.
    """

    called: int
    within: float
    between: float
    together: float


def patient_responses(
    codes: Codes,
    patients: Int64[Tensor, " n"],
    regions: Mapping[str, Bool[Tensor, " n"]],
    names: Sequence[str],
) -> Responses:
    """Mean activation of every latent by patient and region.

    Args:
        codes: of n tokens.
        patients: each token's patient, a number in ``names``.
        regions: name to the tokens that lie in it.
        names: P patients.

    Raises:
        ValueError: a patient without a token in one of the regions.
    """
    m, rows, found = codes.n_latents, codes.token_rows(), []
    for region, inside in regions.items():
        tokens = torch.bincount(patients[inside], minlength=len(names))
        if not bool((tokens > 0).all()):
            missing = [name for name, count in zip(names, tokens.tolist(), strict=True) if not count]
            raise ValueError(f"no token of the region {region!r} in {', '.join(missing)}; leave these patients out")
        kept = inside[rows]
        place = patients[rows[kept]] * m + codes.latents[kept].long()
        sums = torch.bincount(place, weights=codes.values[kept].double(), minlength=len(names) * m)
        found.append((sums.reshape(len(names), m) / tokens[:, None]).numpy())
    return Responses(tuple(names), tuple(regions), np.stack(found, axis=1))


def auroc(off: Float64[np.ndarray, "p *k"], on: Float64[np.ndarray, "q *k"]) -> Float64[np.ndarray, "*k"]:
    """Chance that a value of ``on`` exceeds one of ``off``, ties half (Mann-Whitney U over its largest value)."""
    from scipy.stats import rankdata

    n_off, n_on = len(off), len(on)
    ranks = rankdata(np.concatenate([off, on]), axis=0)[n_off:].sum(axis=0)
    return np.asarray((ranks - n_on * (n_on + 1) / 2) / (n_off * n_on))


def often_enough(off: Responses, on: Responses) -> Bool[np.ndarray, "r m"]:
    """Responses that are above 0 in at least `TESTABLE` of the patients of both sides together."""
    return (np.concatenate([off.values, on.values]) > 0).mean(axis=0) >= TESTABLE


def differential_latents(
    off: Responses,
    on: Responses,
    *,
    rate: float = 0.05,
    minimum_auroc: float = LARGE_EFFECT,
    strata: Strata | None = None,
) -> pl.DataFrame:
    """Latents that respond differently in two groups of patients: a rank test a response, at a false discovery rate.

    Wilcoxon's rank-sum test over patients for every latent in every region (testable ones), Benjamini-Hochberg over
    all of them, and an effect that is worth a name. A latent is differential if it is so in one region. In up to 50
    patients p is exact.

    Args:
        off: of the first group.
        on: of the second, other patients.
        rate: false discovery rate, 0..1.
        minimum_auroc: least AUROC of the response in the better direction, 0.5..1.
        strata: of the patients of both sides (`rank_test.strata_of`): only patients alike in lesion size, age or
            scanner are compared, so that a difference in these is not called one of the latents.

    Returns:
        A row a testable response: latent (Int32), region (String), auroc (above 0.5: more in ``on``), p, q (adjusted),
        differential (Boolean), least_auroc (the smallest AUROC that would be called if this latent were the only one
        that differs; null where not even 1 would: then nothing follows from its not being called).

    Raises:
        ValueError: as `rank_test`.
    """
    from scipy.stats import false_discovery_control

    regions, latents = often_enough(off, on).nonzero()
    tested = rank_test(off.values[:, regions, latents], on.values[:, regions, latents], strata)
    q = false_discovery_control(tested.p) if len(latents) else tested.p
    found = (q <= rate) & (np.maximum(tested.auroc, 1 - tested.auroc) >= minimum_auroc)
    least = np.maximum(tested.least_auroc(rate / max(len(latents), 1)), minimum_auroc)
    names = np.array(off.regions, dtype=object)[regions].tolist()
    return pl.DataFrame(
        {
            "latent": latents,
            "region": names,
            "auroc": tested.auroc,
            "p": tested.p,
            "q": q,
            "differential": found,
            "least_auroc": pl.Series(least).fill_nan(None),
        },
        schema={
            "latent": pl.Int32,
            "region": pl.String,
            "auroc": pl.Float64,
            "p": pl.Float64,
            "q": pl.Float64,
            "differential": pl.Boolean,
            "least_auroc": pl.Float64,
        },
    )


def called_in_words(table: pl.DataFrame) -> str:
    """Latents that were called, and what could have been: one sentence without its full stop.

    Args:
        table: of `differential_latents`.
    """
    tested = table["latent"].n_unique()
    called = table.filter("differential")["latent"].n_unique()
    findable = table.filter(pl.col("least_auroc").is_not_null())
    if not findable.height:
        return f"none of {tested} latents could have been called: there are too few patients for so many tests"
    least = findable["least_auroc"].to_list()
    effect = f"AUROC {min(least):.2f}" + (f" to {max(least):.2f}" if max(least) - min(least) > 0.005 else "")
    beyond = tested - findable["latent"].n_unique()
    rest = f", {beyond} latents could not have been called at all" if beyond else ""
    number = f"{called} of {tested} latents called" if called else f"nothing called of {tested} latents"
    return f"{number}; the least effect that could have been found in one alone is {effect}{rest}"


def false_discoveries(
    responses: Responses, *, splits: int = 100, seed: int = 0, rate: float = 0.05, minimum_auroc: float = LARGE_EFFECT
) -> pl.DataFrame:
    """Calls of `differential_latents` between random halves of one population, where every call is false.

    So the false discovery rate is the share of the splits in which anything is called. The splits share their
    patients: they are not independent.

    Args:
        responses: of patients of one population.
        splits: how many.
        seed: of the halves.
        rate: as in `differential_latents`.
        minimum_auroc: as there.

    Returns:
        A row a split: split, called, testable (latents).
    """
    generator, half = np.random.default_rng(seed), len(responses.patients) // 2
    rows = []
    for split in range(splits):
        order = [responses.patients[number] for number in generator.permutation(len(responses.patients))]
        table = differential_latents(
            responses.of(order[:half]), responses.of(order[half:]), rate=rate, minimum_auroc=minimum_auroc
        )
        called = table.filter("differential")["latent"].n_unique()
        rows.append({"split": split, "called": called, "testable": table["latent"].n_unique()})
    return pl.DataFrame(rows)


def response_to_factor(
    latents: Sequence[int],
    *,
    discovery: tuple[Responses, Responses],
    held_out: tuple[Responses, Responses],
) -> Response:
    """Whether latents answer to a factor in patients who were not used to find them.

    For each latent the discovery patients fix the region where the two groups differ most and the direction; the
    held-out patients are then judged in that region and direction.

    Args:
        latents: called specific by some method.
        discovery: responses of the patients without and with the factor.
        held_out: the same patients with the factor off and on, in the same order.

    Raises:
        ValueError: the held-out patients are not the same on both sides.
    """
    off, on = held_out
    if off.patients != on.patients:
        raise ValueError("the held-out patients with the factor off and on must be the same, in the same order")
    if not latents:
        return Response(0, 0.5, 0.5, 0.5)
    chosen = np.asarray(latents)
    effect = auroc(discovery[0].values[:, :, chosen], discovery[1].values[:, :, chosen]) - 0.5
    region = np.abs(effect).argmax(axis=0)
    sign = np.where(effect[region, np.arange(len(chosen))] < 0, -1.0, 1.0)
    before, after = (side.values[:, region, chosen] * sign for side in held_out)
    centre = (discovery[0].values[:, region, chosen] * sign).mean(axis=0)
    spread = np.concatenate([side.values[:, region, chosen] for side in discovery]).std(axis=0)
    scores = [((side - centre) / np.where(spread > 0, spread, 1.0)).mean(axis=1) for side in (before, after)]
    return Response(
        called=len(chosen),
        within=float(((after > before) + 0.5 * (after == before)).mean()),
        between=float(auroc(before, after).mean()),
        together=float(auroc(*scores)),
    )


def weight_scores(alignment: Alignment) -> tuple[Scores, Scores]:
    """How well each latent's partner by weights fits: what the paper's tau is compared with.

    Args:
        alignment: of method ``hungarian_dual``.

    Returns:
        For the source and the target, float32 [m]: the smaller cosine of encoder and decoder where both projections
        give the same partner, -1 where they do not or there is none, NaN for latents that are not alive.
    """
    pairs = alignment.pairs.with_columns(
        pl.when(pl.col("target_latent") == pl.col("target_dec"))
        .then(pl.min_horizontal("similarity_enc", "similarity_dec"))
        .otherwise(-1.0)
        .cast(pl.Float32)
        .alias("score")
    )
    source = _spread(alignment.n_source, pairs["source_latent"], pairs["score"], alignment.unmatched_source)
    target = _spread(alignment.n_target, pairs["target_latent"], pairs["score"], alignment.unmatched_target)
    return source, target


def function_scores(
    functional: FunctionalAlignment, alive_source: Bool[Tensor, " a"], alive_target: Bool[Tensor, " b"]
) -> tuple[Scores, Scores]:
    """How well each latent's partner by function fits: the correlation of their codes.

    Args:
        functional: of both dictionaries' codes on common tokens.
        alive_source: which source latents are alive.
        alive_target: the same of the target.

    Returns:
        As `weight_scores`; an alive latent that hardly fires on the common tokens has no partner.
    """
    pairs = functional.pairs
    return (
        _spread(len(alive_source), pairs["source_latent"], pairs["correlation"], alive_source.nonzero()[:, 0].tolist()),
        _spread(len(alive_target), pairs["target_latent"], pairs["correlation"], alive_target.nonzero()[:, 0].tolist()),
    )


def specific_below(scores: Scores, threshold: float) -> list[int]:
    """The alive latents whose score is below a threshold."""
    return np.flatnonzero(scores < np.float32(threshold)).tolist()


def calibrated_threshold(scores: Scores, rate: float = 0.05) -> float:
    """The threshold below which a share ``rate`` of the latents lies, for scores of one model with itself.

    Args:
        scores: of two dictionaries of the same model and data.
        rate: share of latents that may be called specific where nothing is, 0..1.
    """
    return float(np.nanquantile(scores, rate, method="lower"))


def _spread(n: int, latents: pl.Series, values: pl.Series, alone: Sequence[int]) -> Scores:
    scores = np.full(n, np.nan, dtype=np.float32)
    scores[list(alone)] = -1
    scores[latents.to_numpy()] = values.to_numpy()
    return scores
