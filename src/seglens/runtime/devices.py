"""Abilities of a device."""

import time
from functools import cache

import torch
from torch import Tensor

PROBE_TOKENS, PROBE_CHANNELS, PROBE_LATENTS, PROBES = 256, 320, 1024, 5
CLEARLY = 1.25
"""So many times less must a bfloat16 product cost: one that is about as fast would be chosen by chance."""


def usable_device(wanted: str) -> str:
    """The device of that name; ``auto`` takes a GPU where there is one.

    Raises:
        ValueError: this machine, or this build of torch, has no such device.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ValueError(
            f"device {wanted!r} cannot be used here ({str(error).splitlines()[0]}); give cpu, cuda, cuda:1 or auto"
        ) from None
    return wanted


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


@cache
def bf16_saves() -> bool:
    """Whether a bfloat16 matrix product costs the processor clearly less than a float32 one, as measured at first use.

    Times of the process are compared, not of the clock, so other processes beside it decide nothing. Where torch has no
    kernel for it nothing is measured: its stand-in takes a hundred times as long. What was found is part of each
    artifact's record (see `Provenance`).
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    tokens, latents = torch.ones(PROBE_TOKENS, PROBE_CHANNELS), torch.ones(PROBE_CHANNELS, PROBE_LATENTS)
    short = tokens.bfloat16(), latents.bfloat16()
    return CLEARLY * product_seconds(*short) < product_seconds(tokens, latents)


def product_seconds(a: Tensor, b: Tensor) -> float:
    """Seconds of this process that a matrix product takes: the least of some, after one that makes ready."""
    torch.mm(a, b)
    taken = []
    for _ in range(PROBES):
        start = time.process_time()
        torch.mm(a, b)
        taken.append(time.process_time() - start)
    return min(taken)
