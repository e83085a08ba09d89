import pytest

from seglens.foreign.plain_numbers import decimal_number, is_whole, whole_keys, whole_number


def test_whole_numbers_come_back() -> None:
    for number in (0, 7, -7, 10, 255, -(10**17)):
        assert whole_number(str(number)) == number
    assert [is_whole(value) for value in (3, -3, True, 1.0, "1", None)] == [True, True, False, False, False, False]


@pytest.mark.parametrize("text", ["1", "-0.5", ".5", "2.", "1e-4", "+3E2", "0"])
def test_decimals_are_python_s(text: str) -> None:
    assert decimal_number(text) == float(text)


@pytest.mark.parametrize("text", ["", "nan", "inf", "1_0", "01", "0x1", "1:30", " 1", "1e999", "e3"])
def test_other_texts_are_no_decimals(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no number; write it as 1, 0\.5 or 1e-4"):
        decimal_number(text)


def test_keys_as_json_has_them() -> None:
    assert whole_keys({"1": "a", 2: "b"}) == {1: "a", 2: "b"}
    assert whole_keys("no mapping") == "no mapping"
    with pytest.raises(ValueError, match="1 stands there twice, for 'a' and for 'b'"):
        whole_keys({"1": "a", 1: "b"})
