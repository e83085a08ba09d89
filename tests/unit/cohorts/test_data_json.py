from pathlib import Path

import pytest

from seglens.cohorts.data_json import channels_of, labels_of

TABLE = Path("dataset.json")


def test_names_of_channels_in_either_spelling() -> None:
    assert channels_of(TABLE, {"channel_names": {"0": "t1ce", "1": "FLAIR"}}, None) == {"T1c": 0, "FLAIR": 1}
    assert channels_of(TABLE, {"modality": {"0": "MRI"}}, None) == {"MRI": 0}
    assert channels_of(TABLE, {}, {"t1w": 2}) == {"T1": 2}
    with pytest.raises(ValueError, match="has no channel_names; give `channels`"):
        channels_of(TABLE, {}, None)


def test_labels_by_name_or_by_value() -> None:
    by_name = labels_of(TABLE, {"background": 0, "lung": 7}, None, None)
    assert by_name == labels_of(TABLE, {"0": "background", "7": "lung"}, None, None)
    assert by_name == ({0: "background", 7: "lung"}, {0: 0, 7: 7})
    with pytest.raises(ValueError, match=r"has the labels lung, which .* does not name; give `mask_values`"):
        labels_of(TABLE, {"background": 0, "lung": 7}, {0: "background", 1: "heart"}, None)
