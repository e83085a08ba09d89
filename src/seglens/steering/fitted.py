"""Numbers of a network fitted on a few labelled patients, all kinds by one loop.

Latents, channels, logits, the last layer or all behind a hookpoint: each is an `Adjustable`, so a latent edit and its
baselines get the same patients, the same steps, the same losses and the same way of choosing among settings. Settings
are chosen by an inner split of the labelled patients; nothing else is looked at.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal, NamedTuple

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from seglens.activations.replay import Replay
from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.decision import most_likely
from seglens.segmenters.inference import samples_at_once
from seglens.segmenters.loss import dice_cross_entropy
from seglens.segmenters.scoring import Counts, count_scores
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Logits, Masks
from seglens.steering.baselines import target_dice
from seglens.steering.interventions import CachedBatch, Intervention

Values = Mapping[str, Tensor]
"""Numbers by name."""
Loss = Literal["plain", "weighted"]

MAX_SLICES = 400
"""Labelled slices that are used; of more, evenly spaced ones of each patient: what the prefix gave is kept of all."""
MAX_VOXELS = MAX_SLICES * 512**2
"""Of the labelled samples that are used, where they are volumes."""
INNER_FOLDS = 3


class LabelledBatch(NamedTuple):
    """A seen batch and its masks ``[B D H W]``, on the network's device."""

    batch: CachedBatch
    masks: Tensor


@dataclass(frozen=True)
class Adjustable:
    """Numbers that may be fitted, and the network with other values of them.

    Attributes:
        name: such as ``"latents"``.
        start: values at which nothing changes.
        predict: logits of a seen batch with given values; gradients flow to the values.
        learning_rates: to choose among, the first is tried first.
        penalties: factors of the L1 distance from ``start`` in the loss, to choose among.
    """

    name: str
    start: Values = field(repr=False)
    predict: Callable[[CachedBatch, Values], Logits] = field(repr=False)
    learning_rates: Sequence[float]
    penalties: Sequence[float] = (0.0,)

    @property
    def n_parameters(self) -> int:
        """How many numbers are fitted."""
        return sum(value.numel() for value in self.start.values())

    def intervention(self, values: Values, name: str = "") -> Intervention:
        """The intervention that fitted values make."""
        return Intervention(
            name or self.name, self.n_parameters, "held_out", lambda batch: self.predict(batch, values), values
        )


@dataclass(frozen=True)
class InterventionFitSettings:
    """How numbers are fitted.

    Attributes:
        loss: ``plain`` is Dice + cross-entropy; ``weighted`` weighs its classes by 1 / sqrt(pixels).
        learning_rate: of Adam at the first step; it falls to 0 along half a cosine.
        penalty: factor of the L1 distance from the start.
        steps: batches.
    """

    loss: Loss = "plain"
    learning_rate: float = 0.1
    penalty: float = 0.0
    steps: int = 40


class Labelled:
    """Labelled slices, in batches of mixed patients, with what the network in front of a hookpoint gives of them.

    Patients are dealt to folds; with a single patient, its slices are (the inner split is then by slice, not by
    patient). A batch never mixes folds.

    Args:
        segmenter: untouched.
        slices: with masks.
        batch_size: slices of a step.
        seed: of the dealing and mixing.
    """

    def __init__(self, segmenter: Segmenter, slices: SliceSet, *, batch_size: int = 12, seed: int = 0):
        segmenter.check_data(slices.name, slices.sequences, slices.labels, preprocessing=slices.preprocessing)
        self.segmenter = segmenter
        self.slices = _thinned(slices)
        batch_size = samples_at_once(segmenter, batch_size)
        plans: dict[str, Replay] = {}
        self.folds: list[list[LabelledBatch]] = []
        for rows in _interleaved(self.slices, seed):
            batches = []
            for start in range(0, len(rows), batch_size):
                own = rows[start : start + batch_size]
                batch = CachedBatch(segmenter, self.slices.images(own).to(segmenter.device), plans)
                batches.append(LabelledBatch(batch, self.slices.masks(own).to(segmenter.device)))
            self.folds.append(batches)

    @property
    def patients(self) -> list[str]:
        """Names of the patients."""
        return sorted(self.slices.index["patient"].unique())

    def batches(self, folds: Sequence[int] | None = None) -> list[LabelledBatch]:
        """Batches of some folds; None gives all."""
        return [batch for fold in (range(len(self.folds)) if folds is None else folds) for batch in self.folds[fold]]


