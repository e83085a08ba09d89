from pathlib import Path

import pytest

from seglens.cohorts.source_options import PARTICULAR, Reading, SourceOptions


def test_what_is_given_of_the_particular_options() -> None:
    assert SourceOptions(labels={0: "a"}, max_gib=3.0).given() == ()
    assert SourceOptions(inverted=True, images="{patient}.png").given() == ("images", "inverted")
    assert set(PARTICULAR) <= set(SourceOptions.__dataclass_fields__)


def test_files_must_lie_in_the_folder_unless_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    reading = SourceOptions(nonfinite="zero", resample=True, max_gib=0.5).reading(tmp_path / "in")
    assert reading == Reading(nonfinite="zero", resample=True, max_gib=0.5, root=(tmp_path / "in").resolve())
    assert (reading.allows(tmp_path / "in/a"), reading.allows(tmp_path / "b")) == (True, False)
    assert reading.max_bytes == 2**29
    assert SourceOptions(follow_links=True).reading(tmp_path / "in").allows(tmp_path / "b")


@pytest.mark.parametrize("gib", [0.0, -1.0, 2000.0, float("nan")])
def test_a_cap_has_bounds(gib: float) -> None:
    with pytest.raises(ValueError, match=r"max_gib is .* it must be above 0"):
        SourceOptions(max_gib=gib)


@pytest.mark.parametrize("threshold", [0.0, -3.0, float("nan"), float("inf")])
def test_a_threshold_parts_something(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"mask_threshold is .* it must be above 0"):
        SourceOptions(mask_threshold=threshold)
