"""Populations of phantoms: one set of priors per named factor, from the literature.

A population is a choice of prior for every factor, so any single difference between two populations can be switched on
alone. Every range is drawn uniformly, and every prior of a factor consumes the same random numbers: with one seed, two
populations differ subject by subject only in the factors whose priors differ.

Sources: BraTS 2021 (Baid et al., arXiv 2107.02314), BraTS-PEDs (Kazerooni et al., arXiv 2305.17033), BraTS-Africa
(Adewole et al., arXiv 2305.19369), CBTRUS (Ostrom et al., Neuro-Oncology 2021) for sites, and those at the values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from seglens.phantoms.physics import T1Sequence

Range = tuple[float, float]


@dataclass(frozen=True)
class HeadPrior:
    """Size and shape of the head: scale against the ICBM152 adult mean, elastic variation."""

    scale: Range
    elastic_mm: Range


@dataclass(frozen=True)
class TissuePrior:
    """Relaxation of healthy tissue against the adult's: T1 and T2 factors of white and of grey matter."""

    white_t1: Range
    grey_t1: Range
    white_t2: Range
    grey_t2: Range


@dataclass(frozen=True)
class Site:
    """Where tumours start: how often, MNI centre (mm, x as |x|; the side is drawn) and spread (mm)."""

    name: str
    weight: float
    centre_mm: tuple[float, float, float]
    spread_mm: tuple[float, float, float]


@dataclass(frozen=True)
class PlacePrior:
    """The sites of a population."""

    sites: tuple[Site, ...]


@dataclass(frozen=True)
class SizePrior:
    """Radius (mm) of a ball as large as the tumour core."""

    core_mm: Range


@dataclass(frozen=True)
class EdemaPrior:
    """How much larger the radius is with edema (mm), and how strongly water rises in it (1 is the adult's)."""

    width_mm: Range
    strength: Range


@dataclass(frozen=True)
class EnhancementPrior:
    """Prior of the composition of the core.

    Attributes:
        necrosis: radius of the necrosis as a share of the core's.
        coverage: share of the rest that takes up contrast agent.
        millimolar: gadolinium concentration where it does.
    """

    necrosis: Range
    coverage: Range
    millimolar: Range


@dataclass(frozen=True)
class ContrastPrior:
    """Field strength and protocol."""

    tesla: Range
    t1_sequence: T1Sequence
    t1_tr_ms: Range
    t1_te_ms: Range
    t1_ti_ms: Range
    t1_flip_degrees: Range
    t2_tr_ms: Range
    t2_te_ms: Range
    flair_tr_ms: Range
    flair_te_ms: Range
    flair_null: Range


@dataclass(frozen=True)
class BiasPrior:
    """Coil shading: standard deviation of the logarithm of the field."""

    strength: Range


@dataclass(frozen=True)
class NoisePrior:
    """Signal of white matter over the standard deviation of the noise."""

    snr: Range


@dataclass(frozen=True)
class ResolutionPrior:
    """In-plane blur: full width at half maximum, mm."""

    blur_mm: Range


@dataclass(frozen=True)
class ThicknessPrior:
    """Slice thickness, mm."""

    slice_mm: Range


@dataclass(frozen=True)
class Population:
    """One prior per factor; the four factors of the lesion are None where there is no lesion."""

    head: HeadPrior
    tissue: TissuePrior
    contrast: ContrastPrior
    bias: BiasPrior
    noise: NoisePrior
    resolution: ResolutionPrior
    thickness: ThicknessPrior
    place: PlacePrior | None = None
    size: SizePrior | None = None
    edema: EdemaPrior | None = None
    enhancement: EnhancementPrior | None = None

    @property
    def has_lesion(self) -> bool:
        """Whether its subjects have a tumour."""
        return self.place is not None


_SUPRATENTORIAL = PlacePrior(
    sites=(
        Site("frontal", 0.30, (28.0, 32.0, 18.0), (8.0, 12.0, 12.0)),
        Site("temporal", 0.28, (44.0, -18.0, -12.0), (5.0, 14.0, 6.0)),
        Site("parietal", 0.24, (30.0, -42.0, 32.0), (7.0, 10.0, 8.0)),
        Site("occipital", 0.08, (26.0, -74.0, 8.0), (6.0, 6.0, 8.0)),
        Site("insular", 0.10, (34.0, 2.0, 22.0), (5.0, 12.0, 6.0)),
    )
)
_POSTERIOR_FOSSA_AND_MIDLINE = PlacePrior(
    sites=(
        Site("pons", 0.30, (3.0, -28.0, -33.0), (3.0, 4.0, 5.0)),
        Site("vermis", 0.22, (4.0, -62.0, -30.0), (4.0, 6.0, 6.0)),
        Site("cerebellar_hemisphere", 0.18, (24.0, -60.0, -36.0), (6.0, 6.0, 5.0)),
        Site("thalamus", 0.20, (11.0, -18.0, 6.0), (3.0, 5.0, 4.0)),
        Site("hypothalamus", 0.10, (5.0, -4.0, -8.0), (3.0, 4.0, 4.0)),
    )
)