@dataclass(frozen=True)
class Choice:
    """Settings that an inner split chose.

    Attributes:
        settings: the best that were tried.
        helps: whether they beat the untouched network in the inner split; where not, nothing is fitted.
        tried: one row a setting: loss, learning_rate, penalty, objective (pooled Dice of the foreground on the inner
            fold; the untouched network has no settings).
    """

    settings: InterventionFitSettings
    helps: bool
    tried: pl.DataFrame

    @property
    def best(self) -> float:
        """The objective of the settings that were chosen, or of the untouched network where they do not help."""
        return float(self.tried["objective"].to_numpy().max())


def inner_split(slices: SliceSet) -> tuple[SliceSet, SliceSet]:
    """The slices that settings are fitted on when they are chosen, and those of other patients that they are judged on.

    The split of `choose_settings`; what is tuned without a fit is compared by the same one.
    """
    slices = _thinned(slices)
    *others, last = _interleaved(slices, 0)
    return slices.select(sorted(row for fold in others for row in fold)), slices.select(sorted(last))


def fit(
    adjustable: Adjustable,
    batches: Sequence[LabelledBatch],
    settings: InterventionFitSettings,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Values:
    """Fit by Adam on labelled batches; the network itself is left as it is.

    Args:
        adjustable: what is fitted, from its start.
        batches: seen slices and their masks; each step takes one, in a random order.
        settings: loss, learning rate, penalty, steps.
        seed: of the order.
        progress: told after each step.

    Raises:
        ValueError: no batches, or the loss is no number: a learning rate is too high.
    """
    if not batches:
        raise ValueError("no labelled slices to fit to")
    segmenter = batches[0][0].segmenter
    values = {name: value.detach().clone().requires_grad_() for name, value in adjustable.start.items()}
    optimiser = torch.optim.Adam(values.values(), lr=settings.learning_rate)
    weights = class_weights([masks for _, masks in batches], segmenter.n_classes)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    with _frozen(segmenter), torch.enable_grad():
        for step in range(settings.steps):
            order = order or torch.randperm(len(batches), generator=generator).tolist()
            batch, masks = batches[order.pop()]
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
            logits = adjustable.predict(batch, values)
            loss = dice_cross_entropy(logits, masks) if settings.loss == "plain" else _weighted(logits, masks, weights)
            if settings.penalty:
                loss = (
                    loss
                    + settings.penalty
                    * torch.stack(
                        [(values[name] - start).abs().sum() for name, start in adjustable.start.items()]
                    ).sum()
                )
            if not bool(loss.isfinite()):
                raise ValueError(
                    f"{adjustable.name}: the loss is {float(loss.detach())} at step {step}; "
                    f"take a learning rate below {settings.learning_rate:g}"
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            progress(step + 1, settings.steps)
    return {name: value.detach() for name, value in values.items()}


def choose_settings(adjustable: Adjustable, labelled: Labelled, *, steps: int, seed: int = 0) -> Choice:
    """Choose learning rate, then loss, then penalty on the inner split: fitted on all folds but the last, judged there.

    Args:
        adjustable: what is to be fitted.
        labelled: the only slices that are looked at.
        steps: of every fit.
        seed: of the fits.
    """
    *others, last = range(len(labelled.folds))
    training, evaluated = labelled.batches(others), labelled.batches([last])
    rows: list[dict[str, object]] = []
    untouched = _objective(evaluated, lambda batch: batch.logits)

    def value_of(settings: InterventionFitSettings) -> float:
        values = fit(adjustable, training, settings, seed=seed)
        value = _objective(evaluated, lambda batch: adjustable.predict(batch, values))
        rows.append(_row(settings, value))
        return value

    best = InterventionFitSettings(
        learning_rate=adjustable.learning_rates[0], penalty=adjustable.penalties[0], steps=steps
    )
    value = value_of(best)
    centre = best
    further = [replace(centre, learning_rate=rate) for rate in adjustable.learning_rates[1:]]
    for stage in ("learning rate", "loss", "penalty"):
        if stage == "loss":
            further = [replace(best, loss="weighted")]
        elif stage == "penalty":
            further = [replace(best, penalty=penalty) for penalty in adjustable.penalties[1:]]
        for settings in further:
            if (other := value_of(settings)) > value:
                best, value = settings, other
    rows.append(_row(None, untouched))
    return Choice(best, value > untouched, pl.DataFrame(rows, schema=TRIED))


def fitted_intervention(
    adjustable: Adjustable, labelled: Labelled, choice: Choice, *, seed: int = 0, name: str = ""
) -> Intervention:
    """Fit with chosen settings on all labelled slices; the untouched network where the inner split saw no gain."""
    if not choice.helps:
        return adjustable.intervention(adjustable.start, name)
    return adjustable.intervention(fit(adjustable, labelled.batches(), choice.settings, seed=seed), name)


def class_weights(masks: Sequence[Tensor], n_classes: int) -> Float[Tensor, " K"]:
    """Weights by class, of masks ``[B D H W]``: 1 / sqrt(pixels), a pixel weighs 1 on average; absent classes 0."""
    pixels = torch.stack([torch.bincount(part.flatten().long(), minlength=n_classes) for part in masks]).sum(0).double()
    weights = torch.where(pixels > 0, pixels.clamp_min(1).rsqrt(), 0.0)
    return (weights * pixels.sum() / (weights * pixels).sum()).float()


def _weighted(logits: Logits, masks: Masks, weights: Tensor) -> Float[Tensor, ""]:
    """Dice + cross-entropy whose cross-entropy has class weights."""
    log_shares = functional.log_softmax(logits, dim=1)
    plain = functional.nll_loss(log_shares, masks.long())
    return dice_cross_entropy(logits, masks) - plain + functional.nll_loss(log_shares, masks.long(), weight=weights)


@torch.no_grad()
def _objective(batches: Sequence[LabelledBatch], predict: Callable[[CachedBatch], Logits]) -> float:
    """Pooled Dice of the foreground classes over batches, mean of those that occur."""
    labels = batches[0][0].segmenter.labels
    counts: list[Counts] = [count_scores(most_likely(predict(batch)), masks, labels).sum(0) for batch, masks in batches]
    return target_dice(torch.stack(counts).sum(0), None)


TRIED = {"loss": pl.String, "learning_rate": pl.Float64, "penalty": pl.Float64, "objective": pl.Float64}


def _row(settings: InterventionFitSettings | None, objective: float) -> dict[str, object]:
    if settings is None:
        return {"loss": None, "learning_rate": None, "penalty": None, "objective": objective}
    return {
        "loss": settings.loss,
        "learning_rate": settings.learning_rate,
        "penalty": settings.penalty,
        "objective": objective,
    }


@contextmanager
def _frozen(segmenter: Segmenter) -> Iterator[None]:
    """No gradients for the network's own weights meanwhile."""
    asked = [parameter for parameter in segmenter.network.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def _thinned(slices: SliceSet) -> SliceSet:
    """At most `MAX_SLICES` and `MAX_VOXELS`, evenly spaced over each patient, with at least one of each."""
    at_most = min(MAX_SLICES, max(1, MAX_VOXELS // prod(slices.size)))
    if len(slices) <= at_most:
        return slices
    rows: list[int] = []
    for _, own in slices.index.group_by("patient", maintain_order=True):
        numbers = own["row"].to_list()
        most = max(1, len(numbers) * at_most // len(slices))
        rows += [numbers[place] for place in evenly_spaced(len(numbers), most)]
    return slices.select(sorted(rows))


def _interleaved(slices: SliceSet, seed: int) -> list[list[int]]:
    """Rows of each fold, mixed."""
    generator = torch.Generator().manual_seed(seed)
    patients = slices.index["patient"].to_list()
    units = sorted(set(patients)) if len(set(patients)) > 1 else list(range(len(slices)))
    of_row = patients if len(set(patients)) > 1 else list(range(len(slices)))
    n_folds = min(INNER_FOLDS, len(units))
    if n_folds < 2:
        raise ValueError(f"{len(slices)} labelled slice of {slices.name!r}; settings need at least 2 to be chosen on")
    order = torch.randperm(len(units), generator=generator).tolist()
    fold_of = {units[unit]: place % n_folds for place, unit in enumerate(order)}
    folds = [[row for row, unit in enumerate(of_row) if fold_of[unit] == fold] for fold in range(n_folds)]
    return [[rows[place] for place in torch.randperm(len(rows), generator=generator).tolist()] for rows in folds]
