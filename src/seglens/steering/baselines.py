"""Baselines of a latent edit: rules at the output, tuned on the same selection slices, and random latents.

A rule takes the logits of the untouched network and gives masks. CCF and UF are the paper's baselines (section 6);
the others show how much of a gain needs no look inside the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from seglens.segmenters.decision import most_likely
from seglens.segmenters.score_summary import dice_of_counts
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images, Logits, Masks
from seglens.steering.records import Setting

Rule = Callable[[Logits], Masks]
Scope = Literal["class", "foreground"]
CountObjective = Callable[[Int64[Tensor, "B K 3"]], float]
"""From true positives, predicted and true pixels of each slice and class to one number, larger is better."""

BIASES = (
    *(-8.0, -6.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5, -0.25, 0.0),
    *(0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
)
PAIR_BIASES = (-8.0, -4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
REFINEMENTS = (-0.5, -0.25, 0.25, 0.5)
ENTROPIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
MIN_PIXELS = (5, 20, 50, 150)
BIAS_PIXELS = 30_000
TUNING_BYTES = 256 * 2**20
"""Logits kept for tuning; of a larger selection set evenly spaced slices are used."""


def component_filter(scope: Scope, minimum_pixels: int | None = None) -> Rule:
    """CCF: keep the largest component of a sample, or all of at least ``minimum_pixels``; corners connect.

    Args:
        scope: components of each class by itself, or of the whole foreground.
        minimum_pixels: None keeps the largest component only.
    """
    return lambda logits: keep_components(most_likely(logits), scope, minimum_pixels)


def keep_components(masks: Masks, scope: Scope, minimum_pixels: int | None) -> Masks:
    """The masks without the components that `component_filter` drops."""
    from scipy import ndimage

    kept = masks.cpu().numpy().copy()
    structure = np.ones((3, 3, 3), dtype=bool)
    for mask in kept:
        groups = [mask > 0] if scope == "foreground" else [mask == label for label in np.unique(mask[mask > 0])]
        for group in groups:
            components, count = ndimage.label(group, structure)
            if count == 0:
                continue
            sizes = np.bincount(components.ravel())[1:]
            stays = sizes >= minimum_pixels if minimum_pixels is not None else np.arange(count) == sizes.argmax()
            mask[group & ~np.concatenate([[True], stays])[components]] = 0
    return torch.from_numpy(kept).to(masks.device)


def normalised_entropy(logits: Logits) -> Float[Tensor, "B D H W"]:
    """Entropy of the class probabilities, divided by log K: 0 certain, 1 uniform."""
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1) / np.log(logits.shape[1])


def entropy_filter(threshold: float) -> Rule:
    """UF: foreground pixels with an entropy above ``threshold`` (0..1, see `normalised_entropy`) become background."""

    def rule(logits: Logits) -> Masks:
        masks = most_likely(logits)
        masks[normalised_entropy(logits) > threshold] = 0
        return masks

    return rule


def logit_bias(bias: Sequence[float]) -> Rule:
    """Add one number to the logits of each class (K of them)."""

    def rule(logits: Logits) -> Masks:
        return most_likely(logits + torch.tensor(bias, dtype=logits.dtype, device=logits.device)[:, None, None, None])

    return rule


def drop_class(label: int) -> Rule:
    """Never predict ``label``; its pixels go to the next most likely class."""

    def rule(logits: Logits) -> Masks:
        dropped = logits.clone()
        dropped[:, label] = -torch.inf
        return most_likely(dropped)

    return rule


def predict_nothing(logits: Logits) -> Masks:
    """Background everywhere."""
    return torch.zeros_like(most_likely(logits))


def flip_logits(segmenter: Segmenter, images: Images) -> Logits:
    """Test-time augmentation: log of the mean probability of a slice and its left-right mirror image."""
    plain = segmenter.logits(images).softmax(dim=1)
    mirrored = segmenter.logits(images.flip(-1)).flip(-1).softmax(dim=1)
    return ((plain + mirrored) / 2).clamp_min(torch.finfo(plain.dtype).tiny).log()


def pooled_counts(
    predictions: UInt8[Tensor, "..."], masks: UInt8[Tensor, "..."], n_classes: int
) -> Int64[Tensor, "K 3"]:
    """True positives, predicted and true pixels of each class, summed over everything given."""
    confusion = torch.bincount(
        masks.reshape(-1).long() * n_classes + predictions.reshape(-1).long(), minlength=n_classes**2
    ).view(n_classes, n_classes)
    return torch.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)], dim=1)


def target_dice(counts: Int64[Tensor, "K 3"], target: int | None) -> float:
    """Pooled Dice of a class, or (``target`` None) the mean over the foreground classes that occur; NaN where none."""
    dice = dice_of_counts(counts)
    return float(dice[target] if target is not None else dice[1:].nanmean())


def slice_counts(predictions: Masks, masks: Masks, n_classes: int) -> Int64[Tensor, "B K 3"]:
    """Like `pooled_counts`, slice by slice."""
    return torch.stack(
        [pooled_counts(labels, true, n_classes) for labels, true in zip(predictions, masks, strict=True)]
    )


def pooled_dice(target: int | None) -> CountObjective:
    """The objective of `target_dice`, summed over slices."""
    return lambda counts: target_dice(counts.sum(0), target)


def mean_slice_foreground(counts: Int64[Tensor, "B K 3"]) -> float:
    """Mean over slices of the mean Dice of the foreground classes in the slice's mask; NaN where no slice has any."""
    dice = dice_of_counts(counts[:, 1:]).where(counts[:, 1:, 2] > 0, torch.nan)
    return float(dice.nanmean(dim=1).nanmean())


