"""Dictionaries as SAELens folders: ``cfg.json`` and ``sae_weights.safetensors``, architecture ``jumprelu``.

A reader of that format knows neither our centre nor our scale, so both are folded into the weights; its inference on
raw activations then equals ours. They stand in the metadata too, from where our own import takes them back.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from seglens.artifacts import write_text_whole
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.foreign.json_text import read_json
from seglens.foreign.tensors import read_safetensors
from seglens.runtime.atomic import whole_file

CONFIGURATION = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
OURS = "seglens"
FORMAT = "6.0.0"
"""Layout of the cfg.json written here; sae-lens takes a file without it for an older one and drops the metadata."""
MAX_FLOAT32, MIN_FLOAT32 = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
_Finite = Annotated[float, Field(allow_inf_nan=False, ge=-MAX_FLOAT32, le=MAX_FLOAT32)]


class _Own(BaseModel):
    """Description of a dictionary of ours, as `export_saelens` writes it."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    scale: Annotated[float, Field(allow_inf_nan=False, ge=MIN_FLOAT32, le=MAX_FLOAT32)]
    centre: list[_Finite]
    k: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    hookpoint: str = ""
    segmenter_hash: str = ""
    store_hash: str = ""


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    seglens: _Own | None = None
    hook_name: str | None = None
    k: Annotated[int, Field(ge=1, lt=2**31)] | None = None


@torch.no_grad()
def export_saelens(dictionary: SparseAutoencoder, folder: Path) -> Path:
    """Write a dictionary as a SAELens folder.

    With ``x = (h - centre) * scale`` folded in: ``W_enc * scale``, ``W_dec / scale``, ``b_dec / scale + centre`` (which
    the format subtracts from its input), ``b_enc`` as it is, and theta for every latent.

    Args:
        dictionary: what is written.
        folder: made where it is missing.

    Returns:
        The folder.

    Raises:
        ValueError: the folder already holds a dictionary.
    """
    if (folder / WEIGHTS).exists() or (folder / CONFIGURATION).exists():
        raise ValueError(f"{folder} already holds {CONFIGURATION} or {WEIGHTS}; give another folder")
    scale = dictionary.scale
    tensors = {
        "W_enc": dictionary.W_enc * scale,
        "b_enc": dictionary.b_enc,
        "W_dec": dictionary.W_dec / scale,
        "b_dec": dictionary.b_dec / scale + dictionary.centre,
        "threshold": dictionary.theta.expand(dictionary.n_latents),
    }
    # one storage a tensor: safetensors refuses views of one another
    contiguous = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with whole_file(folder / WEIGHTS) as partial:
        save_file(contiguous, partial)
    description = dictionary.description() | {"scale": float(scale), "centre": dictionary.centre.tolist()}
    configuration = {
        "architecture": "jumprelu",
        "d_in": dictionary.d_in,
        "d_sae": dictionary.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": FORMAT, "hook_name": dictionary.hookpoint, OURS: description},
    }
    text = json.dumps(configuration, indent=1, sort_keys=True, allow_nan=False)
    write_text_whole(folder / CONFIGURATION, text + "\n")
    return folder


