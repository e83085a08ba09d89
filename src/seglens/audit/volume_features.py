"""Features of a volume by a network: areas, logits, disagreement with itself, distortion, pooled activations."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import log, log1p, nan

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from seglens.activations.cells import cell_shares
from seglens.activations.hooks import capture, edit
from seglens.audit.image_statistics import image_statistics
from seglens.audit.volume_samples import VolumeSamples
from seglens.segmenters.inference import each_batch
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images, Logits, Masks, TokenGrid, Tokens, grid_of

TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.7, 8.0)
NOISE = 0.1
"""Spread of what is added for the second pass, in standard deviations of the normalised image."""
UNSURE = 0.7
"""Confidence below which a voxel counts as unsure."""
MAX_VOXELS = 200_000
"""Of a volume, evenly drawn, for quantiles of the confidence."""


@dataclass(frozen=True)
class Probe:
    """A reconstruction that is put in the place of an activation, to see how far the prediction is distorted.

    Attributes:
        name: of the column, such as ``dictionary``.
        hookpoint: whose activation.
        reconstruct: from tokens [n d] to as many.
    """

    name: str
    hookpoint: str
    reconstruct: Callable[[Tokens], Tokens]


@dataclass(frozen=True, eq=False)
class VolumeFeatures:
    """Features of one volume.

    Attributes:
        numbers: name to value; NaN where it is undefined. ``truth.`` columns only where there are masks.
        dense: pooled channels of the hookpoints, one after the other: over all tokens, then over the tokens that the
            predicted foreground covers (0 where there is none).
        latents: pooled codes of the dictionary in the same two ways; empty without one.
    """

    numbers: Mapping[str, float]
    dense: Float[np.ndarray, " d"]
    latents: Float[np.ndarray, " m"]


@dataclass
class _Sums:
    """Sums over the batches of a volume."""

    counts: dict[str, float] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    confidence: list[Tensor] = field(default_factory=list)

    def add(self, name: str, value: float | int | Tensor) -> None:
        self.counts[name] = self.counts.get(name, 0.0) + float(value)

    def extend(self, name: str, values: Tensor) -> None:
        self.vectors[name] = self.vectors[name] + values if name in self.vectors else values

    def dice(self, name: str) -> float:
        """2 times what both have, by what each has; NaN where neither has any."""
        both = self.counts[f"{name}.sizes"]
        return 2 * self.counts[f"{name}.common"] / both if both > 0 else nan


@torch.no_grad()
def volume_features(
    segmenter: Segmenter,
    samples: VolumeSamples,
    *,
    hookpoints: Sequence[str],
    probes: Sequence[Probe] = (),
    encode: tuple[str, Callable[[Tokens], Tensor]] | None = None,
    batch_size: int = 8,
) -> VolumeFeatures:
    """Run the network over a volume's samples, as they are and changed, and pool what it says.

    Passes: as it is; turned round along columns; with noise; with each probe's reconstruction.

    Args:
        segmenter: on the device where it is to run.
        samples: of one volume.
        hookpoints: whose channels are pooled.
        probes: see `Probe`.
        encode: a hookpoint among ``hookpoints`` and what makes dense codes [n m] of its tokens.
        batch_size: samples at a time.
    """
    sums = _Sums()
    passes = _Passes(segmenter, samples, hookpoints, probes, encode)
    for _, part in each_batch(passes.sums, segmenter, samples, batch_size=batch_size, what="features"):
        for name, value in part.counts.items():
            sums.add(name, value)
        for name, values in part.vectors.items():
            sums.extend(name, values)
        sums.confidence += part.confidence
    numbers = image_statistics(samples, segmenter.sequences) | _numbers(sums, segmenter, samples, probes)
    return VolumeFeatures(numbers, _pooled(sums, hookpoints), _pooled(sums, ["codes"] if encode else []))


@dataclass(frozen=True, eq=False)
class _Passes:
    """Passes over a batch of a volume's samples."""

    segmenter: Segmenter
    samples: VolumeSamples
    hookpoints: Sequence[str]
    probes: Sequence[Probe]
    encode: tuple[str, Callable[[Tokens], Tensor]] | None

    def sums(self, rows: Sequence[int], images: Images) -> _Sums:
        """Run all passes."""
        sums, segmenter, samples = _Sums(), self.segmenter, self.samples
        with ExitStack() as stack:
            seen = {name: stack.enter_context(capture(segmenter, name)) for name in self.hookpoints}
            logits = segmenter.logits(images)
        predicted = segmenter.decision.labels(logits)
        inside = samples.inside[list(rows)].to(images.device)
        _areas(sums, segmenter, predicted, inside)
        _confidences(sums, segmenter, logits, predicted, inside)
        foreground = (predicted > 0).float()
        for name in self.hookpoints:
            _pool(sums, name, seen[name].tokens, foreground)
        if self.encode is not None:
            tokens = seen[self.encode[0]].tokens
            codes = self.encode[1](tokens.flatten(0, 3))
            _pool(sums, "codes", codes.reshape(*tokens.shape[:-1], -1), foreground)
        if samples.masks is not None:
            _truth(sums, segmenter, predicted, samples.masks[list(rows)].to(images.device))
        generator = torch.Generator().manual_seed(int(rows[0]))
        noise = NOISE * torch.randn(images.shape, generator=generator).to(images.device) * inside[:, None]
        others = {"mirror": segmenter.logits(images.flip(-1)).flip(-1), "noise": segmenter.logits(images + noise)}
        for probe in self.probes:
            with edit(segmenter, probe.hookpoint, _in_place_by(probe)):
                others[f"distortion.{probe.name}"] = segmenter.logits(images)
        for name, changed in others.items():
            _agreement(sums, name, segmenter, logits, changed)
        return sums


