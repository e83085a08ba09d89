import unicodedata

import pytest

from seglens.cohorts.label_names import alike, label_faults, refuse_labels, spoken


def test_one_form_for_every_spelling() -> None:
    name = "Jos\u00e9 M\u00fcller"
    forms = {
        unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD") for text in (name, name.upper())
    }
    assert len(forms) == 4
    assert {spoken(form) for form in forms} == {spoken(spoken(name))}
    assert spoken("a-b") != spoken("a_b") != spoken("a1") != spoken("a01")


def test_groups_are_in_the_order_of_their_names() -> None:
    assert alike(["b", "A", "c", "a", "a ", "B"]) == [("b", "B"), ("A", "a", "a ")]
    assert alike(["a", "b", "a"]) == []


def test_sound_labels_and_capitals_alone() -> None:
    assert label_faults({0: "Background", 1: "core", 2: "Core", 255: "WM (left)"}) == []
    assert label_faults({0: "bg", 1: "a\0b", 2: "a\ud800"})[0].endswith("cannot be written; give another by `labels`")
    with pytest.raises(
        ValueError, match=r"here: the labels \[-1\] are not in 0\.\.255.*; the labels -1 and 0 have one name"
    ):
        refuse_labels("here", {-1: "x", 0: "x"})
