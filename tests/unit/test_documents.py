from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import Field

from seglens.documents import DocumentError, from_document, schema_of, to_document


@dataclass(frozen=True)
class Inner:
    share: float
    counts: dict[str, int | float]


@dataclass(frozen=True)
class Outer:
    class_name: Annotated[str, Field(alias="class")]
    latents: tuple[int, ...] | None
    labels: dict[int, str]
    inner: Inner
    extra: float | None = None


WHOLE = Outer("edema", (1, 2), {0: "background"}, Inner(0.5, {"whole": 3, "mean": 1.5}))
TEXT = '{"class":"edema","latents":[1,2],"labels":{"0":"background"},"inner":{"share":0.5,"counts":{"whole":3}}}'


def test_a_record_comes_back_as_it_was():
    import json

    document = to_document(WHOLE)
    assert document == {
        "class": "edema",
        "latents": [1, 2],
        "labels": {"0": "background"},
        "inner": {"share": 0.5, "counts": {"whole": 3, "mean": 1.5}},
    }
    assert isinstance(document["inner"]["counts"]["whole"], int)
    assert from_document(json.dumps(document), Outer, "here") == WHOLE
    several = to_document([WHOLE, WHOLE], list[Outer])
    assert from_document(json.dumps(several), list[Outer], "here") == [WHOLE, WHOLE]


def test_what_is_none_by_default_is_left_out_and_what_is_none_by_finding_is_written():
    assert "extra" not in to_document(WHOLE)
    assert to_document(Outer("edema", None, {}, WHOLE.inner, 0.1))["latents"] is None
    assert to_document(Outer("edema", None, {}, WHOLE.inner, 0.1))["extra"] == 0.1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT.replace('"share":0.5,', ""), "inner.share: is missing"),
        (TEXT.replace("0.5", '"half"'), "inner.share: Input should be a valid number, got 'half'"),
        (TEXT.replace("[1,2]", "[1,2.5]"), r"latents.1: .*integer, got 2.5"),
        (TEXT.replace('"edema"', "7"), "class: Input should be a valid string, got 7"),
        (TEXT[:-9], "the document: Invalid JSON"),
        ("[]", "the document: .*, got \\[\\]"),
    ],
)
def test_a_document_that_is_not_what_is_due_is_refused_with_file_and_key(text, said):
    with pytest.raises(DocumentError, match=f"run/pair.json is damaged or of another version .*{said}"):
        from_document(text, Outer, "run/pair.json")


def test_many_faults_are_one_message():
    with pytest.raises(ValueError, match=r"labels: is missing; inner: is missing\)"):
        from_document('{"class": "edema", "latents": null}', Outer, "file")
    with pytest.raises(ValueError, match="and 7 more"):
        from_document(str(["x"] * 12).replace("'", '"'), list[int], "file")


def test_what_does_not_fit_its_type_is_not_written():
    from pydantic_core import PydanticSerializationError

    with pytest.raises(PydanticSerializationError, match="share"):
        to_document(Inner.__new__(Inner).__class__("x", {}))  # type: ignore[arg-type]


def test_a_type_is_its_own_schema():
    schema = schema_of(Outer)
    assert schema["required"] == ["class", "latents", "labels", "inner"]
    assert schema["properties"]["class"] == {"title": "Class", "type": "string"}