@torch.no_grad()
def import_saelens(folder: Path, *, k: int | None = None, hookpoint: str | None = None) -> SparseAutoencoder:
    """Read a SAELens folder of architecture ``jumprelu`` with one threshold for all latents (as BatchTopK gives).

    Args:
        folder: with ``cfg.json`` and ``sae_weights.safetensors``.
        k: the average L0, for a folder that does not say it; None: taken from its metadata, 1 where it is not there.
        hookpoint: where the activations come from; None: taken from its metadata.

    Returns:
        A dictionary whose codes and reconstructions of raw activations are those of the folder's. Of a foreign one,
        centre is 0, scale 1 and decoder rows have the length they had.

    Raises:
        ValueError: files are missing or damaged, another architecture or an option that changes inference, shapes that
            do not fit, or thresholds that differ between latents.
    """
    configuration, tensors = _read(folder)
    _check(folder, configuration, tensors)
    d_in, n_latents = tensors["W_enc"].shape
    try:
        metadata = _Metadata.model_validate(configuration.get("metadata") or {})
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in ("metadata", *fault["loc"]))
        raise ValueError(f"{folder}: {key} in {CONFIGURATION}: {fault['msg']}; export the dictionary again") from None
    own = metadata.seglens
    if own is not None and len(own.centre) != d_in:
        raise ValueError(f"{folder}: metadata.{OURS}.centre has {len(own.centre)} numbers, d_in is {d_in}")
    own_k, own_hookpoint = (own.k, own.hookpoint) if own else (None, "")
    dictionary = SparseAutoencoder(
        d_in,
        n_latents,
        k=k or own_k or metadata.k or 1,
        seed=own.seed if own else 0,
        hookpoint=hookpoint or own_hookpoint or metadata.hook_name or "",
        segmenter_hash=own.segmenter_hash if own else "",
        store_hash=own.store_hash if own else "",
    )
    if own:
        dictionary.scale.fill_(own.scale)
        dictionary.centre.copy_(torch.tensor(own.centre))
    scale, centre = dictionary.scale, dictionary.centre
    dictionary.W_enc.data.copy_(tensors["W_enc"] / scale)
    dictionary.W_dec.data.copy_(tensors["W_dec"] * scale)
    dictionary.b_dec.data.copy_((tensors["b_dec"] - centre) * scale)
    b_enc = tensors["b_enc"]
    if not configuration.get("apply_b_dec_to_input", True):
        # ours takes b_dec off its input; what that takes off the pre-activations is given back
        b_enc = b_enc + tensors["b_dec"] @ tensors["W_enc"]
    dictionary.b_enc.data.copy_(b_enc)
    dictionary.theta.copy_(tensors["threshold"][0])
    if not all(bool(tensor.isfinite().all()) for tensor in dictionary.state_dict().values()):
        raise ValueError(f"{folder}: with its scale and centre the weights leave the range of float32; export it again")
    return dictionary


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    missing = [name for name in (CONFIGURATION, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: {' and '.join(missing)} missing; a SAELens folder has {CONFIGURATION} and {WEIGHTS}"
        )
    try:
        configuration = read_json(folder / CONFIGURATION)
        tensors = read_safetensors(folder / WEIGHTS)
    except ValueError as error:
        raise ValueError(f"{folder}: cannot be read ({error}); download or export it again") from error
    if not isinstance(configuration, dict):
        raise ValueError(f"{folder}: {CONFIGURATION} holds a {type(configuration).__name__}, not an object")
    return configuration, {name: tensor.float() for name, tensor in tensors.items()}


def _check(folder: Path, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    wrong = [
        f"{key} is {configuration.get(key, default)!r}, only {default!r} is understood"
        for key, default in [("normalize_activations", "none"), ("reshape_activations", "none")]
        if configuration.get(key, default) != default
    ]
    if not isinstance(configuration.get("apply_b_dec_to_input", True), bool):
        wrong.append(f"apply_b_dec_to_input is {configuration['apply_b_dec_to_input']!r}, only true and false are")
    if configuration.get("architecture") != "jumprelu":
        wrong.append(f"architecture is {configuration.get('architecture')!r}, only 'jumprelu' is understood")
    if set(tensors) != set(NAMES):
        wrong.append(f"tensors are {sorted(tensors)}, expected {sorted(NAMES)}")
    else:
        d_in, m = configuration.get("d_in"), configuration.get("d_sae")
        expected = {"W_enc": (d_in, m), "b_enc": (m,), "W_dec": (m, d_in), "b_dec": (d_in,), "threshold": (m,)}
        wrong += [
            f"{name} is {tuple(tensors[name].shape)}, {CONFIGURATION} says {shape}"
            for name, shape in expected.items()
            if tuple(tensors[name].shape) != shape
        ]
        wrong += [
            f"{name} has values that are not finite" for name in NAMES if not bool(tensors[name].isfinite().all())
        ]
        threshold = tensors["threshold"]
        if threshold.numel() and float(threshold.min()) != float(threshold.max()):
            wrong.append(
                f"thresholds differ between latents ({float(threshold.min()):g} to {float(threshold.max()):g}), "
                "one for all is needed"
            )
        if threshold.numel() and float(threshold.min()) < 0:
            wrong.append(f"the threshold is {float(threshold.min()):g}, it must be at least 0")
    if wrong:
        raise ValueError(f"{folder}: {'; '.join(wrong)}")
