"""Virtual hospitals: the source's volumes as another scanner might have made them, in physical units.

They are training data for the predicted Dice: their masks are known, and their images are worse in ways in which those
of a new place may be. What a disease or a population changes is not among them.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional

from seglens.audit.volume_samples import Change

SOURCE, TARGET = "source", "target"
FWHM = 2 * np.sqrt(2 * np.log(2))
"""Full width at half maximum of a Gaussian, in its standard deviations."""

Voxels = Float32[np.ndarray, "C D H W"]
Simulator = Callable[[Voxels, tuple[float, float, float], float, np.random.Generator], Voxels]
"""From raw voxels, their spacing (slices, rows, columns; mm), an amount and a generator to other voxels."""


@dataclass(frozen=True)
class Kind:
    """One way in which a scanner may differ.

    Attributes:
        name: short.
        unit: of the amounts.
        amounts: three, from mild to severe.
        simulate: see `Simulator`.
    """

    name: str
    unit: str
    amounts: tuple[float, float, float]
    simulate: Simulator


def _signal(values: Voxels) -> np.ndarray:
    """Of each sequence the median of what is brighter than a tenth of its brightest [C 1 1 1]."""
    bright = [own[own > 0.1 * np.quantile(own, 0.995)] for own in values]
    return np.array([np.median(own) if own.size else 0.0 for own in bright], np.float32)[:, None, None, None]


def add_noise(values: Voxels, _spacing: tuple[float, float, float], snr: float, random: np.random.Generator) -> Voxels:
    """Add noise at a signal-to-noise ratio: Rician to magnitudes, Gaussian to what has negative values."""
    spread = np.abs(_signal(values)) / snr
    first = values + spread * random.standard_normal(values.shape, np.float32)
    if values.min() < 0:
        return first.astype(np.float32)
    second = spread * random.standard_normal(values.shape, np.float32)
    return np.hypot(first, second).astype(np.float32)


def blur(values: Voxels, spacing: tuple[float, float, float], fwhm_mm: float, _random: np.random.Generator) -> Voxels:
    """Blur in the plane by a Gaussian of a full width at half maximum."""
    return _smoothed(values, (0.0, fwhm_mm / FWHM / spacing[1], fwhm_mm / FWHM / spacing[2]))


def thicken(
    values: Voxels, spacing: tuple[float, float, float], fwhm_mm: float, _random: np.random.Generator
) -> Voxels:
    """Blur across slices, as a thicker slice profile does."""
    return _smoothed(values, (fwhm_mm / FWHM / spacing[0], 0.0, 0.0))


def coarsen(
    values: Voxels, spacing: tuple[float, float, float], side_mm: float, _random: np.random.Generator
) -> Voxels:
    """Sample the plane in larger pixels, and interpolate back to the grid."""
    shape = (values.shape[2], values.shape[3])
    fewer = [max(2, round(n * min(side / side_mm, 1.0))) for n, side in zip(shape, spacing[1:], strict=True)]
    if tuple(fewer) == shape:
        return values
    small = functional.interpolate(torch.from_numpy(values), fewer, mode="bilinear", antialias=True)
    return functional.interpolate(small, shape, mode="bilinear").numpy()


def shade(values: Voxels, _spacing: tuple[float, float, float], reach: float, random: np.random.Generator) -> Voxels:
    """Multiply by a smooth field, the same for all sequences, from 1 - reach to 1 + reach."""
    axes = [np.linspace(-1, 1, n) for n in values.shape[1:]]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    a, b, c, d, e, f = random.standard_normal(6)
    field = a * z + b * y + c * x + d * x * y + e * (x**2 - 1 / 3) + f * (y**2 - 1 / 3)
    return (values * (1 + reach * field / max(float(np.abs(field).max()), 1e-9))).astype(np.float32)


def bend(values: Voxels, _spacing: tuple[float, float, float], octaves: float, random: np.random.Generator) -> Voxels:
    """Bend the intensities of each sequence by a power of 2 to plus or minus ``octaves``; order is kept."""
    changed = []
    for own in values:
        low, high = float(own.min()), float(np.quantile(own, 0.999))
        share = np.clip((own - low) / max(high - low, 1e-9), 0, None)
        changed.append(low + (high - low) * share ** (2 ** (octaves * random.choice([-1, 1]))))
    return np.stack(changed).astype(np.float32)


def _smoothed(values: Voxels, spread: tuple[float, float, float]) -> Voxels:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values, (0.0, *spread), mode="nearest").astype(np.float32)


KINDS: tuple[Kind, ...] = (
    Kind("noise", "signal-to-noise ratio", (12.0, 5.0, 2.0), add_noise),
    Kind("blur", "mm full width", (2.0, 5.0, 9.0), blur),
    Kind("thickness", "mm slice profile", (5.0, 10.0, 20.0), thicken),
    Kind("resolution", "mm pixel", (2.0, 4.0, 7.0), coarsen),
    Kind("shading", "share", (0.3, 0.6, 0.9), shade),
    Kind("contrast", "octaves of gamma", (0.5, 1.0, 1.8), bend),
)
PAIR = "pair"
"""Kind of a hospital that differs in two ways."""


@dataclass(frozen=True)
class Hospital:
    """One virtual hospital.

    Attributes:
        steps: how its scanner differs, and by how much in the kind's unit; one, or two that are done in turn.
    """

    steps: tuple[tuple[Kind, float], ...]

    @property
    def name(self) -> str:
        """Kind, then amount; of a pair both kinds with theirs."""
        if len(self.steps) == 1:
            kind, amount = self.steps[0]
            return f"{kind.name} {amount:g}"
        return f"{PAIR} {' + '.join(f'{kind.name} {amount:g}' for kind, amount in self.steps)}"

    def change(self, volume: str) -> Change:
        """The change of a volume's voxels, always the same for the same volume; unknown spacing counts as 1 mm."""

        def changed(values: Voxels, spacing: tuple[float, ...]) -> Voxels:
            random = np.random.default_rng(zlib.crc32(f"{self.name}|{volume}".encode()))
            slices, rows, columns = spacing if len(spacing) == 3 else (1.0, 1.0, 1.0)
            for kind, amount in self.steps:
                values = kind.simulate(values, (slices, rows, columns), amount, random)
            return values

        return changed


