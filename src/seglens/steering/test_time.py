"""Test-time baselines of label-free edits: what else images of the target cohort alone can change.

Averages over augmentations, histogram matching of the input, statistics and affine parameters of normalisation layers,
and entropy minimisation of any numbers (TENT, arXiv 2006.10726), with a term for class shares (arXiv 2108.03152).
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from seglens.activations.replay import Replay
from seglens.cohorts.slice_set import SliceSet
from seglens.segmenters.decision import most_likely
from seglens.segmenters.inference import samples_at_once
from seglens.segmenters.segmenter import Segmenter, raw_logits
from seglens.segmenters.substituted import Substituted
from seglens.shapes import Images, Logits
from seglens.steering.baselines import normalised_entropy
from seglens.steering.fitted import Adjustable, Values
from seglens.steering.interventions import CachedBatch, Intervention
from seglens.steering.style_transfer import Style, brains_of, map_quantiles, style_of

TENT_RATES = (1e-3, 1e-2)
INTENSITY_GAINS = (0.9, 1.0, 1.1)
COLLAPSE = 3.0

UnlabelledLoss = Callable[[Logits, Bool[Tensor, "B D H W"]], Float[Tensor, ""]]
"""A loss of logits and of where the brain is; no mask."""


def augmentation_average(name: str = "test-time augmentation") -> Intervention:
    """Mean probability over a slice, its mirror image, and both with intensities times 0.9 and 1.1."""

    def predict(batch: CachedBatch) -> Logits:
        total = torch.zeros_like(batch.logits)
        for gain in INTENSITY_GAINS:
            images = batch.images * gain
            total += (batch.logits if gain == 1 else batch.segmenter.logits(images)).softmax(dim=1)
            total += batch.segmenter.logits(images.flip(-1)).flip(-1).softmax(dim=1)
        return (total / (2 * len(INTENSITY_GAINS))).clamp_min(torch.finfo(total.dtype).tiny).log()

    return Intervention(name, 0, "none", predict)


def histogram_matching(target: Style, source: Style, name: str = "histogram matching") -> Intervention:
    """Intensities of the target's healthy tissue mapped to the source's, per sequence, inside the brain.

    One monotone map for the whole cohort: slices differ in what they show, so each by itself would be matched to
    anatomy that it does not have. A sequence without quantiles on one side is left alone.

    Args:
        target: of unlabelled slices, best with the whole brain as one region (no lesion).
        source: likewise of the source cohort.
        name: of the intervention.
    """
    pairs = [(own, other) for (own, _), (other, _) in zip(target.quantiles, source.quantiles, strict=True)]

    def predict(batch: CachedBatch) -> Logits:
        return batch.segmenter.logits(matched_images(batch.images, pairs))

    return Intervention(name, sum(len(own) for own, _ in pairs if own is not None), "label_free", predict)


def matched_images(images: Images, pairs: Sequence[tuple[Tensor | None, Tensor | None]]) -> Images:
    """Images with each sequence's intensities inside the brain mapped from one set of quantiles to another."""
    inside = brains_of(images)
    result = images.clone()
    for number, (own, other) in enumerate(pairs):
        if own is not None and other is not None:
            result[:, number][inside] = map_quantiles(images[:, number][inside], own, other)
    return result


def batch_statistics(segmenter: Segmenter, slices: SliceSet, *, batch_size: int = 16) -> Intervention | None:
    """Running statistics of batch norms taken from the target's images (arXiv 2006.16971); None without batch norms."""
    network = deepcopy(segmenter.network)
    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not norms:
        return None
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    # mixed, since the variance within a batch of one patient's slices is not the cohort's
    mixed = torch.randperm(len(slices), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for rows in mixed.split(samples_at_once(segmenter, batch_size)):
            raw_logits(network, slices.images(rows.tolist()).to(segmenter.device), segmenter.spatial_dims)
    values = {
        f"{name}.{own}": value
        for name, norm in norms.items()
        for own, value in norm.named_buffers(recurse=False)
        if own != "num_batches_tracked"
    }
    substituted = Substituted(segmenter.network)
    count = sum(value.numel() for value in values.values())
    return Intervention(
        "batch-norm statistics",
        count,
        "label_free",
        lambda batch: substituted.logits(lambda: segmenter.logits(batch.images), values),
    )


def unfitted(segmenter: Segmenter, target: SliceSet, source: SliceSet) -> list[Intervention]:
    """Baselines that need neither a mask nor a choice: augmentations, histogram matching, statistics of batch norms.

    Args:
        segmenter: of the source cohort.
        target: slices whose images alone are looked at.
        source: of the segmenter's own cohort.
    """

    def whole(slices: SliceSet) -> Style:
        images = slices.images()
        return style_of(images, torch.zeros(images[:, 0].shape, dtype=torch.bool))

    statistics = batch_statistics(segmenter, target)
    found = [augmentation_average(), histogram_matching(whole(target), whole(source))]
    return found if statistics is None else [*found, statistics]


def has_norms(segmenter: Segmenter) -> bool:
    """Whether the network has a normalisation layer with weights."""
    return bool(_norm_weights(segmenter))


def norm_affines(segmenter: Segmenter, name: str = "norm affines") -> Adjustable:
    """Weights and biases of all normalisation layers: what TENT adapts.

    Raises:
        ValueError: the network has none.
    """
    start = _norm_weights(segmenter)
    if not start:
        raise ValueError("this network has no normalisation layer with weights; TENT has nothing to adapt")
    network = Substituted(segmenter.network)

    def predict(batch: CachedBatch, values: Values) -> Logits:
        return network.logits(lambda: segmenter.logits(batch.images), values)

    return Adjustable(name, start, predict, TENT_RATES)


class Unlabelled:
    """Slices without masks in batches of mixed patients, with what the network in front of a hookpoint gives of them.

    Args:
        segmenter: untouched.
        slices: no mask of them is read.
        batch_size: slices of a step.
        seed: of the mixing.
    """

    def __init__(self, segmenter: Segmenter, slices: SliceSet, *, batch_size: int = 12, seed: int = 0):
        segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing)
        order = torch.randperm(len(slices), generator=torch.Generator().manual_seed(seed))
        plans: dict[str, Replay] = {}
        self.batches = [
            CachedBatch(segmenter, slices.images(rows).to(segmenter.device), plans)
            for rows in order.split(samples_at_once(segmenter, batch_size))
        ]


