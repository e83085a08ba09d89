"""Tissue of points of a subject: relaxation times, contrast agent, and the label that they get."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from seglens.phantoms.anatomy import Anatomy
from seglens.phantoms.lesions import Compartments
from seglens.phantoms.physics import Protocol, acquire, field_scale

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
DEEP_GREY = ("caudate", "lentiform", "thalamus")


class Relaxation(NamedTuple):
    """A tissue at 3 T: T1 and T2 in ms, proton density relative to water."""

    t1: float
    t2: float
    pd: float


# White and grey: Rooney et al. (MRM 57, 2007) and Wansapura et al. (JMRI 9, 1999); deep grey, shorter for its iron:
# Gelman et al. (MRM 45, 2001); tumour and edema: Eis et al. (MRM 34, 1995), Hattingen et al. (Neuro-Oncology 15, 2013).
WHITE = Relaxation(885.0, 79.0, 0.70)
GREY = Relaxation(1295.0, 95.0, 0.82)
FLUID = Relaxation(4300.0, 1800.0, 1.0)
DEEP = {
    "caudate": Relaxation(1220.0, 84.0, 0.82),
    "lentiform": Relaxation(1140.0, 76.0, 0.80),
    "thalamus": Relaxation(1080.0, 80.0, 0.78),
}
NECROSIS = Relaxation(2700.0, 260.0, 0.97)
SOLID = Relaxation(1650.0, 150.0, 0.90)
ENHANCING = Relaxation(1450.0, 115.0, 0.87)
EDEMA = Relaxation(1500.0, 165.0, 0.88)

LESION_FIELD_EXPONENT = 0.3
"""T1 of tumours and edema rises with the field more slowly than the parenchyma's, for they hold more free water."""
BLOOD_MILLIMOLAR = {"grey": 0.04, "white": 0.015}
"""Gadolinium in the capillaries per volume of tissue: a blood share of 4 and 2% holding about 1 mmol/l."""


class TissueState(NamedTuple):
    """A subject's own tissue: T1 and T2 factors against the adult's, the lesion's water and uptake.

    Attributes:
        white_t1: factor on the T1 of white matter.
        grey_t1: factor on the T1 of all grey matter.
        white_t2: factor on the T2 of white matter.
        grey_t2: factor on the T2 of all grey matter.
        edema_strength: 0 leaves white matter as it is, 1 is the full change to edema.
        millimolar: gadolinium in enhancing tumour.
    """

    white_t1: float
    grey_t1: float
    white_t2: float
    grey_t2: float
    edema_strength: float = 1.0
    millimolar: float = 0.0

    def white(self, tesla: float) -> Relaxation:
        """White matter of this subject at a field strength."""
        return Relaxation(WHITE.t1 * field_scale("white", tesla) * self.white_t1, WHITE.t2 * self.white_t2, WHITE.pd)


class TissueMaps(NamedTuple):
    """Maps of everything but free fluid, and the share of free fluid.

    Attributes:
        t1_ms: T1 before contrast agent.
        t2_ms: T2.
        pd: proton density, lower where part of the point is fluid or outside the brain.
        millimolar: gadolinium.
        fluid: share of cerebrospinal fluid.
    """

    t1_ms: Float[Tensor, " n"]
    t2_ms: Float[Tensor, " n"]
    pd: Float[Tensor, " n"]
    millimolar: Float[Tensor, " n"]
    fluid: Float[Tensor, " n"]


