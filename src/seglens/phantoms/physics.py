"""MR signal equations: relaxation times and proton density in, image intensity out.

All of them are plain torch, so that a gradient flows to the tissue and to the protocol alike. Times are in ms, angles
in degrees. Notation of Bernstein, King and Zhou, *Handbook of MRI Pulse Sequences* (2004), chapter 14.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

ROONEY = {"grey": (1.16e-3, 0.376), "white": (0.71e-3, 0.382)}
"""T1 = a (gamma B0)^b in seconds and Hz: Rooney et al., MRM 57 (2007), table 2."""
T1Sequence = Literal["gradient_echo", "inversion_recovery", "spin_echo"]
GAMMA_HZ_PER_TESLA = 42.577e6


def spoiled_gradient_echo(
    t1_ms: Float[Tensor, "*n"],
    t2_ms: Float[Tensor, "*n"],
    pd: Float[Tensor, "*n"],
    *,
    tr_ms: float | Tensor,
    te_ms: float | Tensor,
    flip_degrees: float | Tensor,
) -> Float[Tensor, "*n"]:
    """Steady-state signal of a spoiled gradient echo (FLASH, SPGR).

    ``S = PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2)`` with ``E1 = exp(-TR / T1)`` (Ernst equation). The decay
    uses T2 in place of T2*: fields are taken as shimmed, and TE is short.

    Args:
        t1_ms: longitudinal relaxation time, > 0.
        t2_ms: transverse relaxation time, > 0.
        pd: proton density relative to water.
        tr_ms: repetition time.
        te_ms: echo time.
        flip_degrees: flip angle, 0 to 180.

    Returns:
        Signal, same shape as the maps.
    """
    flip = torch.deg2rad(torch.as_tensor(flip_degrees, dtype=t1_ms.dtype))
    e1 = torch.exp(-tr_ms / t1_ms)
    return pd * torch.sin(flip) * (1 - e1) / (1 - torch.cos(flip) * e1) * torch.exp(-te_ms / t2_ms)


def spin_echo(
    t1_ms: Float[Tensor, "*n"],
    t2_ms: Float[Tensor, "*n"],
    pd: Float[Tensor, "*n"],
    *,
    tr_ms: float | Tensor,
    te_ms: float | Tensor,
) -> Float[Tensor, "*n"]:
    """Signal of a 90-180 spin echo with TE much shorter than TR: ``S = PD (1 - exp(-TR / T1)) exp(-TE / T2)``.

    Args:
        t1_ms: longitudinal relaxation time, > 0.
        t2_ms: transverse relaxation time, > 0.
        pd: proton density relative to water.
        tr_ms: repetition time.
        te_ms: echo time.

    Returns:
        Signal, same shape as the maps.
    """
    return pd * (1 - torch.exp(-tr_ms / t1_ms)) * torch.exp(-te_ms / t2_ms)


def inversion_recovery(
    t1_ms: Float[Tensor, "*n"],
    t2_ms: Float[Tensor, "*n"],
    pd: Float[Tensor, "*n"],
    *,
    tr_ms: float | Tensor,
    te_ms: float | Tensor,
    ti_ms: float | Tensor,
) -> Float[Tensor, "*n"]:
    """Magnitude signal of an inversion-recovery spin echo (FLAIR when TI nulls the CSF).

    ``S = PD |1 - 2 exp(-TI / T1) + exp(-TR / T1)| exp(-TE / T2)``.

    Args:
        t1_ms: longitudinal relaxation time, > 0.
        t2_ms: transverse relaxation time, > 0.
        pd: proton density relative to water.
        tr_ms: repetition time.
        te_ms: echo time.
        ti_ms: inversion time.

    Returns:
        Signal, same shape as the maps.
    """
    recovered = 1 - 2 * torch.exp(-ti_ms / t1_ms) + torch.exp(-tr_ms / t1_ms)
    return pd * recovered.abs() * torch.exp(-te_ms / t2_ms)


def null_ti_ms(t1_ms: float, tr_ms: float) -> float:
    """The inversion time that nulls a tissue: ``TI = T1 (ln 2 - ln(1 + exp(-TR / T1)))``."""
    t1 = torch.tensor(t1_ms, dtype=torch.float64)
    return float(t1 * (torch.log(torch.tensor(2.0, dtype=torch.float64)) - torch.log1p(torch.exp(-tr_ms / t1))))


def with_gadolinium(
    t1_ms: Float[Tensor, "*n"], millimolar: Float[Tensor, "*n"], *, relaxivity: float = 4.1
) -> Float[Tensor, "*n"]:
    """T1 after contrast agent: ``1 / T1' = 1 / T1 + r1 C``.

    Args:
        t1_ms: T1 before the injection.
        millimolar: concentration of the agent in the tissue, mmol/l.
        relaxivity: r1 in l/(mmol s); 4.1 is gadopentetate at 1.5 T in plasma (Rohrer et al., Invest Radiol 40, 2005).

    Returns:
        The shortened T1, ms.
    """
    return 1 / (1 / t1_ms + relaxivity * millimolar / 1000)


def field_scale(tissue: Literal["grey", "white"], tesla: float) -> float:
    """T1 at a field strength as a share of T1 at 3 T (Rooney et al. 2007, power law)."""
    return float((tesla / 3.0) ** ROONEY[tissue][1])


def rooney_t1_ms(tissue: Literal["grey", "white"], tesla: float) -> float:
    """T1 of grey or white matter at a field strength (Rooney et al. 2007, table 2)."""
    scale, exponent = ROONEY[tissue]
    return float(1000 * scale * (GAMMA_HZ_PER_TESLA * tesla) ** exponent)


def rician(
    signal: Float[Tensor, "*n"], real: Float[Tensor, "*n"], imaginary: Float[Tensor, "*n"], *, sigma: float
) -> Float[Tensor, "*n"]:
    """Magnitude of a signal with complex Gaussian noise (Gudbjartsson and Patz, MRM 34, 1995).

    Args:
        signal: noise-free magnitude.
        real: standard normal draws for the real channel.
        imaginary: standard normal draws for the imaginary channel.
        sigma: noise standard deviation of each channel, in units of the signal.

    Returns:
        ``sqrt((S + sigma n_re)^2 + (sigma n_im)^2)``.
    """
    return torch.sqrt((signal + sigma * real) ** 2 + (sigma * imaginary) ** 2)


@dataclass(frozen=True)
class Protocol:
    """How the four sequences are acquired.

    Attributes:
        tesla: field strength.
        t1_sequence: how T1 and T1c are made: spoiled gradient echo, inversion recovery (MPRAGE) or spin echo.
        t1_tr_ms: repetition time of T1 and T1c.
        t1_te_ms: echo time of T1 and T1c.
        t1_ti_ms: inversion time of the inversion recovery.
        t1_flip_degrees: flip angle of the gradient echo.
        t2_tr_ms: repetition time of T2.
        t2_te_ms: echo time of T2.
        flair_tr_ms: repetition time of FLAIR.
        flair_te_ms: echo time of FLAIR.
        flair_ti_ms: inversion time of FLAIR.
    """

    tesla: float
    t1_sequence: T1Sequence
    t1_tr_ms: float
    t1_te_ms: float
    t1_ti_ms: float
    t1_flip_degrees: float
    t2_tr_ms: float
    t2_te_ms: float
    flair_tr_ms: float
    flair_te_ms: float
    flair_ti_ms: float


def acquire(
    t1_ms: Float[Tensor, "*n"],
    t2_ms: Float[Tensor, "*n"],
    pd: Float[Tensor, "*n"],
    millimolar: Float[Tensor, "*n"],
    protocol: Protocol,
) -> Float[Tensor, "4 *n"]:
    """T1, T1c, T2 and FLAIR of tissue maps, free of noise.

    Args:
        t1_ms: T1 map before contrast agent.
        t2_ms: T2 map.
        pd: proton density map.
        millimolar: concentration of gadolinium at the time of T1c.
        protocol: sequence parameters.

    Returns:
        Signals in the order T1, T1c, T2, FLAIR.
    """

    def t1_weighted(t1: Tensor) -> Tensor:
        if protocol.t1_sequence == "spin_echo":
            return spin_echo(t1, t2_ms, pd, tr_ms=protocol.t1_tr_ms, te_ms=protocol.t1_te_ms)
        if protocol.t1_sequence == "inversion_recovery":
            return inversion_recovery(
                t1, t2_ms, pd, tr_ms=protocol.t1_tr_ms, te_ms=protocol.t1_te_ms, ti_ms=protocol.t1_ti_ms
            )
        return spoiled_gradient_echo(
            t1, t2_ms, pd, tr_ms=protocol.t1_tr_ms, te_ms=protocol.t1_te_ms, flip_degrees=protocol.t1_flip_degrees
        )

    return torch.stack(
        [
            t1_weighted(t1_ms),
            t1_weighted(with_gadolinium(t1_ms, millimolar)),
            spin_echo(t1_ms, t2_ms, pd, tr_ms=protocol.t2_tr_ms, te_ms=protocol.t2_te_ms),
            inversion_recovery(
                t1_ms, t2_ms, pd, tr_ms=protocol.flair_tr_ms, te_ms=protocol.flair_te_ms, ti_ms=protocol.flair_ti_ms
            ),
        ]
    )
