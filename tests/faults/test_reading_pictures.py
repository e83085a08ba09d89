"""Rows 58 to 61: photographs, masks that are no longer black and white, and layouts of installed packages."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.faults.scans import codes, write_cohort

from seglens.cohorts.case import Case, ImageRef
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.image2d import read_plane, read_planes
from seglens.cohorts.layouts import Found, Layout, read_cohort
from seglens.cohorts.source_options import SourceOptions
from seglens.cohorts.volumes import VolumeError

POLYPS = {"images": "images/{patient}.jpg", "masks": "masks/{patient}.jpg"}
COLOURS = ["R", "G", "B"]


def photograph(seed: int = 0) -> Image.Image:
    rows, columns = np.mgrid[:40, :48]
    waves = [128 + 60 * np.sin(rows / (5 + band) + seed) + 20 * np.cos(columns / 7) for band in range(3)]
    return Image.fromarray(np.stack(waves, -1).clip(0, 255).astype(np.uint8))


def disc() -> np.ndarray:
    rows, columns = np.mgrid[:40, :48]
    return (rows - 20) ** 2 + (columns - 24) ** 2 < 90


def save(path: Path, image: Image.Image, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **settings)
    return path


@pytest.fixture
def polyps(tmp_path: Path) -> Path:
    """Three photographs, their masks saved as JPEG."""
    for number in range(3):
        save(tmp_path / f"c/images/p{number}.jpg", photograph(number), quality=90)
        save(tmp_path / f"c/masks/p{number}.jpg", Image.fromarray(disc()).convert("RGB"), quality=70)
    return tmp_path / "c"


def refusal(path: Path) -> VolumeError:
    with pytest.raises(VolumeError) as caught:
        read_plane(ImageRef(path, 0))
    return caught.value


def test_row_58_jpeg_is_read_as_pillow_shows_it(tmp_path: Path) -> None:
    """A sound JPEG is read once for all its channels, voxel for voxel what Pillow shows; grey ones as one channel."""
    path = save(tmp_path / "a.JPEG", photograph(), quality=90)
    planes, _ = read_planes([ImageRef(path, channel) for channel in range(3)])
    np.testing.assert_array_equal(np.stack(planes, -1), np.asarray(Image.open(path)))
    grey = save(tmp_path / "g.jpg", photograph().convert("L"), progressive=True)
    np.testing.assert_array_equal(read_plane(ImageRef(grey))[0], np.asarray(Image.open(grey)))


def test_row_58_damaged_jpeg(tmp_path: Path) -> None:
    """A JPEG that is cut short anywhere, or whose size is absurd, is quarantined: no grey rest is taken for pixels."""
    whole = save(tmp_path / "a.jpg", photograph(), quality=90).read_bytes()
    for n in (3, 200, len(whole) // 2, len(whole) - 60):
        (tmp_path / "cut.jpg").write_bytes(whole[:n])
        assert refusal(tmp_path / "cut.jpg").code == "corrupt"
    at = whole.index(b"\xff\xc0") + 5
    (tmp_path / "huge.jpg").write_bytes(whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :])
    assert refusal(tmp_path / "huge.jpg").code == "too_large"
    save(tmp_path / "renamed.jpg", photograph(), format="GIF")
    assert refusal(tmp_path / "renamed.jpg").code == "corrupt"


def test_row_58_inks_are_no_colours(tmp_path: Path) -> None:
    """A JPEG of printing inks (CMYK) is quarantined with the way to save it."""
    said = refusal(save(tmp_path / "a.jpg", photograph().convert("CMYK")))
    assert (said.code, said.what) == ("unknown_datatype", "its pixels are of mode CMYK")
    assert "RGB" in said.fix


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_row_58_turned_by_exif(tmp_path: Path, ending: str) -> None:
    """A picture that viewers show turned (EXIF) is quarantined: nothing says which way its mask lies."""
    exif = Image.Exif()
    exif[274] = 6
    said = refusal(save(tmp_path / f"a.{ending}", photograph(), exif=exif))
    assert (said.code, "orientation 6" in said.what, "exif_transpose" in said.fix) == ("exif_orientation", True, True)
    exif[274] = 1
    assert read_plane(ImageRef(save(tmp_path / f"b.{ending}", photograph(), exif=exif), 0))[0].shape == (40, 48)


def test_row_58_several_pictures_in_a_file(tmp_path: Path) -> None:
    """A file of several JPEGs, as some cameras write, is quarantined."""
    made = io.BytesIO()
    photograph().save(made, format="MPO", save_all=True, append_images=[photograph(1)])
    (tmp_path / "a.jpg").write_bytes(made.getvalue())
    assert refusal(tmp_path / "a.jpg").code == "several_frames"


def test_row_59_shades_need_a_threshold(polyps: Path) -> None:
    """A mask of two labels that JPEG or resizing gave shades is quarantined with the setting to add."""
    cohort = read_cohort(polyps, SourceOptions(**POLYPS), sequences=COLOURS)
    report = check_cohort(cohort)
    assert codes(report) == {f"p{number}": ["grey_mask"] for number in range(3)}
    assert "add `mask_threshold: 128` (what is 128 or brighter is tumour)" in report.findings[0].fix


def test_row_59_with_the_threshold_the_mask_is_what_was_drawn(polyps: Path) -> None:
    """With `mask_threshold` what is as bright or brighter is the label, and the check has nothing to say."""
    from seglens.cohorts.case_reader import read_case

    labels = {0: "background", 1: "polyp"}
    options = SourceOptions(**POLYPS, labels=labels, mask_threshold=128.0)
    cohort = read_cohort(polyps, options, sequences=COLOURS)
    assert check_cohort(cohort).findings == ()
    drawn = read_case(cohort.cases[0], cohort.sequences, labels).mask
    stored = np.asarray(Image.open(polyps / "masks/p0.jpg").convert("L"))
    np.testing.assert_array_equal(drawn, (stored >= 128)[None].astype(np.uint8))
    assert np.count_nonzero(drawn[0] != disc()) <= 8
    with pytest.raises(ValueError, match=r"mask_threshold=128 parts masks into two labels, and there are \{0: 'a', 1"):
        read_cohort(
            polyps, SourceOptions(**POLYPS, labels={0: "a", 1: "b", 2: "c"}, mask_threshold=128.0), sequences=["R"]
        )


def test_row_59_labels_are_not_taken_for_shades(tmp_path: Path) -> None:
    """Another class in a mask of two labels is an unknown label, not a shade that a threshold would swallow."""
    values = np.zeros((40, 48), np.uint8)
    values[:9], values[9:18], values[18:27] = 255, 128, 64
    save(tmp_path / "images/p.png", photograph())
    save(tmp_path / "masks/p.png", Image.fromarray(values))
    options = SourceOptions(images="images/{patient}.png", masks="masks/{patient}.png")
    report = check_cohort(read_cohort(tmp_path, options, sequences=COLOURS))
    assert codes(report) == {"p": ["unknown_labels"]}
    assert "[64, 128]" in report.findings[0].what


def test_row_60_colours_have_names(polyps: Path) -> None:
    """Colour pictures are the sequences R, G and B of one file; as one, or grey as three, they are quarantined."""
    cohort = read_cohort(polyps, SourceOptions(**POLYPS, mask_threshold=128.0), sequences=COLOURS)
    assert [(name, ref.channel) for name, ref in cohort.cases[0].images.items()] == [("R", 0), ("G", 1), ("B", 2)]
    one = read_cohort(polyps, SourceOptions(**POLYPS, mask_threshold=128.0), sequences=["photo"])
    report = check_cohort(one)
    assert codes(report)["p0"] == ["which_channel"]
    assert "sequences R, G and B" in report.findings[0].fix
    save(polyps / "images/p0.jpg", photograph().convert("L"))
    assert codes(check_cohort(cohort)) == {"p0": ["no_such_channel"]}


def test_row_61_layouts_of_installed_packages(tmp_path: Path, installed) -> None:
    """A package whose layout cannot be loaded or takes a name is refused by name, and only where it is needed."""
    brats = write_cohort(tmp_path / "brats", ["a"])
    installed("seglens.layouts", scanner=ImportError("no module named scanner_files"))
    assert check_cohort(read_cohort(brats)).findings == ()
    with pytest.raises(ValueError, match=r"scanner = .* cannot be loaded \(no module named scanner_files\); mend or"):
        read_cohort(brats, SourceOptions(layout="scanner"))
    installed("seglens.layouts", brats=ImportError("never asked"))
    with pytest.raises(ValueError, match="is called 'brats', as another row is; it needs a name of its own"):
        read_cohort(brats)
    installed("seglens.layouts", scanner="no layout")
    with pytest.raises(ValueError, match="gives a str; it must give a Layout"):
        read_cohort(brats, SourceOptions(layout="scanner"))


def test_row_61_a_layout_finds_what_it_says(tmp_path: Path, installed) -> None:
    """Cases of an installed layout are checked like all others: values without a label, ids that occur twice."""
    save(tmp_path / "c/a.png", photograph())

    def twice(source) -> Found:
        case = Case("a", "a", "a", source.name, {"R": ImageRef(source.root / "a.png", 0)}, None, {0: 0})
        return Found([case, case], {0: "background"})

    installed("seglens.layouts", twice=Layout("twice", lambda source: True, twice, "anything"))
    with pytest.raises(ValueError, match="the case ids a occur twice"):
        read_cohort(tmp_path / "c")