@dataclass(frozen=True)
class Tuned:
    """A rule and what was chosen on the selection slices.

    Attributes:
        rule: logits to masks.
        setting: the parameters chosen.
        dice: value on the selection slices of the objective it was tuned on.
    """

    rule: Rule = field(repr=False)
    setting: Setting
    dice: float


def tune_rules(
    logits: Logits, masks: Masks, *, target: int | None, objective: CountObjective | None = None
) -> dict[str, Tuned]:
    """Tune CCF, UF and the per-class logit bias on selection slices.

    Each may also choose to do nothing, so none can look worse on the selection slices than the untouched network; but
    ``ccf_untuned``, the paper's CCF (the largest component of each class, always), has nothing to choose.

    Args:
        logits: [B K D H W], of the untouched network.
        masks: [B D H W], theirs.
        target: the class whose pooled Dice is raised; None for the mean over the foreground classes.
        objective: what is raised instead: the very number that the baselines will be judged by.

    Returns:
        ``ccf``, ``ccf_untuned``, ``uf``, ``logit_bias``, for a single class also ``logit_bias_foreground`` (tuned on
        the pooled foreground mean), without one ``drop_class`` (the class whose loss does best). Ties go to the mildest
        setting.
    """
    score = objective or pooled_dice(target)
    tuned = {
        "ccf": _tune_components(logits, masks, score),
        "ccf_untuned": _largest_component(logits, masks, score),
        "uf": _tune_entropy(logits, masks, score),
        "logit_bias": _tune_bias(logits, masks, target, score),
    }
    if target is not None:
        tuned["logit_bias_foreground"] = _tune_bias(logits, masks, None, pooled_dice(None))
    else:
        tuned["drop_class"] = _tune_drop(logits, masks, score)
    return tuned


def random_latents(
    firing_rates: Float[Tensor, " m"],
    latents: Sequence[int],
    *,
    draws: int,
    seed: int,
    neighbours: int = 10,
    avoid: Sequence[int] = (),
    masses: Float[Tensor, " m"] | None = None,
) -> list[tuple[int, ...]]:
    """As many other latents that fire about as often, and with as much mass: the control of every latent edit.

    Latents that fire as often may do so a tenth as strongly, and then anything beats them.

    Args:
        firing_rates: [m] share of tokens at which each latent fires.
        latents: the latents to be matched.
        draws: how many sets to draw.
        seed: of the draws.
        neighbours: each latent is matched by one of this many that are nearest in log rate and log mass.
        avoid: latents that are not drawn either, where enough others fire.
        masses: [m] sum of each latent's codes, on any scale; None matches by firing rate alone.

    Raises:
        ValueError: there are fewer other live latents than needed.
    """
    alive = firing_rates > 0
    pool = alive.clone()
    pool[list(latents)] = False
    if int(pool.sum()) < len(latents):
        raise ValueError(
            f"{len(latents)} latents cannot be matched: only {int(pool.sum())} others ever fire; take fewer"
        )
    others = pool.clone()
    others[list(avoid)] = False
    pool = others if int(others.sum()) >= len(latents) else pool
    known = [firing_rates] if masses is None else [firing_rates, masses]
    logs = torch.stack([one.double().cpu().clamp_min(1e-12).log() for one in known], dim=1)
    generator = torch.Generator().manual_seed(seed)
    sets = []
    for _ in range(draws):
        free = pool.clone()
        drawn = []
        for latent in latents:
            distance = (logs - logs[latent]).norm(dim=1).masked_fill(~free, torch.inf)
            nearest = distance.sort(stable=True).indices[: min(neighbours, int(free.sum()))]
            chosen = int(nearest[int(torch.randint(len(nearest), (1,), generator=generator))])
            free[chosen] = False
            drawn.append(chosen)
        sets.append(tuple(sorted(drawn)))
    return sets


def _tune_components(logits: Logits, masks: Masks, score: CountObjective) -> Tuned:
    plain, n_classes = most_likely(logits), logits.shape[1]
    best = Tuned(most_likely, {"kept": "all"}, score(slice_counts(plain, masks, n_classes)))
    for scope in ("foreground", "class"):
        for minimum in (*MIN_PIXELS, None):
            dice = score(slice_counts(keep_components(plain, scope, minimum), masks, n_classes))
            if dice > best.dice:
                setting = {"kept": "largest" if minimum is None else f"at least {minimum} pixels", "scope": scope}
                best = Tuned(component_filter(scope, minimum), setting, dice)
    return best


