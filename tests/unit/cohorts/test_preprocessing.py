import json

import pytest

from seglens.cohorts.preprocessing import Preprocessing


def test_it_comes_back_from_json() -> None:
    own = Preprocessing(("T1", "FLAIR"), 64, (20.0, 80.0), "nonzero")
    assert Preprocessing.from_json(json.loads(json.dumps(own.to_json()))) == own
    assert Preprocessing.from_json(None) is None


def test_differences_name_both_values() -> None:
    own = Preprocessing(("T1",), 64, (20.0, 80.0), "none")
    assert own.differences(own) == []
    assert own.differences(Preprocessing(("T1",), 32, (20.0, 80.0), "brain")) == [
        "size is 32, not 64",
        "foreground is brain, not none",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequences": ()},
        {"sequences": ("T1", "T1")},
        {"size": 4},
        {"clip_percentiles": (99.0, 1.0)},
        {"clip_percentiles": (-1.0, 50.0)},
        {"foreground": "skull"},
    ],
)
def test_settings_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Preprocessing(**({"sequences": ("T1",)} | wrong))
