import json

import pytest

from seglens.foreign.bundle_config import Config
from seglens.foreign.json_fields import Field, FieldError


def literal(tmp_path, value, **entries):
    (tmp_path / "inference.json").write_text(json.dumps({"it": value, **entries}))
    config = Config.read(tmp_path / "inference.json")
    return config.literal(config.entry("it"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("@a", 3),
        ("$@a", 3),
        ("@nested#list#1", "y"),
        ("@nested::list::0", 4),
        ("@chain#list#0", 4),
        ("$len(@nested)", 1),
        ("$len(@nested#list) + @a * 2 - 1", 7),
        ("$-@a / 2", -1.5),
        ("$@a // 2", 1),
        ("$[@a, (1, 2.5), 'word', None, True]", [3, [1, 2.5], "word", None, True]),
        ("$@nested#list + [@a]", [4, "y", 3]),
        ("plain $ text", "plain $ text"),
    ],
)
def test_references_and_arithmetic(tmp_path, text, value):
    found = literal(tmp_path, text, a=3, nested={"list": [4, "y"]}, chain="@nested")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["$1 if @a else 2", "$@a ** 2", "$@a[0]", "$@a.b", "$len", "$len(@a, @a)", "$max(1, 2)", "$f'{@a}'", "$lambda x: x",
     "$'a' + 'b'", "$[1] * 2", "$@a < 1", "$1 / 0", "$1e300 * 1e300", "$", "%a::b", "@a.b", "@ a"],
)  # fmt: skip
def test_all_else_is_refused_by_its_key(tmp_path, text):
    with pytest.raises(FieldError, match=r"inference\.json: it is .*; legal: .*; give the value yourself by settings="):
        literal(tmp_path, text, a=3)


def test_names_are_followed_to_what_they_stand_for(tmp_path):
    file = tmp_path / "inference.yaml"
    file.write_text("network_def: {_target_: UNet}\nnetwork: $@network_def.to(@device)\nother: '@network'\n1: one\n")
    config = Config.read(file)
    assert config.entry("other").value == {"_target_": "UNet"}
    assert config.literal(config.entry("1")) == "one"
    assert "network" in config and "nothing" not in config
    with pytest.raises(FieldError, match="it has no key 'nothing'"):
        config.entry("nothing")


def test_settings_are_put_into_their_places(tmp_path):
    file = tmp_path / "inference.json"
    file.write_text(json.dumps({"a": {"b": [1, 2]}, "c": "$never()"}))
    config = Config.read(file, {"a#b#1": 5, "c": [7], "new": "@c"})
    assert config.literal(config.entry("a")) == {"b": [1, 5]}
    assert config.literal(config.entry("new")) == [7]
    for path in ("a#b#2", "a#b#x", "d#e", "c#d"):
        with pytest.raises(FieldError, match="there is no place for the setting"):
            Config.read(file, {path: 1})


@pytest.mark.parametrize("content", ["[1]", "{", '{"a": 1, "a": 2}', '{"a": ' + "[" * 60 + "]" * 60 + "}"])
def test_files_that_are_none(tmp_path, content):
    (tmp_path / "inference.json").write_text(content)
    with pytest.raises(FieldError, match=r"inference\.json.*; take the file as its bundle has it"):
        Config.read(tmp_path / "inference.json")


def test_a_field_is_followed_where_it_stands(tmp_path):
    (tmp_path / "inference.json").write_text(json.dumps({"a": 2}))
    config = Config.read(tmp_path / "inference.json")
    assert config.literal(Field(config.file, "here", ["@a", {"b": "$@a + 1"}], "fix it")) == [2, {"b": 3}]


@pytest.mark.parametrize(
    "entries",
    [
        {"a": "@b#x", "b": "@a#y"},
        {"a": "@a#x"},
        # each level is reached through two references to the next: 2^40 of them in all
        {f"a{n}": f"@a{n + 1}#x#x" for n in range(40)} | {"a": "@a0#x", "a40": {"x": {"x": "@a0"}}},
    ],
)
def test_references_that_lead_round_through_keys_are_refused(tmp_path, entries):
    with pytest.raises(FieldError, match=r"leads round|has no key"):
        literal(tmp_path, "@a#x", **entries)