_ADULT = Population(
    head=HeadPrior(scale=(0.95, 1.04), elastic_mm=(2.0, 4.0)),
    tissue=TissuePrior(white_t1=(0.96, 1.04), grey_t1=(0.96, 1.04), white_t2=(0.95, 1.05), grey_t2=(0.95, 1.05)),
    contrast=ContrastPrior(
        tesla=(1.5, 3.0),
        t1_sequence="inversion_recovery",
        t1_tr_ms=(1900.0, 2300.0),
        t1_te_ms=(2.5, 4.5),
        t1_ti_ms=(850.0, 1000.0),
        t1_flip_degrees=(90.0, 90.0),
        t2_tr_ms=(3500.0, 5500.0),
        t2_te_ms=(85.0, 105.0),
        flair_tr_ms=(8000.0, 10000.0),
        flair_te_ms=(100.0, 130.0),
        flair_null=(0.93, 1.0),
    ),
    bias=BiasPrior(strength=(0.03, 0.08)),
    noise=NoisePrior(snr=(25.0, 45.0)),
    resolution=ResolutionPrior(blur_mm=(1.0, 1.8)),
    thickness=ThicknessPrior(slice_mm=(1.5, 3.0)),
    place=_SUPRATENTORIAL,
    size=SizePrior(core_mm=(15.0, 23.0)),
    edema=EdemaPrior(width_mm=(8.0, 14.0), strength=(0.6, 1.1)),
    enhancement=EnhancementPrior(necrosis=(0.55, 0.75), coverage=(0.8, 1.0), millimolar=(0.1, 0.4)),
)

POPULATIONS: Mapping[str, Population] = {
    "adult": _ADULT,
    "pediatric": Population(
        head=HeadPrior(scale=(0.88, 0.98), elastic_mm=(2.0, 4.0)),
        tissue=TissuePrior(white_t1=(1.08, 1.25), grey_t1=(1.02, 1.12), white_t2=(1.05, 1.2), grey_t2=(1.0, 1.1)),
        contrast=replace(
            _ADULT.contrast,
            t1_sequence="gradient_echo",
            t1_tr_ms=(9.0, 14.0),
            t1_flip_degrees=(22.0, 30.0),
        ),
        bias=_ADULT.bias,
        noise=_ADULT.noise,
        resolution=_ADULT.resolution,
        thickness=_ADULT.thickness,
        place=_POSTERIOR_FOSSA_AND_MIDLINE,
        size=SizePrior(core_mm=(13.0, 19.0)),
        edema=EdemaPrior(width_mm=(4.0, 7.0), strength=(0.7, 1.0)),
        enhancement=EnhancementPrior(necrosis=(0.2, 0.5), coverage=(0.25, 0.65), millimolar=(0.12, 0.4)),
    ),
    "ssa": Population(
        head=_ADULT.head,
        tissue=_ADULT.tissue,
        contrast=ContrastPrior(
            tesla=(0.25, 0.7),
            t1_sequence="spin_echo",
            t1_tr_ms=(400.0, 600.0),
            t1_te_ms=(10.0, 18.0),
            t1_ti_ms=(900.0, 900.0),
            t1_flip_degrees=(90.0, 90.0),
            t2_tr_ms=(3000.0, 4500.0),
            t2_te_ms=(90.0, 120.0),
            flair_tr_ms=(6500.0, 8500.0),
            flair_te_ms=(90.0, 120.0),
            flair_null=(0.62, 0.85),
        ),
        bias=BiasPrior(strength=(0.12, 0.22)),
        noise=NoisePrior(snr=(8.0, 13.0)),
        resolution=ResolutionPrior(blur_mm=(2.0, 3.2)),
        thickness=ThicknessPrior(slice_mm=(5.0, 8.0)),
        place=_SUPRATENTORIAL,
        size=SizePrior(core_mm=(19.0, 27.0)),
        edema=EdemaPrior(width_mm=(9.0, 15.0), strength=(0.6, 1.1)),
        enhancement=EnhancementPrior(necrosis=(0.55, 0.75), coverage=(0.85, 1.0), millimolar=(0.12, 0.38)),
    ),
    "healthy": Population(
        head=_ADULT.head,
        tissue=_ADULT.tissue,
        contrast=_ADULT.contrast,
        bias=_ADULT.bias,
        noise=_ADULT.noise,
        resolution=_ADULT.resolution,
        thickness=_ADULT.thickness,
    ),
}

FACTORS: tuple[str, ...] = tuple(field.name for field in fields(Population))
LESION_FACTORS = ("place", "size", "edema", "enhancement")


def resolve(population: str, factors: Mapping[str, str]) -> Population:
    """The priors of a population with some factors taken from others.

    Args:
        population: one of `POPULATIONS`.
        factors: factor name -> the population that it is taken from.

    Returns:
        The mixed priors.

    Raises:
        ValueError: an unknown population or factor, or a factor of the lesion between healthy and a tumour population.
    """
    names = ", ".join(POPULATIONS)
    if population not in POPULATIONS:
        raise ValueError(f"population {population!r} is unknown; choose one of {names}")
    base = POPULATIONS[population]
    changed: dict[str, Any] = {}
    for factor, source in factors.items():
        if factor not in FACTORS:
            raise ValueError(f"factor {factor!r} is unknown; choose among {', '.join(FACTORS)}")
        if source not in POPULATIONS:
            raise ValueError(f"factor {factor}={source!r}: that population is unknown; choose one of {names}")
        if factor in LESION_FACTORS and not (base.has_lesion and POPULATIONS[source].has_lesion):
            raise ValueError(f"factor {factor}={source} on {population}: healthy has no lesion, so it has no {factor}")
        changed[factor] = getattr(POPULATIONS[source], factor)
    return replace(base, **changed)


def sources(population: str, factors: Mapping[str, str]) -> dict[str, str]:
    """Name the population from which the prior of each factor comes."""
    return {
        name: factors.get(name, population) for name in FACTORS if getattr(POPULATIONS[population], name) is not None
    }