def _truth(sums: _Sums, segmenter: Segmenter, predicted: Masks, truth: Masks) -> None:
    for label in _labels(segmenter):
        own = segmenter.decision.belongs(truth, label)
        _overlap(sums, f"truth.{label}", segmenter.decision.belongs(predicted, label), own)
        sums.add(f"truth.{label}.size", own.sum())


def _in_place_by(probe: Probe) -> Callable[[TokenGrid], TokenGrid]:
    return lambda tokens: probe.reconstruct(tokens.flatten(0, 3)).reshape(tokens.shape).to(tokens.dtype)


def _labels(segmenter: Segmenter) -> list[int]:
    return [label for label in segmenter.labels if label]


def _overlap(sums: _Sums, name: str, first: Tensor, second: Tensor) -> None:
    sums.add(f"{name}.common", (first & second).sum())
    sums.add(f"{name}.sizes", first.sum() + second.sum())


def _areas(sums: _Sums, segmenter: Segmenter, predicted: Masks, inside: Tensor) -> None:
    from scipy.ndimage import label as numbered

    sums.add("inside", inside.sum())
    for label in _labels(segmenter):
        sums.add(f"area.{label}", segmenter.decision.belongs(predicted, label).sum())
    sums.add("samples_with", (predicted > 0).flatten(1).any(1).sum())
    sums.add("components", sum(numbered(one.numpy())[1] for one in (predicted > 0).cpu()))


def _confidences(sums: _Sums, segmenter: Segmenter, logits: Logits, predicted: Masks, inside: Tensor) -> None:
    decision = segmenter.decision
    odds = decision.log_odds(logits, None)
    sure = odds.abs().sigmoid()
    entropy = -(sure * sure.clamp_min(1e-12).log() + (1 - sure) * (1 - sure).clamp_min(1e-12).log())
    foreground = predicted > 0
    wide = functional.max_pool3d(foreground.float(), (1, 5, 5), 1, (0, 2, 2)) > 0
    narrow = -functional.max_pool3d(-foreground.float(), (1, 5, 5), 1, (0, 2, 2)) > 0
    for name, where in (("lesion", foreground), ("ring", wide & ~narrow), ("all", inside)):
        sums.add(f"{name}.n", where.sum())
        sums.add(f"{name}.sure", sure[where].sum())
        sums.add(f"{name}.entropy", entropy[where].sum())
        sums.add(f"{name}.unsure", (sure[where] < UNSURE).sum())
    sums.confidence.append(sure[foreground].cpu())
    for temperature in TEMPERATURES:
        for label in _labels(segmenter):
            likely = decision.log_odds(logits / temperature, label).sigmoid()
            mine = decision.says(logits, label)
            sums.add(f"sdc@{temperature}.{label}.common", likely[mine].sum())
            sums.add(f"sdc@{temperature}.{label}.sizes", likely.sum() + mine.sum())


