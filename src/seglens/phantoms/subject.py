"""One phantom subject: every factor drawn from its own random stream, then anatomy, lesion, signal and noise."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, default_rng
from torch import Tensor

from seglens.phantoms.anatomy import (
    CENTRE,
    Head,
    Template,
    load_template,
    make_head,
    sample_anatomy,
    sample_brain,
    smooth_field,
)
from seglens.phantoms.lesions import Lesion, compartments, grow
from seglens.phantoms.physics import Protocol, acquire, null_ti_ms, rician
from seglens.phantoms.populations import FACTORS, PlacePrior, Population, Range
from seglens.phantoms.tissue import (
    BLOOD_MILLIMOLAR,
    FLUID,
    HEALTHY_LABELS,
    TUMOUR_LABELS,
    TissueState,
    label_shares,
    labels_of,
    signal,
    tissue_maps,
)

SEQUENCES = ("T1", "T1c", "T2", "FLAIR")
FIELD_OF_VIEW_MM = 208.0
HEALTHY_RANGE_MM = (-28.0, 22.0)
"""Template heights between which a healthy subject is sliced: pons and cerebellum to the top of the caudate."""
WHITE_MATTER_LEVEL = 500.0
"""Intensity of white matter in the files, in each sequence."""
THIN_MM = 2.0
"""A thick slice averages thin ones of about this thickness."""

Drawn = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PhantomSubject:
    """A subject as it is written.

    Attributes:
        images: int16 [4 X Y Z], sequences in the order of `SEQUENCES`; 0 outside the brain.
        labels: uint8 [X Y Z].
        affine: float64 [4 4], voxel to mm.
        truth: what was planted, JSON-able: every factor's drawn values, the lesion, the slices.
    """

    images: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    truth: dict[str, Any]


def stream(seed: int, subject: int, name: str) -> Generator:
    """The random stream of one factor of one subject; nothing else draws from it."""
    digest = sha256(f"{seed}|{subject}|{name}".encode()).digest()
    return default_rng(np.frombuffer(digest, dtype=np.uint32))


def make_subject(priors: Population, *, seed: int, subject: int, size: int = 128, slices: int = 10) -> PhantomSubject:
    """Make one subject.

    Args:
        priors: what is drawn from; see ``populations.resolve``.
        seed: the cohort's seed.
        subject: its number in the cohort.
        size: rows and columns of a slice.
        slices: number of axial slices.

    Returns:
        Images, labels, affine and the planted truth.
    """
    with _one_thread(), torch.no_grad():
        plan = _plan(priors, seed, subject, slices)
        pure, labels, brain = _image(plan, size)
        images = _scan(plan, pure, brain)
    pixel = FIELD_OF_VIEW_MM / size
    affine = np.diag([pixel, pixel, plan.gap_mm, 1.0])
    first = (pixel - FIELD_OF_VIEW_MM) / 2
    affine[:3, 3] = [first + CENTRE[0], first + CENTRE[1], float(plan.heights[0])]
    truth: dict[str, Any] = {
        "factors": plan.drawn,
        "slices": {
            "heights_mm": [float(value) for value in plan.heights],
            "spacing_mm": plan.gap_mm,
            "thickness_mm": plan.drawn["thickness"]["slice_mm"],
        },
        "lesion": None if plan.lesion is None else plan.lesion.truth(),
    }
    return PhantomSubject(
        images=images.permute(0, 3, 2, 1).contiguous().numpy(),
        labels=labels.permute(2, 1, 0).contiguous().numpy(),
        affine=affine,
        truth=truth,
    )


@dataclass(frozen=True)
class _Plan:
    """A subject before it is imaged."""

    template: Template
    head: Head
    lesion: Lesion | None
    heights: Tensor
    gap_mm: float
    drawn: dict[str, dict[str, Any]]
    protocol: Protocol
    state: TissueState
    seed: int
    subject: int

    def stream(self, name: str) -> Generator:
        return stream(self.seed, self.subject, name)


def _plan(priors: Population, seed: int, subject: int, slices: int) -> _Plan:
    template = load_template()
    drawn: dict[str, dict[str, Any]] = {}
    for name in FACTORS:
        values = _draw(getattr(priors, name), stream(seed, subject, name), template)
        if values is not None:
            drawn[name] = values
    head = make_head(
        scale=drawn["head"]["scale"],
        proportions=drawn["head"]["proportions"],
        degrees=drawn["head"]["degrees"],
        displacement=smooth_field(stream(seed, subject, "shape"), channels=3, knot_mm=32.0),
        amplitude_mm=drawn["head"]["elastic_mm"],
    )
    lesion = None
    if priors.has_lesion:
        lesion = grow(
            template,
            head,
            drawn["place"]["template_mm"],
            core_mm=drawn["size"]["core_mm"],
            necrosis_share=drawn["enhancement"]["necrosis"],
            edema_mm=drawn["edema"]["width_mm"],
            coverage=drawn["enhancement"]["coverage"],
            irregularity=smooth_field(stream(seed, subject, "irregularity"), channels=1, knot_mm=14.0),
            pattern=smooth_field(stream(seed, subject, "pattern"), channels=1, knot_mm=18.0),
        )
    heights, gap = _plan_slices(lesion, head, slices)
    return _Plan(
        template=template,
        head=head,
        lesion=lesion,
        heights=heights,
        gap_mm=gap,
        drawn=drawn,
        protocol=_protocol(drawn["contrast"]),
        state=_tissue_state(drawn),
        seed=seed,
        subject=subject,
    )


def _image(plan: _Plan, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise-free signal [4 D H W], labels [D H W] and brain share [D H W] of the slices."""
    thickness = plan.drawn["thickness"]["slice_mm"]
    axis = ((torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5) * FIELD_OF_VIEW_MM
    texture = smooth_field(plan.stream("texture"), channels=2, knot_mm=9.0)
    n_thin = max(1, int(np.ceil(thickness / THIN_MM)))
    grid = (len(plan.heights), size, size)
    n = len(plan.heights) * size * size
    pure = torch.zeros(len(SEQUENCES), n)
    shares = torch.zeros(len(TUMOUR_LABELS if plan.lesion else HEALTHY_LABELS), n)
    brain = torch.zeros(n)
    for thin in range(n_thin):
        offset = ((thin + 0.5) / n_thin - 0.5) * thickness
        z, y, x = torch.meshgrid(plan.heights + offset, axis + CENTRE[1], axis + CENTRE[0], indexing="ij")
        points = torch.stack([x, y, z], -1).reshape(-1, 3)
        kept, anatomy = sample_brain(plan.template, plan.head, points, least=0.02)
        points = points[kept]
        grown = None if plan.lesion is None else compartments(plan.lesion, points, anatomy)
        maps = tissue_maps(anatomy, grown, plan.state, tesla=plan.protocol.tesla, texture=texture(points))
        place = kept.nonzero().squeeze(1)
        brain.index_add_(0, place, anatomy.brain / n_thin)
        pure.index_add_(1, place, signal(maps, plan.protocol) / n_thin)
        shares.index_add_(1, place, label_shares(anatomy, grown) / n_thin)
    labels = labels_of(shares)
    labels[brain < 0.5] = 0
    return pure.reshape(-1, *grid), labels.reshape(grid), brain.reshape(grid)


def _scan(plan: _Plan, pure: Tensor, brain: Tensor) -> Tensor:
    """Blur, coil shading, noise and scaling: what the scanner adds to the signal; int16 [4 D H W]."""
    from scipy.ndimage import gaussian_filter1d

    slices, size = brain.shape[0], brain.shape[-1]
    sigma = plan.drawn["resolution"]["blur_mm"] / 2.355 / (FIELD_OF_VIEW_MM / size)
    blurred = gaussian_filter1d(gaussian_filter1d(pure.numpy(), sigma, axis=-1), sigma, axis=-2)
    white = [torch.tensor([value]) for value in (*plan.state.white(plan.protocol.tesla), BLOOD_MILLIMOLAR["white"])]
    level = torch.from_numpy(blurred) / acquire(white[0], white[1], white[2], white[3], plan.protocol)[:, :, None, None]
    shading = smooth_field(plan.stream("shading"), channels=len(SEQUENCES), knot_mm=85.0)
    n = 24
    coarse = torch.linspace(-FIELD_OF_VIEW_MM / 2, FIELD_OF_VIEW_MM / 2, n)
    z, y, x = torch.meshgrid(plan.heights, coarse + CENTRE[1], coarse + CENTRE[0], indexing="ij")
    field = shading(torch.stack([x, y, z], -1).reshape(-1, 3)).reshape(len(SEQUENCES), slices, n, n)
    field = torch.nn.functional.interpolate(field, size=(size, size), mode="bilinear", align_corners=True)
    level = level * torch.exp(plan.drawn["bias"]["strength"] * field)
    draws = plan.stream("noise draws").standard_normal((2, *level.shape), dtype=np.float32)
    noisy = rician(level, torch.from_numpy(draws[0]), torch.from_numpy(draws[1]), sigma=1 / plan.drawn["noise"]["snr"])
    # skull stripping leaves zeros outside; a voxel of the brain is never zero, so the brain can be read off the image
    scaled = (WHITE_MATTER_LEVEL * noisy).round().clamp(1, 32000).to(torch.int16)
    return torch.where(brain >= 0.5, scaled, torch.zeros_like(scaled))


def _plan_slices(lesion: Lesion | None, head: Head, slices: int) -> tuple[Tensor, float]:
    """Heights (mm) of the slices and the distance between them: they cover the lesion, or the deep structures."""
    if lesion is None:
        low, high = (float(head.from_template((0.0, -17.0, z))[2]) for z in HEALTHY_RANGE_MM)
    else:
        low, high = lesion.heights_mm()
    # more than the structure: of ten slices one or two lie beyond it, so that brain without lesion is seen too
    gap = max(1.0, round(1.3 * (high - low) / slices, 3))
    return (low + high) / 2 + (torch.arange(slices, dtype=torch.float32) - (slices - 1) / 2) * gap, gap


def _tissue_state(drawn: Drawn) -> TissueState:
    tissue = drawn["tissue"]
    return TissueState(
        white_t1=tissue["white_t1"],
        grey_t1=tissue["grey_t1"],
        white_t2=tissue["white_t2"],
        grey_t2=tissue["grey_t2"],
        edema_strength=drawn["edema"]["strength"] if "edema" in drawn else 1.0,
        millimolar=drawn["enhancement"]["millimolar"] if "enhancement" in drawn else 0.0,
    )


def _protocol(drawn: Mapping[str, Any]) -> Protocol:
    null = null_ti_ms(FLUID.t1, drawn["flair_tr_ms"])
    return Protocol(
        tesla=drawn["tesla"],
        t1_sequence=drawn["t1_sequence"],
        t1_tr_ms=drawn["t1_tr_ms"],
        t1_te_ms=drawn["t1_te_ms"],
        t1_ti_ms=drawn["t1_ti_ms"],
        t1_flip_degrees=drawn["t1_flip_degrees"],
        t2_tr_ms=drawn["t2_tr_ms"],
        t2_te_ms=drawn["t2_te_ms"],
        flair_tr_ms=drawn["flair_tr_ms"],
        flair_te_ms=drawn["flair_te_ms"],
        flair_ti_ms=null * drawn["flair_null"],
    )


def _draw(prior: Any, generator: Generator, template: Template) -> dict[str, Any] | None:
    """Draw a factor: its ranges in their order, one uniform number each."""
    if prior is None:
        return None
    if isinstance(prior, PlacePrior):
        return _draw_place(prior, generator, template)
    drawn: dict[str, Any] = {n: v if isinstance(v, str) else _uniform(generator, v) for n, v in vars(prior).items()}
    if "elastic_mm" in drawn:
        drawn["proportions"] = tuple(_uniform(generator, (0.97, 1.03)) for _ in range(3))
        drawn["degrees"] = tuple(float(value) for value in generator.normal(0, (3.0, 2.5, 3.5)))
    return drawn


def _draw_place(prior: PlacePrior, generator: Generator, template: Template) -> dict[str, Any]:
    pick, side = generator.random(), generator.random()
    jitter = generator.standard_normal((24, 3))
    weights = np.cumsum([site.weight for site in prior.sites])
    chosen = prior.sites[min(int(np.searchsorted(weights / weights[-1], pick, side="right")), len(prior.sites) - 1)]
    candidates = np.asarray(chosen.centre_mm) + jitter * np.asarray(chosen.spread_mm)
    candidates = candidates * (-1.0 if side < 0.5 else 1.0, 1.0, 1.0)
    white = sample_anatomy(template, torch.from_numpy(candidates.astype(np.float32))).white.numpy()
    # gliomas start in white matter: the first candidate that lies there, else the whitest
    good = np.flatnonzero(white > 0.6)
    start = candidates[int(good[0]) if len(good) else int(white.argmax())]
    return {"site": chosen.name, "template_mm": tuple(float(value) for value in start)}


def _uniform(generator: Generator, limits: Range) -> float:
    return float(limits[0] + (limits[1] - limits[0]) * generator.random())


@contextmanager
def _one_thread() -> Iterator[None]:
    # slabs this small gain little from threads, and one thread gives the same bits on every machine
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
