import json
from pathlib import Path

import numpy as np
import pytest

from seglens.foreign.json_text import JsonError, parse_json, read_json


def test_sound_text_is_what_the_standard_library_reads(tmp_path: Path) -> None:
    content = {"a": [1, -2.5, 1e-7, None, True, '\u00e9{}[]:,"'], "b": {"a": {"a": []}}, "": {}}
    for indent in (None, 1):
        text = json.dumps(content, indent=indent)
        assert parse_json(text) == json.loads(text) == content
        (tmp_path / "a.json").write_text(text, encoding="utf-8-sig")  # as some editors write it
        assert read_json(tmp_path / "a.json") == content


def test_a_key_twice_is_found_wherever_it_is() -> None:
    chance = np.random.default_rng(0)
    for _ in range(50):
        keys = [str(key) for key in chance.permutation(9)]
        first, second = sorted(chance.choice(10, 2, replace=False).tolist())
        keys = [*keys[:first], "x", *keys[first:]]
        keys.insert(second, "x")
        lines = [number for number, key in enumerate(keys, start=2) if key == "x"]
        text = "{\n" + ",\n".join(f'"{key}": {{"x": ["x", {{"y": 1}}]}}' for key in keys) + "}"
        with pytest.raises(
            JsonError, match=f"'x' stands there twice, in the lines {lines[0]} and {lines[1]}; keep one"
        ):
            parse_json(text)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(JsonError, match=r"a\.json cannot be read as JSON .*No such file.*; mend it"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(JsonError, match="invalid start byte"):
        read_json(tmp_path / "a.json")
