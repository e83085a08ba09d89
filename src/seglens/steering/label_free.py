"""Policies that see images of the target cohort and none of its masks.

Three kinds. `LatentMatch` gives every latent the firing rate and mean that it has on the source cohort. A criterion
looks at what a candidate predicts and picks one of several (`evidence_of`, `criteria`). And whatever needs masks, a
fit or a choice, may have them from the source cohort restyled as the target (`restyling`): `proxy_validate`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from seglens.activations.extraction import each_grid
from seglens.activations.replay import Replay
from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.decision import most_likely
from seglens.segmenters.inference import each_batch
from seglens.segmenters.score_summary import dice_of_counts
from seglens.segmenters.scoring import count_scores
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images, Logits, Masks, TokenGrid, Tokens
from seglens.steering.baselines import normalised_entropy
from seglens.steering.interventions import CachedBatch, Intervention, evaluate_interventions
from seglens.steering.style_transfer import brains_of
from seglens.steering.sweep import UNEDITED

MAX_TOKENS = 20_000
"""Tokens from which moments of the latents are taken, evenly spaced; their pre-activations are held at once."""
PRIOR_TOKENS = 50.0
"""A latent that fires at so many tokens is moved half of the way."""
MAX_FACTOR = 4.0
LATENT_BLOCK = 256


@dataclass(frozen=True)
class LatentMatch:
    """A shift of each latent's pre-activation and a factor on its code that give it another cohort's moments.

    The shift brings the firing rate, the factor then the mean of the codes where it fires.

    Attributes:
        shift: [m] added to the pre-activation before the threshold, in the dictionary's scaled units.
        factor: [m] on the code after it.
    """

    shift: Float[Tensor, " m"]
    factor: Float[Tensor, " m"]

    def intervention(
        self, dictionary: SparseAutoencoder, *, strength: float | int = 1.0, name: str = ""
    ) -> Intervention:
        """The intervention that applies it.

        Args:
            dictionary: whose latents these are.
            strength: 0 changes nothing, 1 matches.
            name: None given: says the strength.
        """
        shift, factor = self.shift * strength, self.factor**strength

        def change(grid: TokenGrid) -> TokenGrid:
            before = dictionary.pre_activations(grid.reshape(-1, grid.shape[-1]).to(dictionary.W_enc.dtype))
            after = before + shift
            difference = torch.where(after > dictionary.theta, after * factor, 0.0)
            difference -= torch.where(before > dictionary.theta, before, 0.0)
            return grid + (difference @ dictionary.W_dec / dictionary.scale).to(grid.dtype).view(grid.shape)

        return Intervention(
            name or f"match latents {strength:g}",
            2 * len(shift),
            "label_free",
            lambda batch: batch.changed(dictionary.hookpoint, change),
        )


@torch.no_grad()
def match_latents(
    dictionary: SparseAutoencoder,
    target: Tokens,
    source: Float[Tensor, "s d_in"],
    *,
    prior_tokens: float = PRIOR_TOKENS,
) -> LatentMatch:
    """Shift and factor that give the target's codes the source's firing rates and means.

    A latent that fires at n tokens of the rarer side is moved n / (n + prior_tokens) of the way: rates and means of
    few tokens are mostly noise. Factors stay within 1/4..4; latents that never fire on one side are left alone.

    Args:
        dictionary: of both.
        target: raw activations [n d_in] on the target cohort.
        source: likewise on the source cohort [s d_in].
        prior_tokens: see above; 0 matches exactly.
    """
    theta = float(dictionary.theta)
    shifts, factors = [], []
    here, there = dictionary.normalise(target), dictionary.normalise(source)
    for latents in torch.arange(dictionary.n_latents, device=here.device).split(LATENT_BLOCK):
        columns, offset = dictionary.W_enc[:, latents], dictionary.encoder_offset()[latents]
        own, wanted = here @ columns + offset, there @ columns + offset
        fires = wanted > theta
        rate = fires.double().mean(0)
        # the code that is just below the threshold when as many tokens fire as in the source
        place = ((1 - rate) * len(own)).round().long().clamp(0, len(own))
        ascending = own.sort(dim=0).values
        below = ascending.gather(0, (place - 1).clamp_min(0)[None])[0]
        above = ascending.gather(0, place.clamp_max(len(own) - 1)[None])[0]
        already = (own > theta).sum(0) == len(own) - place
        shift = torch.where(already, 0.0, theta - (below + above) / 2)
        shifted = own + shift
        on = shifted > theta
        mean = (shifted * on).sum(0) / on.sum(0).clamp_min(1)
        wanted_mean = (wanted * fires).sum(0) / fires.sum(0).clamp_min(1)
        fewest = torch.minimum((own > theta).sum(0), fires.sum(0)).double()
        known = (fewest > 0) & (mean > 0) & (wanted_mean > 0)
        weight = torch.where(known, fewest / (fewest + prior_tokens), 0.0).to(own.dtype)
        factor = torch.where(known, wanted_mean / mean.clamp_min(1e-9), 1.0)
        shifts.append(shift * weight)
        factors.append(factor.clamp(1 / MAX_FACTOR, MAX_FACTOR) ** weight)
    return LatentMatch(torch.cat(shifts), torch.cat(factors))


def sample_tokens(lens: Lens, slices: SliceSet, *, batch_size: int = 16) -> Tokens:
    """Raw activations [n d_in] of slices, at most `MAX_TOKENS`, evenly spaced over all; no mask is read."""
    parts = []
    most = max(1, MAX_TOKENS * batch_size // max(1, len(slices)))
    for _, grid in each_grid(lens.segmenter, slices, lens.hookpoint, batch_size=batch_size):
        tokens = grid.reshape(-1, grid.shape[-1])
        parts.append(tokens[evenly_spaced(len(tokens), most)])
    return torch.cat(parts)


@dataclass(frozen=True)
class UnlabelledEvidence:
    """Evidence for a candidate from images alone.

    Attributes:
        shares: [K] predicted share of the brain of each class.
        agreement: [K] pooled Dice between the predictions on slices and on their mirror images; 0 where none is said.
        expected_dice: [K] pooled Dice that the class probabilities expect, 2 sum(p in the predicted region) /
            (sum(p) + predicted pixels).
        entropy: mean of `normalised_entropy` over the brain, 0..1.
    """

    shares: Float[Tensor, " K"]
    agreement: Float[Tensor, " K"]
    expected_dice: Float[Tensor, " K"]
    entropy: float


def evidence_of(
    interventions: Sequence[Intervention],
    segmenter: Segmenter,
    slices: SliceSet,
    *,
    temperature: float = 1.0,
    batch_size: int = 16,
) -> dict[str, UnlabelledEvidence]:
    """Evidence for every intervention, and for the untouched network as ``none``; no mask is read.

    Args:
        interventions: of this segmenter.
        segmenter: untouched.
        slices: unlabelled, of the cohort that they are to be used on.
        temperature: logits are divided by it before `expected_dice` (see `calibrated_temperature`).
        batch_size: slices at once.
    """
    n_classes, labels = segmenter.n_classes, segmenter.labels
    untouched = Intervention("untouched", 0, "none", lambda batch: batch.logits)
    sums = {
        name: torch.zeros(n_classes, 7, dtype=torch.float64) for name in (UNEDITED, *(c.name for c in interventions))
    }
    plans: dict[str, Replay] = {}
    mirrored_plans: dict[str, Replay] = {}
    pixels = 0

    def measured(_rows: Sequence[int], images: Images) -> tuple[int, dict[str, Tensor]]:
        brains = brains_of(images)
        found = {}
        plain, mirrored = CachedBatch(segmenter, images, plans), CachedBatch(segmenter, images.flip(-1), mirrored_plans)
        for name, intervention in zip(sums, (untouched, *interventions), strict=True):
            logits = intervention.predict(plain)
            labels_now = most_likely(logits)
            again = most_likely(intervention.predict(mirrored)).flip(-1)
            within = torch.bincount(labels_now[brains].long(), minlength=n_classes)
            both = count_scores(labels_now, again, labels).sum(0)
            entropy = normalised_entropy(logits)[brains].sum().expand(n_classes)
            parts = [within[:, None], _hit_and_mass(logits / temperature, labels_now), both, entropy[:, None]]
            found[name] = torch.cat([part.double().cpu() for part in parts], dim=1)
        return int(brains.sum()), found

    for _, (n, batch) in each_batch(measured, segmenter, slices, batch_size=batch_size, what="evidence"):
        pixels += n
        sums = {name: total + batch[name] for name, total in sums.items()}
    found = {}
    for name, total in sums.items():
        within, hit, mass, both, labels_now, again, entropy = total.unbind(1)
        found[name] = UnlabelledEvidence(
            within / max(1, pixels),
            2 * both / (labels_now + again).clamp_min(1),
            2 * hit / (mass + labels_now).clamp_min(1),
            float(entropy[0]) / max(1, pixels),
        )
    return found


TEMPERATURES = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)


def calibrated_temperature(segmenter: Segmenter, source: SliceSet, *, batch_size: int = 16) -> float:
    """The temperature at which the Dice that the source expects of itself is nearest to the one that it has.

    Only the source's masks are read. Dice: pooled, mean over the foreground classes.
    """

    def measured(rows: Sequence[int], images: Images) -> Float64[Tensor, "n K 3"]:
        logits = segmenter.logits(images)
        labels_now = most_likely(logits)
        counts = count_scores(labels_now, source.masks(rows).to(labels_now.device), segmenter.labels).sum(0).double()
        soft = [_hit_and_mass(logits / temperature, labels_now) for temperature in TEMPERATURES]
        return torch.stack([counts, *(functional.pad(sums, (0, 1)) for sums in soft)]).cpu()

    parts = each_batch(measured, segmenter, source, batch_size=batch_size, what="temperature")
    totals = torch.zeros(1 + len(TEMPERATURES), segmenter.n_classes, 3, dtype=torch.float64)
    for _, part in parts:
        totals += part
    counts, soft = totals[0], dict(zip(TEMPERATURES, totals[1:], strict=True))
    wanted = float(dice_of_counts(counts[1:].long()).nan_to_num(0.0).mean())
    expected = {
        temperature: float((2 * sums[1:, 0] / (sums[1:, 1] + counts[1:, 1]).clamp_min(1)).mean())
        for temperature, sums in soft.items()
    }
    return min(TEMPERATURES, key=lambda temperature: abs(expected[temperature] - wanted))


def _hit_and_mass(logits: Logits, labels_now: Masks) -> Float[Tensor, "K 2"]:
    """Probability of each class summed over the region where it is said, and over everything."""
    p = logits.softmax(dim=1)
    hit = [p[:, label][labels_now == label].double().sum() for label in range(p.shape[1])]
    return torch.stack([torch.stack(hit), p.double().sum((0, 2, 3, 4))], dim=1)


Criterion = Callable[[Mapping[str, UnlabelledEvidence], UnlabelledEvidence], dict[str, float]]
"""From the evidence of every candidate, and that of the untouched network on the source, to a value; larger is better.
"""


def by_entropy(found: Mapping[str, UnlabelledEvidence], source: UnlabelledEvidence) -> dict[str, float]:
    """The surest candidate. Its known fault: predicting nothing is very sure."""
    return {name: -evidence.entropy for name, evidence in found.items()}


def by_guarded_entropy(found: Mapping[str, UnlabelledEvidence], source: UnlabelledEvidence) -> dict[str, float]:
    """The surest candidate among those that keep every class within a factor of two of what is predicted untouched."""
    before = found[UNEDITED].shares[1:].clamp_min(1e-9)
    values = {}
    for name, evidence in found.items():
        change = (evidence.shares[1:].clamp_min(1e-9) / before).log().abs().max()
        values[name] = -evidence.entropy if float(change) <= 0.7 else -1.0
    return values


def by_agreement(found: Mapping[str, UnlabelledEvidence], source: UnlabelledEvidence) -> dict[str, float]:
    """Agreement with the mirror image, mean over the foreground classes."""
    return {name: float(evidence.agreement[1:].mean()) for name, evidence in found.items()}


def by_expected_dice(found: Mapping[str, UnlabelledEvidence], source: UnlabelledEvidence) -> dict[str, float]:
    """Dice that the probabilities expect, mean over the foreground classes."""
    return {name: float(evidence.expected_dice[1:].mean()) for name, evidence in found.items()}


MIN_SHARE = 1e-4


def by_shares(found: Mapping[str, UnlabelledEvidence], source: UnlabelledEvidence) -> dict[str, float]:
    """Predicted class shares of the brain nearest to those predicted on the source: squared log ratios, summed."""

    def logs(evidence: UnlabelledEvidence) -> Tensor:
        return (evidence.shares[1:] + MIN_SHARE).log()

    wanted = logs(source)
    return {name: -float((logs(evidence) - wanted).square().sum()) for name, evidence in found.items()}


def by_composition(found: Mapping[str, UnlabelledEvidence], source: UnlabelledEvidence) -> dict[str, float]:
    """Predicted composition of the lesion nearest to the source's (Kullback-Leibler); its size does not count."""

    def shares(evidence: UnlabelledEvidence) -> Tensor:
        own = evidence.shares[1:] + MIN_SHARE
        return own / own.sum()

    wanted = shares(source)
    return {name: -float((wanted * (wanted / shares(evidence)).log()).sum()) for name, evidence in found.items()}


