import pytest

from seglens.cohorts.sequences import canonical_sequence, in_order


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        ("t1ce", "T1c"),
        ("T1-Gd", "T1c"),
        ("t1n", "T1"),
        ("t2W", "T2"),
        ("T2-FLAIR", "FLAIR"),
        ("t2f", "FLAIR"),
        ("T1c", "T1c"),
        ("ADC", "ADC"),
    ],
)
def test_spellings(spelt: str, name: str) -> None:
    assert canonical_sequence(spelt) == name


def test_order() -> None:
    assert in_order(["FLAIR", "SWI", "T1", "ADC", "T1"]) == ("T1", "FLAIR", "ADC", "SWI")
