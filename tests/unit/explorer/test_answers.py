import json

import numpy as np
import pytest

pytest.importorskip("fastapi")

from safetensors.numpy import load

from seglens.explorer.answers import arrays_answer


def test_arrays_come_back_beside_what_is_said_of_them():
    arrays = {
        "odd": np.arange(3, dtype=np.uint8),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "none": np.zeros((0, 4), dtype=np.uint16),
        "numbers": np.array([-1, 2], dtype=np.int32),
    }
    body = arrays_answer(arrays, {"name": "œdema", "of": 3}).body
    for name, array in load(body).items():
        assert array.dtype == arrays[name].dtype and np.array_equal(array, arrays[name])
    length = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + length])
    assert json.loads(header.pop("__metadata__")["about"]) == {"name": "œdema", "of": 3}
    # a browser's typed array needs its begin at a multiple of its size
    for name, entry in header.items():
        assert (8 + length + entry["data_offsets"][0]) % arrays[name].itemsize == 0
    with pytest.raises(ValueError, match="not JSON compliant"):
        arrays_answer({}, {"share": float("nan")})
