"""One phantom subject: every factor drawn from its own random stream, then anatomy, lesion, signal and noise."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.random import Generator, default_rng
from torch import Tensor

from seglens.cohorts.phantom.anatomy import (
    CENTRE,
    Anatomy,
    Head,
    Template,
    head,
    load_template,
    sample_anatomy,
    smooth_field,
)
from seglens.cohorts.phantom.lesions import Compartments, Lesion, compartments, grow
from seglens.cohorts.phantom.physics import Protocol, acquire, field_scale, null_ti_ms, rician
from seglens.cohorts.phantom.populations import FACTORS, POPULATIONS, PlacePrior, Population, Range

SEQUENCES = ("T1", "T1c", "T2", "FLAIR")
TUMOUR_LABELS = {0: "background", 1: "necrotic_core", 2: "edema", 3: "enhancing"}
HEALTHY_LABELS = {
    0: "background",
    1: "cortical_grey",
    2: "white_matter",
    3: "ventricles",
    4: "caudate",
    5: "lentiform",
    6: "thalamus",
    7: "cerebellum",
    8: "brainstem",
}
FIELD_OF_VIEW_MM = 208.0
HEALTHY_RANGE_MM = (-36.0, 27.0)
WHITE_MATTER_LEVEL = 500.0
"""Intensity of white matter in the files, each sequence."""

# (T1 ms at 3 T, T2 ms, proton density). White and grey: Rooney et al. 2007, Wansapura et al. (JMRI 9, 1999); deep grey is
# shorter in both (Gelman et al., MRM 45, 2001); tumour and edema: Eis et al. (MRM 34, 1995), Hattingen et al. (2013).
WHITE = (885.0, 79.0, 0.70)
GREY = (1295.0, 95.0, 0.82)
FLUID = (4300.0, 1800.0, 1.0)
CAUDATE = (1190.0, 82.0, 0.81)
LENTIFORM = (1130.0, 76.0, 0.80)
THALAMUS = (1040.0, 78.0, 0.77)
NECROSIS = (2700.0, 260.0, 0.97)
SOLID = (1650.0, 150.0, 0.90)
ENHANCING = (1450.0, 115.0, 0.87)
EDEMA = (1500.0, 165.0, 0.88)
LESION_FIELD_EXPONENT = 0.3
BLOOD_MILLIMOLAR = (0.05, 0.02)
"""Gadolinium in the capillaries of healthy grey and white matter, per volume of tissue."""


@dataclass(frozen=True)
class PhantomSubject:
    """A subject as it is written.

    Attributes:
        images: int16 [4 X Y Z], sequences in the order of `SEQUENCES`; 0 outside the brain.
        labels: uint8 [X Y Z].
        affine: float64 [4 4], voxel to mm.
        truth: what was planted, JSON-able: every factor's values and where they come from, the lesion, the slices.
    """

    images: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    truth: dict[str, Any]


def stream(seed: int, subject: int, name: str) -> Generator:
    """The random stream of one factor of one subject; no other factor draws from it."""
    digest = sha256(f"{seed}|{subject}|{name}".encode()).digest()
    return default_rng(np.frombuffer(digest, dtype=np.uint32))


def make_subject(
    priors: Population, *, seed: int, subject: int, size: int = 128, slices: int = 10, sources: Mapping[str, str]
) -> PhantomSubject:
    """Make one subject.

    Args:
        priors: what is drawn from.
        seed: the cohort's seed.
        subject: its number in the cohort.
        size: rows and columns of a slice.
        slices: number of axial slices.
        sources: factor -> the population that its prior comes from, for the record.

    Returns:
        Images, labels, affine and the planted truth.
    """
    with _one_thread(), torch.no_grad():
        return _make(priors, seed, subject, size, slices, sources)


def _make(
    priors: Population, seed: int, subject: int, size: int, slices: int, sources: Mapping[str, str]
) -> PhantomSubject:
    template = load_template()
    drawn = {name: _draw(getattr(priors, name), stream(seed, subject, name), template) for name in FACTORS}
    drawn = {name: values for name, values in drawn.items() if values is not None}
    shape = stream(seed, subject, "shape")
    skull = head(
        scale=tuple(drawn["head"]["scale"] * factor for factor in drawn["head"]["proportions"]),
        degrees=drawn["head"]["degrees"],
        displacement=smooth_field(shape, channels=3, knot_mm=32.0),
        amplitude_mm=drawn["head"]["elastic_mm"],
    )
    lesion = None
    if priors.has_lesion:
        lesion = grow(
            template,
            skull,
            drawn["place"]["template_mm"],
            core_mm=drawn["size"]["core_mm"],
            necrosis_share=drawn["enhancement"]["necrosis"],
            edema_mm=drawn["edema"]["width_mm"],
            coverage=drawn["enhancement"]["coverage"],
            irregularity=smooth_field(stream(seed, subject, "irregularity"), channels=1, knot_mm=14.0),
            pattern=smooth_field(stream(seed, subject, "pattern"), channels=1, knot_mm=18.0),
        )
    heights, gap = _plan_slices(lesion, skull, slices)
    thickness = drawn["thickness"]["slice_mm"]
    protocol = _protocol(priors, drawn["contrast"])
    pixel = FIELD_OF_VIEW_MM / size
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) * pixel - FIELD_OF_VIEW_MM / 2
    texture = smooth_field(stream(seed, subject, "texture"), channels=2, knot_mm=9.0)
    n_thin = max(1, int(np.ceil(thickness / 2)))
    signal = torch.zeros(4, slices, size, size)
    shares = torch.zeros(len(TUMOUR_LABELS if lesion else HEALTHY_LABELS), slices, size, size)
    brain = torch.zeros(slices, size, size)
    for thin in range(n_thin):
        offset = ((thin + 0.5) / n_thin - 0.5) * thickness
        z, y, x = torch.meshgrid(heights + offset, axis + CENTRE[1], axis + CENTRE[0], indexing="ij")
        points = torch.stack([x, y, z], -1).reshape(-1, 3)
        anatomy = sample_anatomy(template, skull.to_template(points))
        inside = anatomy.grey + anatomy.white + anatomy.fluid
        brain += (inside / n_thin).reshape(brain.shape)
        kept = inside > 0.02
        part = Anatomy(anatomy.grey[kept], anatomy.white[kept], anatomy.fluid[kept], anatomy.regions[:, kept])
        grown = None
        if lesion is not None:
            grown = compartments(lesion, points[kept], grey=part.grey, white=part.white, fluid=part.fluid)
        maps = tissue_maps(part, grown, drawn, protocol.tesla, texture(points[kept]))
        flat = kept.reshape(brain.shape)
        signal[:, flat] += acquire(*maps, protocol) / n_thin + water * (part.fluid * free / n_thin)
        shares[:, flat] += _label_shares(part, grown) / n_thin
    labels = shares.argmax(0).to(torch.uint8)
    labels[brain < 0.5] = 0
    images = _scan(signal, brain, drawn, protocol, seed, subject, pixel, heights)
    affine = np.diag([pixel, pixel, gap, 1.0])
    affine[:3, 3] = [float(axis[0]) + CENTRE[0], float(axis[0]) + CENTRE[1], float(heights[0])]
    truth = {
        "factors": {name: {"from": sources[name], **values} for name, values in drawn.items()},
        "slices": {"heights_mm": [float(value) for value in heights], "spacing_mm": gap, "thickness_mm": thickness},
        "lesion": None
        if lesion is None
        else {
            "seed_mm": lesion.seed,
            "core_mm": lesion.core_mm,
            "necrosis_mm": lesion.necrosis_mm,
            "whole_mm": lesion.whole_mm,
        },
    }
    return PhantomSubject(
        images=images.permute(0, 3, 2, 1).contiguous().numpy(),
        labels=labels.permute(2, 1, 0).contiguous().numpy(),
        affine=affine,
        truth=truth,
    )


def tissue_maps(
    anatomy: Anatomy,
    grown: Compartments | None,
    drawn: Mapping[str, Any],
    tesla: float,
    texture: Float[Tensor, "2 n"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """T1, T2 and proton density of points, and the gadolinium in them.

    Relaxation rates (not times) add by volume share, so a little fluid does not make a voxel look like fluid.

    Args:
        anatomy: healthy tissue.
        grown: shares that the lesion takes, or None.
        drawn: the subject's drawn values (tissue, edema, enhancement).
        tesla: field strength.
        texture: two smooth fields; the lesion is not uniform.

    Returns:
        T1 in ms, T2 in ms, proton density, gadolinium in mmol/l.
    """
    tissue = drawn["tissue"]
    white_scale = field_scale("white", tesla) * tissue["white_t1"]
    grey_scale = field_scale("grey", tesla) * tissue["grey_t1"]
    lesion_scale = (tesla / 3.0) ** LESION_FIELD_EXPONENT
    rest = 1.0
    parts: list[tuple[Tensor, tuple[float, float, float]]] = []
    if grown is not None:
        strength = drawn["edema"]["strength"]
        wet = tuple(base + (water - base) * strength for base, water in zip(WHITE, EDEMA, strict=True))
        for share, (t1, t2, pd) in (
            (grown.necrosis, NECROSIS),
            (grown.solid, SOLID),
            (grown.enhancing, ENHANCING),
            (grown.edema, wet),
        ):
            parts.append((share, (t1 * lesion_scale, t2, pd)))
            rest = rest - share
    deep = torch.stack([anatomy.region(name) for name in ("caudate", "lentiform", "thalamus")])
    cortex = (1 - deep.sum(0)).clamp_min(0)
    for region, (t1, t2, pd) in zip((cortex, *deep), (GREY, CAUDATE, LENTIFORM, THALAMUS), strict=True):
        parts.append((anatomy.grey * region * rest, (t1 * grey_scale, t2 * tissue["grey_t2"], pd)))
    parts.append(
        (anatomy.white * rest, (WHITE[0] * white_scale, WHITE[1] * tissue["white_t2"], WHITE[2]))
    )
    parts.append((anatomy.fluid * rest, FLUID))
    total = sum(share for share, _ in parts)
    assert isinstance(total, Tensor)
    total = total.clamp_min(1e-6)
    r1 = sum(share / t1 for share, (t1, _, _) in parts) / total
    r2 = sum(share / t2 for share, (_, t2, _) in parts) / total
    pd_map = sum(share * pd for share, (_, _, pd) in parts)
    gadolinium = (BLOOD_MILLIMOLAR[0] * anatomy.grey + BLOOD_MILLIMOLAR[1] * anatomy.white) * rest
    if grown is not None:
        lesional = 1 - rest
        r1 = r1 * torch.exp(0.10 * texture[0] * lesional)
        r2 = r2 * torch.exp(0.12 * texture[1] * lesional)
        gadolinium = gadolinium + drawn["enhancement"]["millimolar"] * grown.enhancing * torch.exp(0.25 * texture[1])
    return 1 / r1, 1 / r2, pd_map, gadolinium


def _label_shares(anatomy: Anatomy, grown: Compartments | None) -> Tensor:
    if grown is not None:
        lesion = torch.stack([grown.necrosis + grown.solid, grown.edema, grown.enhancing])
        return torch.cat([1 - lesion.sum(0, keepdim=True), lesion])
    matter = anatomy.grey + anatomy.white
    stem = anatomy.region("brainstem") * matter
    cerebellum = anatomy.region("cerebellum") * matter * (1 - anatomy.region("brainstem"))
    rest = (1 - anatomy.region("brainstem")) * (1 - anatomy.region("cerebellum"))
    thalamus = anatomy.region("thalamus") * matter * rest
    rest = rest * (1 - anatomy.region("thalamus"))
    caudate = anatomy.region("caudate") * anatomy.grey * rest
    putamen = anatomy.region("lentiform") * anatomy.grey * rest
    grey = anatomy.grey * rest - caudate - putamen
    ventricles = anatomy.region("ventricles") * anatomy.fluid
    named = torch.stack([grey, anatomy.white * rest, ventricles, caudate, putamen, thalamus, cerebellum, stem])
    return torch.cat([1 - named.sum(0, keepdim=True), named])


def _scan(
    signal: Tensor,
    brain: Tensor,
    drawn: Mapping[str, Any],
    protocol: Protocol,
    seed: int,
    subject: int,
    pixel: float,
    heights: Tensor,
) -> Tensor:
    """Blur, coil shading, noise and scaling: what the scanner adds to the signal."""
    from scipy.ndimage import gaussian_filter1d

    sigma = drawn["resolution"]["blur_mm"] / 2.355 / pixel
    blurred = gaussian_filter1d(gaussian_filter1d(signal.numpy(), sigma, axis=-1), sigma, axis=-2)
    white = acquire(
        torch.tensor([WHITE[0] * field_scale("white", protocol.tesla) * drawn["tissue"]["white_t1"]]),
        torch.tensor([WHITE[1] * drawn["tissue"]["white_t2"]]),
        torch.tensor([WHITE[2]]),
        torch.tensor([BLOOD_MILLIMOLAR[1]]),
        protocol,
    )
    level = torch.from_numpy(blurred) / white[:, :, None, None]
    shading = smooth_field(stream(seed, subject, "shading"), channels=4, knot_mm=85.0)
    slices, size = brain.shape[0], brain.shape[-1]
    coarse = torch.linspace(-FIELD_OF_VIEW_MM / 2, FIELD_OF_VIEW_MM / 2, 24)
    z, y, x = torch.meshgrid(heights, coarse + CENTRE[1], coarse + CENTRE[0], indexing="ij")
    field = shading(torch.stack([x, y, z], -1).reshape(-1, 3)).reshape(4, slices, 24, 24)
    field = torch.nn.functional.interpolate(field, size=(size, size), mode="bilinear", align_corners=True)
    level = level * torch.exp(drawn["bias"]["strength"] * field)
    draws = stream(seed, subject, "noise draws").standard_normal((2, *level.shape), dtype=np.float32)
    noisy = rician(level, torch.from_numpy(draws[0]), torch.from_numpy(draws[1]), sigma=1 / drawn["noise"]["snr"])
    scaled = (WHITE_MATTER_LEVEL * noisy).round().clamp(1, 32000).to(torch.int16)
    return torch.where(brain >= 0.5, scaled, torch.zeros_like(scaled))


def _plan_slices(lesion: Lesion | None, skull: Head, slices: int) -> tuple[Tensor, float]:
    """Heights (mm) of the slices and the distance between them: they cover the lesion, or the deep structures."""
    if lesion is None:
        low, high = (float(skull.from_template((0.0, -17.0, z))[2]) for z in HEALTHY_RANGE_MM)
    else:
        n = lesion.grid.shape[2]
        levels = torch.linspace(lesion.low[2], lesion.high[2], n)
        reached = (lesion.grid[0, 1] <= lesion.whole_mm).flatten(1).sum(1)
        held = levels[reached > 0.03 * reached.max()]
        low, high = float(held[0]), float(held[-1])
    gap = max(1.0, round((high - low) / max(1, slices - 0.5), 3))
    middle = (low + high) / 2
    return middle + (torch.arange(slices, dtype=torch.float32) - (slices - 1) / 2) * gap, gap


def _protocol(priors: Population, drawn: Mapping[str, float]) -> Protocol:
    null = null_ti_ms(FLUID[0], drawn["flair_tr_ms"])
    return Protocol(
        tesla=drawn["tesla"],
        t1_sequence=priors.contrast.t1_sequence,
        t1_tr_ms=drawn["t1_tr_ms"],
        t1_te_ms=drawn["t1_te_ms"],
        t1_flip_degrees=drawn["t1_flip_degrees"],
        t2_tr_ms=drawn["t2_tr_ms"],
        t2_te_ms=drawn["t2_te_ms"],
        flair_tr_ms=drawn["flair_tr_ms"],
        flair_te_ms=drawn["flair_te_ms"],
        flair_ti_ms=null * drawn["flair_null"],
    )


def _draw(prior: Any, generator: Generator, template: Template) -> dict[str, Any] | None:
    """Draw a factor: its ranges in their order, each from one uniform number."""
    if prior is None:
        return None
    if isinstance(prior, PlacePrior):
        return _draw_place(prior, generator, template)
    drawn: dict[str, Any] = {}
    for name, value in asdict(prior).items():
        if isinstance(value, str):
            drawn[name] = value
        else:
            drawn[name] = _uniform(generator, value)
    if "elastic_mm" in drawn:
        drawn["proportions"] = tuple(_uniform(generator, (0.97, 1.03)) for _ in range(3))
        drawn["degrees"] = tuple(float(value) for value in generator.normal(0, (3.0, 2.5, 3.5)))
    return drawn


def _draw_place(prior: PlacePrior, generator: Generator, template: Template) -> dict[str, Any]:
    pick, side = generator.random(), generator.random()
    jitter = generator.standard_normal((24, 3))
    weights = np.cumsum([weight for weight, _, _ in prior.sites])
    site = int(np.searchsorted(weights / weights[-1], pick, side="right"))
    _, centre, spread = prior.sites[min(site, len(prior.sites) - 1)]
    mirror = -1.0 if side < 0.5 else 1.0
    candidates = (np.asarray(centre) + jitter * np.asarray(spread)) * (mirror, 1.0, 1.0)
    anatomy = sample_anatomy(template, torch.from_numpy(candidates.astype(np.float32)))
    # gliomas start in white matter: the first candidate that lies there, else the whitest
    good = np.flatnonzero(anatomy.white.numpy() > 0.6)
    chosen = int(good[0]) if len(good) else int(anatomy.white.argmax())
    return {"site": site, "template_mm": tuple(float(value) for value in candidates[chosen])}


def _uniform(generator: Generator, limits: Range) -> float:
    return float(limits[0] + (limits[1] - limits[0]) * generator.random())


def sources_of(population: str, factors: Mapping[str, str]) -> dict[str, str]:
    """Which population each factor's prior comes from."""
    has = POPULATIONS[population]
    return {name: factors.get(name, population) for name in FACTORS if getattr(has, name) is not None}


@contextmanager
def _one_thread() -> Iterator[None]:
    # small tensors gain nothing from threads, and one thread gives the same bits on every machine
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