def adapt(
    adjustable: Adjustable,
    unlabelled: Unlabelled,
    loss: UnlabelledLoss,
    *,
    learning_rate: float,
    steps: int = 40,
    seed: int = 0,
) -> Values:
    """Adapt numbers by Adam on images alone; the network itself is left as it is.

    Args:
        adjustable: what is adapted, from its start.
        unlabelled: each step takes one batch, in a random order.
        loss: what is made small.
        learning_rate: constant, as in TENT.
        steps: batches.
        seed: of the order.
    """
    values = {name: value.detach().clone().requires_grad_() for name, value in adjustable.start.items()}
    leaves = list(values.values())
    optimiser = torch.optim.Adam(leaves, lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(len(unlabelled.batches), generator=generator).tolist()
        batch = unlabelled.batches[order.pop()]
        with torch.enable_grad():
            value = loss(adjustable.predict(batch, values), brains_of(batch.images))
            gradients = torch.autograd.grad(value, leaves)  # of these alone: the network's own weights get none
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        optimiser.step()
    return {name: value.detach() for name, value in values.items()}


def adapted_intervention(adjustable: Adjustable, values: Values, name: str) -> Intervention:
    """The intervention that adapted values make."""
    return Intervention(name, adjustable.n_parameters, "label_free", lambda batch: adjustable.predict(batch, values))


def entropy_loss(logits: Logits, brains: Bool[Tensor, "B D H W"]) -> Float[Tensor, ""]:
    """Mean entropy of the class probabilities inside the brain: TENT's loss."""
    return normalised_entropy(logits)[brains].mean()


def share_loss(shares: Float[Tensor, " K"], weight: float = 1.0) -> UnlabelledLoss:
    """Entropy, and the Kullback-Leibler divergence of the mean class probabilities from given shares.

    Entropy alone is least where one class is everywhere; the second term, arXiv 2108.03152, equation 4, forbids that.

    Args:
        shares: [K] mean class probabilities inside the brain on the source.
        weight: factor of the second term.
    """

    def loss(logits: Logits, brains: Bool[Tensor, "B D H W"]) -> Float[Tensor, ""]:
        own = mean_probabilities(logits, brains).clamp_min(1e-6)
        wanted = shares.to(own).clamp_min(1e-6)
        return entropy_loss(logits, brains) + weight * (own * (own / wanted).log()).sum()

    return loss


def mean_probabilities(logits: Logits, brains: Bool[Tensor, "B D H W"]) -> Float[Tensor, " K"]:
    """Mean class probabilities inside the brain."""
    return (logits.softmax(dim=1) * brains[:, None]).sum((0, 2, 3, 4)) / brains.sum().clamp_min(1)


@torch.no_grad()
def guarded(intervention: Intervention, unlabelled: Unlabelled, *, factor: float = COLLAPSE) -> Intervention:
    """The intervention, or the untouched network under its name where the predicted foreground collapses or floods.

    Args:
        intervention: adapted on images alone.
        unlabelled: the images.
        factor: foreground pixels may shrink or grow by so much.
    """
    before = sum(int((most_likely(batch.logits) > 0).sum()) for batch in unlabelled.batches)
    after = sum(int((most_likely(intervention.predict(batch)) > 0).sum()) for batch in unlabelled.batches)
    if before / factor <= after <= before * factor:
        return intervention
    return Intervention(
        intervention.name, intervention.n_parameters, intervention.supervision, lambda batch: batch.logits
    )


def _norm_weights(segmenter: Segmenter) -> dict[str, Tensor]:
    kinds = (nn.LayerNorm, nn.GroupNorm, _NormBase)
    return {
        f"{path}.{own}": value.detach().clone()
        for path, module in segmenter.network.named_modules()
        if isinstance(module, kinds)
        for own, value in module.named_parameters(recurse=False)
    }
