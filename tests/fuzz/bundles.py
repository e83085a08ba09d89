"""The fuzzer's target for MONAI bundles: inference.json or .yaml, and metadata.json."""

import json
import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.bundle_folder import CT, SLIDING, UNET, config, metadata


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that lasts as long as the process."""
    return tempfile.TemporaryDirectory(prefix="seglens-fuzz-")


def read(content: bytes) -> None:
    """`read_bundle`; after a zero byte comes metadata.json; a first byte 1 says that the configuration is YAML."""
    from seglens.foreign.bundles import CONFIGS, MAX_CHANNELS, MAX_HEADS, NETWORKS, read_bundle
    from seglens.foreign.json_fields import FieldError

    described, _, about = content.partition(b"\0")
    configs = Path(_folder().name) / "configs"
    configs.mkdir(exist_ok=True)
    for name in CONFIGS:
        (configs / name).unlink(missing_ok=True)
    yaml = described[:1] == b"\1"
    (configs / CONFIGS[yaml]).write_bytes(described[yaml:])
    (configs / "metadata.json").write_bytes(about)
    try:
        plan = read_bundle(configs.parent)
    except FieldError as error:
        assert str(configs.parent) in str(error)
        assert "; " in str(error)
        assert len(str(error)) < 5000
        return
    assert plan.network.name in NETWORKS
    assert 0 < len(plan.channels) == len(set(plan.channels)) <= MAX_CHANNELS
    assert 0 < len(plan.heads) <= MAX_HEADS
    assert sorted(plan.order) == list(range(len(plan.heads)))
    assert len(plan.codes) == len(set(plan.codes)) == len(plan.heads)
    assert plan.regions or len(plan.heads) > 1
    for call in (plan.network, *plan.transforms):
        _must_be_plain(call.arguments)
    assert all(0 <= share < 1 for share in plan.windows.overlap)
    assert all(0 <= side <= 4096 for side in plan.windows.sides)


def _must_be_plain(value: Any) -> None:
    """Numbers, texts, truths, None, lists and objects of them."""
    if isinstance(value, dict):
        for key, part in value.items():
            assert isinstance(key, str)
            _must_be_plain(part)
    elif isinstance(value, list):
        for part in value:
            _must_be_plain(part)
    else:
        assert value is None or isinstance(value, bool | int | float | str)
        assert not isinstance(value, float) or math.isfinite(value)


def seeds() -> list[bytes]:
    """Sound bundles: classes and regions, volumes and planes, references and arithmetic, JSON and YAML."""
    import yaml

    regions = metadata(("T1c", "FLAIR"), ("Tumor core", "Whole tumor", "Enhancing tumor"), ("8*n", "8*n", "8*n"))
    counted = {**UNET, "out_channels": "$len(@names) + 1 - 1", "channels": "@widths#wide"}
    entries = {"names": {"background": 0, "a": 1}, "widths": {"wide": "$[4, 2 * 4]", "b": "@widths::wide"}}
    planes = {"_target_": "SliceInferer", "roi_size": [16, "@side"], "spatial_dim": 1}
    return [
        json.dumps(described).encode() + b"\0" + json.dumps(about).encode()
        for described, about in (
            (config(), metadata()),
            (config({**UNET, "in_channels": 2, "out_channels": 3}, decide="sigmoid"), regions),
            (config(counted, **entries), {}),
            (config({**UNET, "spatial_dims": 2}, steps=CT[2:], inferer=planes, side=16), metadata()),
        )
    ] + [b"\1" + yaml.safe_dump(config(inferer={**SLIDING, "mode": "gaussian"})).encode()]
