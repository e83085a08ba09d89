"""Answers of the API in bytes: named arrays as one safetensors file, with what is said of them in its metadata."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import Response
from safetensors.numpy import save

MEDIA_TYPE = "application/octet-stream"
BINARY: dict[int | str, dict[str, Any]] = {200: {"content": {MEDIA_TYPE: {}}}}


def arrays_answer(arrays: Mapping[str, np.ndarray], about: Any = None) -> Response:
    """Answer with arrays and anything JSON-able.

    Args:
        arrays: of type uint8, uint16, int32, uint32 or float32, which browsers have a typed array for.
        about: JSON-able, without NaN; the entry "about" of the file's metadata, as JSON.
    """
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    dense = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return Response(save(dense, metadata={"about": text}), media_type=MEDIA_TYPE)