def tissue_maps(
    anatomy: Anatomy, grown: Compartments | None, state: TissueState, *, tesla: float, texture: Float[Tensor, "2 n"]
) -> TissueMaps:
    """Relaxation maps of points.

    Relaxation rates (1 / T) add by volume share within the parenchyma. Fluid stays apart, because it does not exchange
    with tissue within an echo: its *signal* is added (see `signal`), else every wet border would shine on FLAIR.

    Args:
        anatomy: healthy tissue.
        grown: shares that the lesion takes, or None.
        state: the subject's tissue.
        tesla: field strength.
        texture: two smooth fields; a lesion is not uniform.

    Returns:
        The maps.
    """
    parts: list[tuple[Tensor, Relaxation]] = []
    rest = torch.ones_like(anatomy.grey)
    if grown is not None:
        wet = [base + (water - base) * state.edema_strength for base, water in zip(WHITE, EDEMA, strict=True)]
        slower = (tesla / 3.0) ** LESION_FIELD_EXPONENT
        for share, tissue in (
            (grown.necrosis, NECROSIS),
            (grown.solid, SOLID),
            (grown.enhancing, ENHANCING),
            (grown.edema, Relaxation(*wet)),
        ):
            parts.append((share, tissue._replace(t1=tissue.t1 * slower)))
            rest = rest - share
    deep = torch.stack([anatomy.region(name) for name in DEEP_GREY])
    deep = deep / deep.sum(0).clamp_min(1)
    greys = [GREY, *(DEEP[name] for name in DEEP_GREY)]
    scale = field_scale("grey", tesla) * state.grey_t1
    for share, tissue in zip((1 - deep.sum(0), *deep), greys, strict=True):
        parts.append((share * anatomy.grey * rest, Relaxation(tissue.t1 * scale, tissue.t2 * state.grey_t2, tissue.pd)))
    parts.append((anatomy.white * rest, state.white(tesla)))

    def total(values: list[Tensor]) -> Tensor:
        return torch.stack(values).sum(0)

    volume = total([share for share, _ in parts]).clamp_min(1e-6)
    r1 = total([share / tissue.t1 for share, tissue in parts]) / volume + 1e-7
    r2 = total([share / tissue.t2 for share, tissue in parts]) / volume + 1e-7
    pd = total([share * tissue.pd for share, tissue in parts])
    gadolinium = (BLOOD_MILLIMOLAR["grey"] * anatomy.grey + BLOOD_MILLIMOLAR["white"] * anatomy.white) * rest
    if grown is not None:
        r1 = r1 * torch.exp(0.10 * texture[0] * (1 - rest))
        r2 = r2 * torch.exp(0.12 * texture[1] * (1 - rest))
        gadolinium = gadolinium + state.millimolar * grown.enhancing * torch.exp(0.25 * texture[1])
    return TissueMaps(1 / r1, 1 / r2, pd, gadolinium / volume, anatomy.fluid * rest)


def signal(maps: TissueMaps, protocol: Protocol) -> Float[Tensor, "4 n"]:
    """T1, T1c, T2 and FLAIR of points: the parenchyma's signal plus the fluid's, by volume."""
    water = acquire(
        torch.tensor([FLUID.t1]), torch.tensor([FLUID.t2]), torch.tensor([FLUID.pd]), torch.zeros(1), protocol
    )
    return acquire(maps.t1_ms, maps.t2_ms, maps.pd, maps.millimolar, protocol) + water * maps.fluid


def label_shares(anatomy: Anatomy, grown: Compartments | None) -> Float[Tensor, "classes n"]:
    """Volume share of each label at points.

    Args:
        anatomy: healthy tissue.
        grown: the lesion's shares; None asks for the anatomical labels.

    Returns:
        Shares in the order of `TUMOUR_LABELS` or `HEALTHY_LABELS`.
    """
    if grown is not None:
        lesion = torch.stack([grown.necrosis + grown.solid, grown.edema, grown.enhancing])
        return torch.cat([1 - lesion.sum(0, keepdim=True), lesion])
    matter = anatomy.grey + anatomy.white
    named, free = {}, torch.ones_like(matter)
    for name in ("brainstem", "cerebellum", "thalamus", "caudate", "lentiform"):
        taken = anatomy.region(name) * free
        free = free - taken
        # the lentiform nucleus holds the pallidum, half white to the tissue maps; capsules are wholly white
        inside = anatomy.grey * (1 + anatomy.white) if name in {"caudate", "lentiform"} else matter
        named[name] = taken * inside
        if name in {"caudate", "lentiform"}:
            free = free + taken * (1 - inside)
    named["cortical_grey"] = anatomy.grey * free
    named["white_matter"] = anatomy.white * free
    named["ventricles"] = anatomy.region("ventricles") * anatomy.fluid
    shares = torch.stack([named[name] for value, name in HEALTHY_LABELS.items() if value])
    return torch.cat([1 - shares.sum(0, keepdim=True), shares])


def labels_of(shares: Float[Tensor, "classes *grid"]) -> UInt8[Tensor, "*grid"]:
    """The label of each voxel from the shares of its volume.

    Tumour labels are nested as in BraTS: half of the voxel is lesion; more of that is core than edema; more of the core
    enhances than does not. So what the core is made of never moves the border of the edema. Anatomical labels go to the
    largest share.

    Args:
        shares: as `label_shares` gives them, averaged over the voxel.

    Returns:
        Label values.
    """
    if len(shares) != len(TUMOUR_LABELS):
        # as argmax, in a fifth of the time
        return shares.max(0).indices.to(torch.uint8)
    _, inner, edema, enhancing = shares
    core = torch.where(enhancing > inner, 3, 1)
    lesion = torch.where(inner + enhancing > edema, core, 2)
    return torch.where(inner + enhancing + edema > 0.5, lesion, 0).to(torch.uint8)
