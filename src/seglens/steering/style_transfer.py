"""Slices in the style of another cohort: what images tell of a cohort that has no masks.

A style is the mean amplitude of each spatial frequency (blur, noise) and the intensities inside and outside the lesion.
Labelled slices of the source cohort in the style of the target keep their masks, so that whatever is fitted or chosen
on them has seen the target's images only. After Yang and Soatto, arXiv 2004.05498 (amplitudes), and Nyul and Udupa,
Magnetic Resonance in Medicine 42:1072, 1999 (intensities).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seglens.cohorts.slice_set import SliceSet
from seglens.shapes import Images

N_QUANTILES = 201
MAX_VALUES = 200_000
"""Intensities of one region that its quantiles are taken from, evenly spaced over all of them."""
GAINS = (0.3, 3.0)
"""Limits of the factor on an amplitude."""
CONTRAST_SPREAD = 0.7
"""Chosen on pediatric to SSA phantoms, a direction that no result is quoted for."""
MIN_REGION = 500
"""Pixels below which a region has no intensities of its own: it is then left as it is."""

Quantiles = Float[Tensor, " q"]


@dataclass(frozen=True)
class Style:
    """How a cohort's slices look.

    Attributes:
        amplitudes: [C r] root mean square amplitude at each radius in the plane of frequencies, in cycles a slice.
        quantiles: of the intensities of each sequence, outside and inside the lesion (within the brain); None where
            the region has fewer than 500 pixels.
    """

    amplitudes: Float[Tensor, "C r"]
    quantiles: tuple[tuple[Quantiles | None, Quantiles | None], ...]


def style_of(images: Images, lesions: Bool[Tensor, "B D H W"]) -> Style:
    """The style of slices.

    Args:
        images: normalised, exactly 0 outside the brain.
        lesions: where the lesion is: from masks, or from a network's prediction.
    """
    inside = brains_of(images)
    regions = (inside & ~lesions, inside & lesions)
    quantiles = [(quantiles_of(of_sequence[regions[0]]), quantiles_of(of_sequence[regions[1]]))
                 for of_sequence in images.unbind(1)]  # fmt: skip
    return Style(_amplitudes(images), tuple(quantiles))


def restyled(slices: SliceSet, own: Style, other: Style) -> SliceSet:
    """Labelled slices of one cohort as they might look in another; masks, patients and order stay.

    Amplitudes first, then intensities inside and outside the lesion (by the masks). A style of its own changes nothing
    but for rounding.

    Args:
        slices: with masks; in memory afterwards.
        own: their cohort's style.
        other: the style they are given.
    """
    images, masks = slices.images(), slices.masks()
    inside = brains_of(images)
    gain = (other.amplitudes / own.amplitudes.clamp_min(1e-6)).clamp(*GAINS)
    gain[:, 0] = 1.0
    spectrum = torch.fft.rfft2(images) * gain[:, None, _radii(*images.shape[-2:])]
    filtered = torch.fft.irfft2(spectrum, s=images.shape[-2:])
    result = torch.zeros_like(images)
    regions = (inside & (masks == 0), inside & (masks > 0))
    for number in range(images.shape[1]):
        for place, region in enumerate(regions):
            values, wanted = filtered[:, number][region], other.quantiles[number][place]
            now = quantiles_of(values)
            if now is not None and wanted is not None:
                values = map_quantiles(values, now, wanted)
            result[:, number][region] = values
    return _with_images(slices, result)


def with_random_contrast(slices: SliceSet, *, seed: int, spread: float = CONTRAST_SPREAD) -> SliceSet:
    """Every class of the lesion brighter or darker by chance, in each slice and sequence, softened at its border.

    A predicted lesion looks as the network expects it to, so its style understates how differently a lesion may look;
    labelled slices of many contrasts make up for that (domain randomisation, arXiv 1703.06907).

    Args:
        slices: with masks; in memory afterwards.
        seed: of the draws.
        spread: standard deviation of what a class is moved by, in the images' normalised units.
    """
    images, masks = slices.images(), slices.masks()
    n_classes = len(slices.labels)
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randn(len(images), images.shape[1], n_classes, generator=generator) * spread
    moves[:, :, 0] = 0
    places = torch.nn.functional.one_hot(masks.long(), n_classes).movedim(-1, 1).to(images.dtype)
    soft = torch.nn.functional.avg_pool2d(places.flatten(1, 2), 3, 1, 1).view(places.shape)
    moved = images + torch.einsum("bck,bkdhw->bcdhw", moves, soft)
    moved = torch.where(brains_of(images)[:, None], moved, 0.0)
    return _with_images(slices, moved)


def brains_of(images: Images) -> Bool[Tensor, "B D H W"]:
    """Where a slice shows anything: normalised slices are exactly 0 outside the brain."""
    return (images != 0).any(dim=1)


def quantiles_of(values: Float[Tensor, " n"]) -> Quantiles | None:
    """Evenly spaced quantiles [201]; None for fewer than 500 values."""
    if len(values) < MIN_REGION:
        return None
    kept = values[:: max(1, len(values) // MAX_VALUES)].float().cpu()
    return torch.quantile(kept, torch.linspace(0, 1, N_QUANTILES))


def map_quantiles(values: Float[Tensor, "*s"], own: Quantiles, other: Quantiles) -> Float[Tensor, "*s"]:
    """Each value to the one of the same rank in another distribution: monotone, linear between the quantiles.

    Beyond the outermost quantiles of ``own`` a value keeps its distance to them.
    """
    own, other = own.to(values), other.to(values)
    upper = torch.searchsorted(own, values.contiguous()).clamp(1, len(own) - 1)
    width = own[upper] - own[upper - 1]
    share = ((values - own[upper - 1]) / width.clamp_min(1e-9)).clamp(0, 1)
    beyond = (values - own[-1]).clamp_min(0) + (values - own[0]).clamp_max(0)
    return other[upper - 1] + share * (other[upper] - other[upper - 1]) + beyond


def _with_images(slices: SliceSet, images: Images) -> SliceSet:
    index = slices.index.drop("row", "origin")
    return SliceSet.from_tensors(
        images,
        slices.masks(),
        slices.brains(),
        index,
        name=slices.name,
        sequences=slices.sequences,
        labels=slices.labels,
        preprocessing=slices.preprocessing,
    )


def _radii(rows: int, columns: int) -> Tensor:
    """Radius of each frequency of ``rfft2``, in cycles a slice of ``rows`` rows, rounded."""
    down = torch.fft.fftfreq(rows)[:, None]
    across = torch.fft.rfftfreq(columns)[None]
    return ((down.square() + across.square()).sqrt() * rows).round().long()


def _amplitudes(images: Images) -> Float[Tensor, "C r"]:
    radii = _radii(*images.shape[-2:]).flatten()
    power = torch.zeros(images.shape[1], len(radii), dtype=torch.float64)
    for part in images.split(64):
        power += torch.fft.rfft2(part).abs().double().square().sum((0, 2)).flatten(1)
    count = torch.bincount(radii).double()
    sums = torch.stack([torch.bincount(radii, weights=of_sequence) for of_sequence in power])
    return (sums / count / max(1, len(images) * images.shape[2])).sqrt().float()
