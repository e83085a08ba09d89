from pathlib import Path

import pytest

from seglens.cohorts.patterns import Pattern


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_fields_are_found_and_a_repeated_field_must_agree(tmp_path: Path) -> None:
    touch(tmp_path, "a_1/a_1_12.tif", "a_1/a_1_12_mask.tif", "a_1/b_3.tif", "a_1/a_1_x.tif")
    found = [(file.name, fields) for file, fields in Pattern("{patient}/{patient}_{slice}.tif").find(tmp_path)]
    assert found == [("a_1_12.tif", {"patient": "a_1", "slice": "12"})]


def test_a_star_matches_within_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "x/p1-s3-anything.png", "x/y/p1-s4-z.png")
    pattern = Pattern("*/{patient}-s{slice}-*.png")
    assert [fields for _, fields in pattern.find(tmp_path)] == [{"patient": "p1", "slice": "3"}]
    assert pattern.path(tmp_path, {"patient": "p1", "slice": "3"}) == tmp_path / "x/p1-s3-anything.png"
    assert not pattern.path(tmp_path, {"patient": "p1", "slice": "9"}).exists()


def test_signs_that_mean_something_elsewhere_are_plain(tmp_path: Path) -> None:
    touch(tmp_path, "a[1]+.png", "a1.png")
    assert [fields for _, fields in Pattern("{patient}+.png").find(tmp_path)] == [{"patient": "a[1]"}]
    touch(tmp_path, "m/a[1]-mask.png", "m/a1-mask.png")
    assert Pattern("m/{patient}-*.png").path(tmp_path, {"patient": "a[1]"}).name == "a[1]-mask.png"


@pytest.mark.parametrize("text", ["../{patient}.png", "/etc/{patient}", "{patient.png", "{}.png"])
def test_patterns_that_leave_the_folder_or_are_broken(text: str) -> None:
    with pytest.raises(ValueError, match="the pattern"):
        Pattern(text)