def _all_hospitals() -> tuple[Hospital, ...]:
    """Each kind at each amount, then every kind with the next and with the one after that."""
    n = len(KINDS)
    singles = [Hospital(((kind, amount),)) for level in range(3) for kind in KINDS for amount in (kind.amounts[level],)]
    pairs = [
        Hospital(((first, first.amounts[level]), (second, second.amounts[2 - level % 2])))
        for level, apart in ((1, 1), (2, 2))
        for number, first in enumerate(KINDS)
        for second in (KINDS[(number + apart) % n],)
    ]
    return (*singles, *pairs)


HOSPITALS = _all_hospitals()


def hospitals_of(patients: Sequence[str], each: int) -> dict[str, tuple[Hospital, ...]]:
    """Deal virtual hospitals to patients, so that all come up about as often, whatever the patients' order.

    Args:
        patients: of the source; a patient may stand there more than once.
        each: hospitals a patient, 0 to 30.

    Raises:
        ValueError: another number.
    """
    if not 0 <= each <= len(HOSPITALS):
        raise ValueError(f"{each} virtual hospitals a patient; give 0 to {len(HOSPITALS)}")
    order = np.random.default_rng(0).permutation(len(HOSPITALS))
    return {
        name: tuple(HOSPITALS[order[(number * each + turn) % len(HOSPITALS)]] for turn in range(each))
        for number, name in enumerate(sorted(set(patients)))
    }
