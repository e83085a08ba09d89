"""The fuzzer's target for results folders of nnU-Net: plans.json and dataset.json."""

import json
import math
import tempfile
from functools import cache
from pathlib import Path

from tests.nnunet_folder import REGIONS, dataset, plans


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that lasts as long as the process."""
    return tempfile.TemporaryDirectory(prefix="seglens-fuzz-")


def read(content: bytes) -> None:
    """`read_plan` of every configuration of plans.json; after a zero byte comes dataset.json."""
    from seglens.foreign.json_fields import FieldError
    from seglens.foreign.plans import MAX_MEDIAN_VOXELS, MAX_PATCH_VOXELS, configurations, read_plan

    described, _, data = content.partition(b"\0")
    root = Path(_folder().name)
    (root / "plans.json").write_bytes(described)
    (root / "dataset.json").write_bytes(data)
    try:
        names = configurations(root)
    except FieldError as error:
        _must_help(error, root)
        return
    for name in names[:4]:
        try:
            plan = read_plan(root, name)
        except FieldError as error:
            _must_help(error, root)
            continue
        assert 2 <= len(plan.network.features) == len(plan.network.kernels) == len(plan.network.strides)
        assert 0 < math.prod(plan.patch) <= MAX_PATCH_VOXELS and min(plan.patch) > 1
        assert 0 < math.prod(plan.median_extent or (1,)) <= MAX_MEDIAN_VOXELS
        assert set(plan.network.strides[0]) == {1}
        assert len(plan.normalisation) == len(plan.channels) == len(set(plan.channels))
        assert all(math.isfinite(size) and size > 0 for size in plan.spacing)
        assert plan.heads


def _must_help(error: ValueError, root: Path) -> None:
    """A refusal names the file, and is no longer than a screen."""
    assert str(root) in str(error)
    assert "; " in str(error)
    assert len(str(error)) < 5000


def seeds() -> list[bytes]:
    """Sound folders: plain and residual, of planes and volumes, labels and regions, both formats of plans."""
    old = plans()
    own = old["configurations"]["3d_small"]
    del own["architecture"]
    own |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [2, 1],
        "n_conv_per_stage_decoder": [1],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3]],
    }
    planes = plans(kind="residual", n_axes=2, scheme="CTNormalization")
    return [
        json.dumps(described).encode() + b"\0" + json.dumps(dataset(labels)).encode()
        for described, labels in ((plans(), None), (planes, REGIONS), (old, {"background": 0, "a": 1, "ignore": 2}))
    ]
