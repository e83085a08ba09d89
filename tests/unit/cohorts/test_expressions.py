import re

import pytest

from seglens.cohorts.expressions import limited_search


@pytest.mark.parametrize(
    "expression", [r"P-\d+", r"(P|Q)-(\d{2,3})", r"^(.*?)_", r"(?i)p-(?P<n>\d+)", r"[^-]+(?=-)", "Z"]
)
@pytest.mark.parametrize("text", ["P-012_3", "x-P-1", "Q-77-\u00e9_1", ""])
def test_finds_what_python_s_own_engine_finds(expression: str, text: str) -> None:
    found, own = limited_search(expression, text), re.search(expression, text)
    assert (found and (found.span(), found.groups())) == (own and (own.span(), own.groups()))


@pytest.mark.parametrize("expression", ["(", "(?R)", "[z-a]", "a{2,1}", "*"])
def test_what_python_refuses_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        limited_search(expression, "a")
