"""Small MONAI bundles as the model zoo's schema has them: configuration, metadata, random weights of few features."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from scipy import ndimage

UNET: Mapping[str, Any] = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 6, 8],
    "strides": [2, 2],
    "num_res_units": 1,
    "norm": "batch",
}
CT = (
    {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
    {"_target_": "ScaleIntensityRanged", "keys": "@image_key", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1,
     "clip": True},
)  # fmt: skip
SLIDING: Mapping[str, Any] = {
    "_target_": "SlidingWindowInferer",
    "roi_size": [16, 16, 16],
    "sw_batch_size": 4,
    "overlap": 0.5,
}


def config(
    network: Mapping[str, Any] = UNET,
    *,
    steps: Sequence[Mapping[str, Any]] = CT,
    inferer: Mapping[str, Any] = SLIDING,
    decide: str = "softmax",
    nearest: bool = False,
    **entries: Any,
) -> dict[str, Any]:
    """An ``inference.json``; ``decide`` is softmax or sigmoid, ``entries`` are put at its top."""
    decided = {"argmax": True} if decide == "softmax" else {"threshold": 0.5}
    after = [
        {"_target_": "Activationsd", "keys": "pred", decide: True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "@image_key",
         "nearest_interp": nearest, "to_tensor": True},
        {"_target_": "AsDiscreted", "keys": "pred", **decided},
        {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x[1:]"},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"},
    ]  # fmt: skip
    loading = [
        {"_target_": "LoadImaged", "keys": "@image_key"},
        {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
    ]
    typed = {"_target_": "EnsureTyped", "keys": "@image_key", "device": "@device"}
    return {
        "imports": ["$import glob", "$import os"],
        "image_key": "image",
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": dict(network),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [*loading, *map(dict, steps), typed]},
        "inferer": dict(inferer),
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "evaluator": {"_target_": "SupervisedEvaluator", "network": "@network", "inferer": "@inferer"},
        "run": ["$@evaluator.run()"],
        **entries,
    }


def metadata(
    channels: Sequence[str] = ("image",), heads: Sequence[str] = ("background", "spleen"), shape: Sequence[Any] = ()
) -> dict[str, Any]:
    """A ``metadata.json``."""
    sides = list(shape) or [16, 16, 16]
    described = [
        {"type": "image", "num_channels": len(names), "spatial_shape": sides,
         "channel_def": {str(number): name for number, name in enumerate(names)}}
        for names in (channels, heads)
    ]  # fmt: skip
    data = {"inputs": {"image": described[0]}, "outputs": {"pred": described[1]}}
    return {"version": "0.1.0", "name": "A bundle", "network_data_format": data}


def network_of(described: Mapping[str, Any], seed: int = 0) -> torch.nn.Module:
    """The network of a definition of plain values, with random weights."""
    from monai.networks import nets

    gone = ("_target_",) if described["_target_"] == "UNETR" else ("_target_", "img_size")
    given = {key: value for key, value in described.items() if key not in gone}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made: torch.nn.Module = getattr(nets, described["_target_"].rpartition(".")[2])(**given)
        for name, values in made.named_buffers():  # a batch norm that has seen images
            if name.endswith("running_mean"):
                values.normal_(std=0.1)
    return made.eval()


def write_bundle(
    folder: Path,
    described: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    *,
    network: torch.nn.Module | None = None,
    yaml: bool = False,
) -> Path:
    """Write a bundle's folder; without a network its ``network_def`` must be of plain values."""
    import yaml as yaml_files

    described = described or config()
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    name, text = ("inference.yaml", yaml_files.safe_dump) if yaml else ("inference.json", json.dumps)
    (folder / "configs" / name).write_text(text(dict(described)))
    (folder / "configs" / "metadata.json").write_text(json.dumps(about or metadata()))
    torch.save((network or network_of(described["network_def"])).state_dict(), folder / "models" / "model.pt")
    return folder


def write_images(
    folder: Path, n: int = 1, *, shape: tuple[int, int, int] = (20, 18, 14), affine: Any = None
) -> list[Path]:
    """Write a case of ``n`` files, ``case_0000.nii.gz`` and so on; turned and not of the spacing by default."""
    folder.mkdir(parents=True, exist_ok=True)
    turned = np.array([[-1.2, 0, 0, 9], [0, 0, -2.5, 4], [0, 1.4, 0, -7], [0, 0, 0, 1.0]])
    rng = np.random.default_rng(n)
    paths = [folder / f"case_{number:04d}.nii.gz" for number in range(n)]
    for path in paths:
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
        values = smooth / smooth.std() * 60 + 50
        nibabel.Nifti1Image(values.astype(np.float32), turned if affine is None else affine).to_filename(path)
    return paths