def _agreement(sums: _Sums, name: str, segmenter: Segmenter, logits: Logits, changed: Logits) -> None:
    """Dice of two predictions, and cross-entropy of the changed foreground against the first."""
    decision = segmenter.decision
    predicted, other = decision.labels(logits), decision.labels(changed)
    for label in _labels(segmenter):
        _overlap(sums, f"{name}.{label}", decision.belongs(predicted, label), decision.belongs(other, label))
    first, second = decision.log_odds(logits, None).sigmoid(), decision.log_odds(changed, None)
    sums.add(f"{name}.entropy", functional.binary_cross_entropy_with_logits(second, first, reduction="sum"))
    sums.add(f"{name}.voxels", first.numel())


def _pool(sums: _Sums, name: str, tokens: TokenGrid, foreground: Float[Tensor, "B D H W"]) -> None:
    exact = tokens.double().flatten(0, 3)
    weight = cell_shares(foreground, grid_of(tokens)).double().flatten()
    sums.extend(f"{name}.all", exact.sum(0).cpu())
    sums.extend(f"{name}.lesion", (weight @ exact).cpu())
    sums.add(f"{name}.n_all", len(exact))
    sums.add(f"{name}.n_lesion", weight.sum())


def _pooled(sums: _Sums, names: Sequence[str]) -> Float[np.ndarray, " d"]:
    parts = [
        sums.vectors[f"{name}.{where}"] / max(sums.counts[f"{name}.n_{where}"], 1e-9)
        for where in ("all", "lesion")
        for name in names
    ]
    return torch.cat(parts).float().numpy() if parts else np.zeros(0, np.float32)


def _numbers(sums: _Sums, segmenter: Segmenter, samples: VolumeSamples, probes: Sequence[Probe]) -> dict[str, float]:
    counts, n = sums.counts, len(samples)
    labels = _labels(segmenter)
    names = segmenter.labels
    found: dict[str, float] = {}
    for label in labels:
        found[f"area.{names[label]}"] = log1p(counts[f"area.{label}"])
        found[f"area.{names[label]}_share"] = counts[f"area.{label}"] / max(counts["inside"], 1.0)
    found["area.components"] = log1p(counts["components"])
    found["area.samples_with"] = counts["samples_with"] / n
    for where in ("lesion", "ring", "all"):
        size = counts[f"{where}.n"]
        for what in ("sure", "entropy", "unsure"):
            found[f"logits.{where}_{what}"] = counts[f"{where}.{what}"] / size if size else nan
    sure = torch.cat(sums.confidence)[:: max(1, sum(map(len, sums.confidence)) // MAX_VOXELS)].float()
    for share in (0.05, 0.25, 0.5):
        found[f"logits.lesion_q{100 * share:02.0f}"] = float(sure.quantile(share)) if len(sure) else nan
    for temperature in TEMPERATURES:
        soft = {label: sums.dice(f"sdc@{temperature}.{label}") for label in labels}
        predicted = [soft[label] for label in labels if counts[f"area.{label}"] > 0]
        found[f"sdc@{temperature}"] = float(np.mean(predicted)) if predicted else 0.0
        for label in labels:
            found[f"sdc@{temperature}.{names[label]}"] = soft[label] if counts[f"area.{label}"] > 0 else nan
    for name in ("mirror", "noise", *(f"distortion.{probe.name}" for probe in probes)):
        column = name if "." in name else f"tta.{name}"
        dice = [value for label in labels if (value := sums.dice(f"{name}.{label}")) == value]
        found[f"{column}_dice"] = float(np.mean(dice)) if dice else nan
        found[f"{column}_entropy"] = log(counts[f"{name}.entropy"] / counts[f"{name}.voxels"] + 1e-9)
    if samples.masks is not None:
        present = [label for label in labels if counts[f"truth.{label}.size"] > 0]
        for label in labels:
            found[f"truth.{names[label]}"] = sums.dice(f"truth.{label}") if label in present else nan
            found[f"truth.{names[label]}_false"] = float(label not in present and counts[f"area.{label}"] > 0)
        own = [found[f"truth.{names[label]}"] for label in present]
        found["truth.dice"] = float(np.mean(own)) if own else nan
    return found