def by_agreement_and_composition(
    found: Mapping[str, UnlabelledEvidence], source: UnlabelledEvidence
) -> dict[str, float]:
    """Sum of the ranks by `by_agreement` and by `by_composition`."""
    ranks = dict.fromkeys(found, 0.0)
    for criterion in (by_agreement, by_composition):
        values = criterion(found, source)
        for name in found:
            ranks[name] += sum(values[other] < values[name] for other in found)
    return ranks


CRITERIA: Mapping[str, Criterion] = {
    "entropy": by_entropy,
    "entropy, guarded": by_guarded_entropy,
    "agreement with the mirror image": by_agreement,
    "expected Dice, calibrated on the source": by_expected_dice,
    "class shares of the source": by_shares,
    "lesion composition of the source": by_composition,
    "agreement and composition": by_agreement_and_composition,
}


def picked(values: Mapping[str, float]) -> str:
    """The name with the largest value; of equal ones the untouched network, then the first."""
    return max(values, key=lambda name: (values[name], name == UNEDITED))


def proxy_validate(
    candidates: Mapping[str, Callable[[SliceSet], Intervention]],
    segmenter: Segmenter,
    proxy: SliceSet,
    *,
    batch_size: int = 16,
) -> dict[str, float]:
    """How policies do on a proxy for the target: labelled source slices, restyled.

    Each makes its intervention from one half of the proxy's patients and is scored on the other half, so settings such
    as a learning rate are chosen without a mask of the target.

    Args:
        candidates: name to a function from slices (labelled, but of the source) to an intervention.
        segmenter: untouched.
        proxy: from `restyled`.
        batch_size: slices at once.

    Returns:
        Pooled foreground Dice of each, and of the untouched network as ``none``.

    Raises:
        ValueError: a proxy of a single patient.
    """
    half, other = halves(proxy)
    made = []
    for name, make in candidates.items():
        intervention = make(half)
        made.append(Intervention(name, intervention.n_parameters, intervention.supervision, intervention.predict))
    scores = evaluate_interventions(made, segmenter, other, batch_size=batch_size)
    return scores.pooled_by_edit()


def halves(slices: SliceSet) -> tuple[SliceSet, SliceSet]:
    """Every other patient, and the rest.

    Raises:
        ValueError: a single patient.
    """
    patients = slices.index["patient"].unique(maintain_order=True).to_list()
    if len(patients) < 2:
        raise ValueError(f"{slices.name!r} has slices of {len(patients)} patient; two halves need at least 2")
    first = slices.index["patient"].is_in(pl.Series(patients[::2]).implode())
    rows = first.to_list()
    return (
        slices.select([row for row, own in enumerate(rows) if own]),
        slices.select([row for row, own in enumerate(rows) if not own]),
    )
