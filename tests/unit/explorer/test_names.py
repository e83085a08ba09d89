import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from seglens.explorer.names import FILE, GivenName, Names


def test_a_name_is_kept_with_its_moment_for_its_dictionary_only(tmp_path):
    kept = Names(tmp_path).give("one", 3, GivenName(name="rim – Rand", who="A. B.", confidence=0.4))
    again = Names(tmp_path).of("one")
    assert again == {3: kept}
    assert (again[3].name, again[3].who, again[3].confidence) == ("rim – Rand", "A. B.", 0.4)
    moment = datetime.fromisoformat(again[3].when)
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=10)
    assert Names(tmp_path).of("another fit") == {}


def test_a_later_name_replaces_and_none_takes_away(tmp_path):
    names = Names(tmp_path)
    names.give("one", 3, GivenName(name="first"))
    names.give("one", 4, GivenName(name="stays"))
    names.give("one", 3, GivenName(name="second"))
    assert {latent: given.name for latent, given in names.of("one").items()} == {3: "second", 4: "stays"}
    assert names.give("one", 3, None) is None
    assert list(names.of("one")) == [4]
    names.give("one", 9, None)  # there was none
    assert list(names.of("one")) == [4]


def test_of_names_given_at_once_none_is_lost(tmp_path):
    names = Names(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda latent: names.give("one", latent, GivenName(name=str(latent))), range(40)))
    assert {latent: given.name for latent, given in names.of("one").items()} == {n: str(n) for n in range(40)}
    assert set(json.loads((tmp_path / FILE).read_text(encoding="utf-8"))) == {"one"}


@pytest.mark.parametrize("wrong", [{"name": ""}, {"name": "x" * 121}, {"confidence": 1.5}, {"markup": "<b>"}])
def test_what_is_no_name_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GivenName(**{"name": "rim", **wrong})


def test_a_latent_with_two_names_is_refused_with_both_lines(tmp_path):
    Names(tmp_path).give("one", 3, GivenName(name="rim"))
    text = (tmp_path / FILE).read_text(encoding="utf-8")
    start = text.index('"3": {')
    twice = text[:start] + text[start:].replace('"3": {', '"3": {"name": "core", "when": ""},\n  "3": {', 1)
    (tmp_path / FILE).write_text(twice, encoding="utf-8")
    with pytest.raises(ValueError, match=r"names\.json .*'3' stands there twice, in the lines 3 and 4"):
        Names(tmp_path).of("one")
