"""Small results folders as nnU-Net v2 writes them: plans, data set, a checkpoint with its repeated names."""

import json
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from seglens.foreign.plans import read_plan
from seglens.segmenters.nnunet_network import NnunetNetwork

NAME = "nnUNetTrainer__nnUNetPlans__3d_small"
PATCH = (8, 12, 12)
LABELS = {"background": 0, "edema": 1, "core": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


def network_plan(*, kind: str = "plain", n_axes: int = 3) -> dict[str, Any]:
    """The key ``architecture`` of a configuration: three stages, slices halved once."""
    residual = kind == "residual"
    still, halved = [1] * n_axes, [2] * n_axes
    flat = [1, *[3] * (n_axes - 1)] if n_axes == 3 else [3, 3]
    settings = {
        "n_stages": 3,
        "features_per_stage": [4, 4, 6],
        "conv_op": f"torch.nn.modules.conv.Conv{n_axes}d",
        "kernel_sizes": [flat, [3] * n_axes, [3] * n_axes],
        "strides": [still, [1, *halved[1:]] if n_axes == 3 else halved, halved],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": [1, 2, 1] if residual else [2, 1, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{n_axes}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    classes = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{classes}",
        "arch_kwargs": settings,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(*, kind: str = "plain", n_axes: int = 3, scheme: str = "ZScoreNormalization") -> dict[str, Any]:
    """A ``plans.json`` of two channels, whose ``3d_small`` inherits all but its patch and network."""
    resampling = {
        f"resampling_fn_{what}{end}": value
        for what, order in (("data", 3), ("probabilities", 1))
        for end, value in (
            ("", "resample_data_or_seg_to_shape"),
            ("_kwargs", {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}),
        )
    }
    base = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH[-n_axes:]),
        "median_image_size_in_voxels": [10.0, 15.0, 14.0][-n_axes:],
        "spacing": [2.0, 1.0, 1.25][-n_axes:],
        "normalization_schemes": [scheme, scheme],
        "use_mask_for_norm": [scheme == "ZScoreNormalization"] * 2,
        **resampling,
    }
    intensities = {"mean": 90.0, "std": 40.0, "percentile_00_5": 10.0, "percentile_99_5": 200.0, "median": 80.0}
    return {
        "dataset_name": "Dataset900_Toy",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.0, 1.25],
        "original_median_shape_after_transp": [10, 15, 14],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": base,
            "3d_small": {"inherits_from": "3d_fullres", "architecture": network_plan(kind=kind, n_axes=n_axes)},
        },
        "foreground_intensity_properties_per_channel": {"0": intensities, "1": intensities},
    }


def dataset(labels: dict[str, Any] | None = None) -> dict[str, Any]:
    """A ``dataset.json``; regions where a label has several values."""
    labels = LABELS if labels is None else labels
    regions = any(isinstance(value, list) for value in labels.values())
    return {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": labels,
        **({"regions_class_order": [1, 2]} if regions else {}),
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }


def repeated(weights: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """A state dict with every name that nnU-Net's modules have for a tensor."""
    found: OrderedDict[str, torch.Tensor] = OrderedDict()
    for start in ("", "decoder."):
        for name, tensor in weights.items():
            if start and not name.startswith("encoder."):
                continue
            found[start + name] = tensor
            for own, number in ((".conv.", 0), (".norm.", 1)):
                if own in name:
                    found[start + name.replace(own, f".all_modules.{number}.")] = tensor
    return found


def write_folder(
    root: Path,
    *,
    described: dict[str, Any] | None = None,
    labels: dict[str, Any] | None = None,
    folds: tuple[str, ...] = ("0",),
    mirrors: tuple[int, ...] | None = (0, 1, 2),
) -> Path:
    """Write a results folder with random weights; fold 0 has those of seed 0, and so on."""
    folder = root / "Dataset900_Toy" / NAME
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(described or plans()))
    (folder / "dataset.json").write_text(json.dumps(dataset(labels)))
    plan = read_plan(folder, "3d_small")
    for number, fold in enumerate(folds):
        write_checkpoint(folder / f"fold_{fold}", network_of(plan, number), mirrors=mirrors)
    return folder


def network_of(plan: Any, seed: int) -> NnunetNetwork:
    """The network of a plan with weights of a seed, large enough to matter, that says each class somewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NnunetNetwork(plan.network, len(plan.channels), len(plan.heads)).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            for head in network.decoder.seg_layers.values():
                head.weight.sub_(head.weight.mean(1, keepdim=True))
                head.bias.zero_()
    return network


def write_checkpoint(folder: Path, network: torch.nn.Module, *, mirrors: tuple[int, ...] | None, **others: Any) -> None:
    """Write ``checkpoint_final.pth`` as nnU-Net does.

    NumPy's numbers and a device stand beside the weights, and a head of deep supervision among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = network.state_dict()
    deep = {name.replace("layers.1", "layers.0"): weights[name] for name in weights if "seg_layers.1" in name}
    content = {
        "network_weights": repeated({**weights, **deep}),
        "optimizer_state": torch.optim.SGD(network.parameters(), lr=0.01).state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float32(0.5), np.float64(0.25)], "epoch_end_timestamps": [1.5]},
        "_best_ema": np.float32(0.5),
        "current_epoch": 2,
        "init_args": {"plans": plans(), "configuration": "3d_small", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirrors,
    }
    torch.save({**content, **others}, folder / "checkpoint_final.pth")


def write_case(
    folder: Path,
    case: str,
    *,
    shape: tuple[int, int, int] = (14, 15, 11),
    affine: np.ndarray | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write two channels [x y z] of a case, zero at the borders, as nnU-Net names them."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    affine = np.diag([1.25, 1.0, 2.0, 1.0]) if affine is None else affine
    paths = []
    for channel in range(2):
        voxels = np.zeros(shape, np.float32)
        voxels[2:-1, 1:-2, 1:-1] = generator.normal(100, 30, tuple(n - 3 + (axis == 2) for axis, n in enumerate(shape)))
        paths.append(folder / f"{case}_{channel:04d}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(np.round(voxels, 2), affine), paths[-1])
    return paths


def write_cohort(folder: Path, name: str, n: int, *, seed: int = 0, affine: np.ndarray | None = None) -> Path:
    """Write a raw data set of ``n`` cases of 18 x 20 x 14 voxels, each with a box of edema around one of core."""
    masks = folder / "labelsTr"
    masks.mkdir(parents=True)
    for number in range(n):
        path, _ = write_case(
            folder / "imagesTr", f"{name}{number}", seed=seed + number, shape=(18, 20, 14), affine=affine
        )
        mask = np.zeros((18, 20, 14), np.uint8)
        mask[5:10, 5:11, 4:9], mask[6:9, 6:9, 5:8] = 1, 2
        nibabel.save(nibabel.Nifti1Image(mask, nibabel.load(path).affine), masks / f"{name}{number}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(dataset()))
    return folder


def changed(described: dict[str, Any], keys: str, value: Any) -> dict[str, Any]:
    """A copy of a document with one value changed; keys with dots between them."""
    copy = deepcopy(described)
    *outer, last = keys.split(".")
    place = copy
    for key in outer:
        place = place[key]
    place[last] = value
    return copy