def _largest_component(logits: Logits, masks: Masks, score: CountObjective) -> Tuned:
    kept = keep_components(most_likely(logits), "class", None)
    setting: Setting = {"kept": "largest", "scope": "class"}
    return Tuned(component_filter("class"), setting, score(slice_counts(kept, masks, logits.shape[1])))


def _tune_entropy(logits: Logits, masks: Masks, score: CountObjective) -> Tuned:
    plain, n_classes = most_likely(logits), logits.shape[1]
    entropy = normalised_entropy(logits)
    best = Tuned(most_likely, {"threshold": None}, score(slice_counts(plain, masks, n_classes)))
    for threshold in sorted(ENTROPIES, reverse=True):
        dice = score(slice_counts(plain.masked_fill(entropy > threshold, 0), masks, n_classes))
        if dice > best.dice:
            best = Tuned(entropy_filter(threshold), {"threshold": threshold}, dice)
    return best


def _tune_drop(logits: Logits, masks: Masks, score: CountObjective) -> Tuned:
    n_classes = logits.shape[1]
    values = {label: score(slice_counts(drop_class(label)(logits), masks, n_classes)) for label in range(1, n_classes)}
    label = max(values, key=lambda label: values[label])
    return Tuned(drop_class(label), {"label": label}, values[label])


def _tune_bias(logits: Logits, masks: Masks, target: int | None, score: CountObjective, *, rounds: int = 2) -> Tuned:
    """Search over one bias a foreground class: pairs of classes on a sample of the pixels, then one class at a time.

    One class at a time alone gets stuck where two biases must change together, and a weak baseline flatters the edit.
    Pairs take every other value of the grid (``PAIR_BIASES``); the classes by themselves then take all of it.
    A last round moves each class by ``REFINEMENTS``; ``at_bound`` says that the end of the grid was still wanted.
    """
    n_slices, n_classes = logits.shape[:2]
    most = max(BIASES)
    # Where background leads by more than the largest bias, no setting can change the prediction.
    open_ = logits[:, 1:].amax(dim=1) + most >= logits[:, 0]
    pixels = torch.stack([of_class[open_] for of_class in logits.unbind(1)])
    cells = (torch.arange(n_slices).view(-1, 1, 1, 1) * n_classes + masks.long()) * n_classes
    truth, n_cells = cells[open_], n_slices * n_classes**2
    closed = torch.bincount(cells[~open_], minlength=n_cells)
    sparse = max(1, len(truth) // BIAS_PIXELS)
    samples = {
        step: (pixels[:, ::step].contiguous(), truth[::step], torch.div(closed, step, rounding_mode="floor"))
        for step in (1, sparse)
    }

    def dice_with(bias: list[float], step: int = 1) -> float:
        of_class, true, rest = samples[step]
        # class by class takes a third of the time of an argmax; as there, the first of equal ones wins
        largest, predicted = of_class[0] + bias[0], torch.zeros_like(true)
        for label in range(1, n_classes):
            value = of_class[label] + bias[label]
            predicted = torch.where(value > largest, label, predicted)
            largest = torch.maximum(largest, value)
        confusion = (torch.bincount(true + predicted, minlength=n_cells) + rest).view(n_slices, n_classes, n_classes)
        return score(torch.stack([confusion.diagonal(dim1=1, dim2=2), confusion.sum(1), confusion.sum(2)], dim=2))

    def improved(bias: list[float], groups: Sequence[tuple[int, ...]], step: int = 1) -> tuple[list[float], float]:
        best = dice_with(bias, step)
        grid = BIASES if len(groups[0]) == 1 else PAIR_BIASES
        for _ in range(rounds):
            before = bias
            for group in groups:
                for values in sorted(product(grid, repeat=len(group)), key=lambda values: sum(map(abs, values))):
                    trial = list(bias)
                    for label, value in zip(group, values, strict=True):
                        trial[label] = value
                    dice = dice_with(trial, step)
                    if dice > best:
                        best, bias = dice, trial
            if bias == before:
                break
        return bias, best

    labels = range(1, n_classes)
    singles = [(label,) for label in labels]
    pairs = [pair for pair in combinations(labels, 2) if target in pair or (target is None and n_classes <= 4)]
    zero = [0.0] * n_classes
    bias, dice = improved(zero, singles)
    if pairs:
        start, _ = improved(zero, pairs, step=sparse)
        other, better = improved(start, singles)
        if better > dice:
            bias, dice = other, better
    for label in labels:
        centre = bias
        for move in REFINEMENTS:
            trial = list(centre)
            trial[label] = max(-most, min(most, centre[label] + move))
            if (better := dice_with(trial)) > dice:
                bias, dice = trial, better
    return Tuned(logit_bias(bias), {"bias": bias, "at_bound": max(map(abs, bias)) >= most}, dice)
