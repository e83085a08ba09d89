from pathlib import Path

import pytest

from seglens.foreign.json_fields import Field, FieldError


def field(value):
    return Field(Path("a.json"), "x.y", value, "mend it")


def test_a_file_is_an_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": {"b": [1, 2.5, "c", true, null]}}')
    whole = Field.of(path, "mend it")
    assert [item.value for item in whole["a"]["b"].items(5)] == [1, 2.5, "c", True, None]
    assert whole["a"]["b"].items()[1].keys == "a.b.1"
    assert ("a" in whole, "b" in whole, whole.get("b"), whole["a"].get("b").keys) == (True, False, None, "a.b")
    for text, said in (("[1]", r"it holds a list of 1; legal: an object"), ("{", "cannot be read as JSON")):
        path.write_text(text)
        with pytest.raises(FieldError, match=said):
            Field.of(path, "mend it")


def test_values_of_a_kind():
    assert field(3).whole(1, 3) == 3
    assert field([3, 4]).wholes(2, 1, 4) == (3, 4)
    assert (field(3).number(0), field(0.5).number(), field(True).truth(), field("a").text()) == (3.0, 0.5, True, "a")
    assert (field("a").one_of({"a": 1}), field(None).one_of({None: 2})) == (1, 2)


@pytest.mark.parametrize(
    ("value", "read", "said"),
    [
        (True, lambda f: f.whole(0, 3), r"x\.y is True; legal: a whole number from 0 to 3; mend it"),
        (4, lambda f: f.whole(0, 3), r"x\.y is 4; legal: a whole number from 0 to 3"),
        (10**400, lambda f: f.whole(0, 3), "is a number of too many digits"),
        (10**400, lambda f: f.number(), "is a number of too many digits"),
        ([1], lambda f: f.wholes(2, 0, 3), "is a list of 1; legal: a list of 2 values"),
        ("b" * 2000, lambda f: f.text(), "legal: a text of at most 1000"),
        ({"a": 1}, lambda f: f.one_of({"a": 1}), "is an object of 1; legal: a"),
        (1, lambda f: f.truth(), "legal: true or false"),
        (-1, lambda f: f.number(0, 1), "legal: a number from 0 to 1"),
        ({"a": 1}, lambda f: f["b"], r"x\.y has no key 'b'; mend it"),
        (list(range(5000)), lambda f: f.items(), "is a list of 5000; legal: a list of some values"),
    ],
)
def test_anything_else_is_refused_by_its_keys(value, read, said):
    with pytest.raises(FieldError, match=said) as caught:
        read(field(value))
    assert str(caught.value).startswith("a.json: ") and len(str(caught.value)) < 400


def test_keys_of_others_are_printed_with_escapes():
    with pytest.raises(FieldError, match=r"x\.y\.a\\x1b\[2J\\nb is 'c'; legal: true or false"):
        field({"a\x1b[2J\nb": "c"})["a\x1b[2J\nb"].truth()
