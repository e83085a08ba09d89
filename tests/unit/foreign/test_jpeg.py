import io

import numpy as np
import pytest
from PIL import Image

from seglens.foreign.jpeg import parse_jpeg
from seglens.foreign.pictures import PictureError

RNG = np.random.default_rng(0)
WAYS = ({}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 0, "quality": 99}, {"optimize": True})


def photograph(mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[:40, :53]
    waves = [128 + 60 * np.sin(rows / (5 + band)) + 20 * np.cos(columns / 7) for band in range(3)]
    noisy = np.stack(waves, -1) + RNG.normal(0, 9, (40, 53, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def refusal(raw: bytes) -> PictureError:
    with pytest.raises(PictureError) as caught:
        parse_jpeg(raw)
    assert caught.value.fix
    assert " at 0x" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_sound_file_is_what_pillow_shows(mode: str, way: dict[str, object]) -> None:
    raw = saved(photograph(mode), **way)
    with Image.open(io.BytesIO(raw)) as image:
        expected = np.asarray(image)
    picture = parse_jpeg(raw)
    np.testing.assert_array_equal(picture.samples, expected.reshape(40, 53, -1))
    assert (picture.n_colours, picture.has_transparency) == (len(image.getbands()), False)
    np.testing.assert_array_equal(parse_jpeg(raw + b"what a camera adds").samples, picture.samples)


@pytest.mark.parametrize("way", WAYS)
def test_data_that_breaks_off_before_a_sound_end_is_refused(way: dict[str, object]) -> None:
    raw = saved(photograph(), **way)
    for n in range(len(raw) - 6, len(raw) // 2, -37):
        assert refusal(raw[:n].removesuffix(b"\xff") + b"\xff\xd9").code == "corrupt"  # Pillow shows a grey rest


def test_a_progressive_file_without_its_last_scans_is_refused() -> None:
    raw = saved(photograph(), progressive=True)
    starts = [at for at in range(len(raw)) if raw[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 5
    for start in starts[1:]:
        assert refusal(raw[:start] + b"\xff\xd9").what == "some of its scans are missing"


def test_a_cut_file_is_refused() -> None:
    raw = saved(photograph())
    for n in range(3, len(raw) - 1, 29):
        assert refusal(raw[:n]).code == "corrupt"


def test_several_pictures_a_turn_and_inks_are_refused() -> None:
    raw = saved(photograph())
    assert refusal(raw + raw).code == "several_frames"
    exif = Image.Exif()
    exif[274] = 3
    assert refusal(saved(photograph(), exif=exif)).code == "exif_orientation"
    assert refusal(saved(photograph("CMYK"))).what == "its pixels are of mode CMYK"


def test_an_absurd_size_is_refused() -> None:
    raw = saved(photograph())
    at = raw.index(b"\xff\xc0") + 5
    for size in (b"\xff\xff\xff\xff", b"\x27\x10\x27\x10"):
        assert refusal(raw[:at] + size + raw[at + 4 :]).code == "too_large"
    assert "no pixels" in refusal(b"\xff\xd8\xff\xd9").what
