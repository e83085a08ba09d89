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


@pytest.mark.parametrize("kind", ["[T1]", "?", "[!a]"])
def test_signs_of_the_pattern_itself_are_plain(tmp_path: Path, kind: str) -> None:
    touch(tmp_path, f"p1{kind}-a.png", "p1T-a.png", "p1x-a.png")
    for text in (f"{{patient}}{kind}-a.png", f"{{patient}}{kind}-*.png"):
        assert [file.name for file, _ in Pattern(text).find(tmp_path)] == [f"p1{kind}-a.png"]
        assert Pattern(text).path(tmp_path, {"patient": "p1"}) == tmp_path / f"p1{kind}-a.png"


def test_a_star_in_a_name_is_plain(tmp_path: Path) -> None:
    touch(tmp_path, "p*_mask.png", "p1_mask.png")
    for text in ("{patient}_mask.png", "{patient}_m*.png"):
        assert Pattern(text).path(tmp_path, {"patient": "p*"}) == tmp_path / "p*_mask.png"


def test_neighbouring_stars_and_fields_stay_within_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "p1.png", "a/p2.png", "a/b/p3.png")
    assert [fields for _, fields in Pattern("{patient}{slice}.png").find(tmp_path)] == [{"patient": "p", "slice": "1"}]
    assert [file.name for file, _ in Pattern("**/{patient}.png").find(tmp_path)] == ["p2.png"]
    assert not Pattern("**/{patient}.png").path(tmp_path, {"patient": "p3"}).exists()


def test_of_several_files_none_is_chosen(tmp_path: Path) -> None:
    touch(tmp_path, "p1_mask.tif", "p10_mask.tif")
    pattern = Pattern("{patient}*_mask.tif")
    assert pattern.path(tmp_path, {"patient": "p10"}).name == "p10_mask.tif"
    with pytest.raises(ValueError, match=r"p10_mask\.tif and .*/p1_mask\.tif both match 'p1\*_mask\.tif'.*exact"):
        pattern.path(tmp_path, {"patient": "p1"})


@pytest.mark.parametrize(
    "text",
    ["../{patient}.png", "/etc/{patient}", "{patient.png", "{}.png", "{1}.png", "{patient}-{2nd}.png", "{a²}.png"],
)
def test_patterns_that_leave_the_folder_or_are_broken(text: str) -> None:
    with pytest.raises(ValueError, match="the pattern"):
        Pattern(text)
