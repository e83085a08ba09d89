"""Abilities of a device."""

import torch


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
