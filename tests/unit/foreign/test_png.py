"""PNG against pypng, an independent decoder, on every colour type, depth, filter and interlacing."""

import io
import itertools
import struct
import zlib

import numpy as np
import png as pypng
import pytest
from tests.png_files import CHANNELS, COLOURS, DEPTHS, SIGNATURE, chunk, header, png_file, rows_of

from seglens.foreign.pictures import PictureError
from seglens.foreign.png import parse_png

RNG = np.random.default_rng(0)
SIZES = ((1, 1), (5, 9), (9, 5), (1, 17), (17, 3))


def drawn(depth: int, colour: int, size: tuple[int, int] = (7, 9)) -> np.ndarray:
    return RNG.integers(0, 2**depth, (*size, CHANNELS[colour])).astype(np.uint16 if depth == 16 else np.uint8)


def refusal(raw: bytes) -> PictureError:
    with pytest.raises(PictureError) as caught:
        parse_png(raw)
    assert caught.value.fix
    return caught.value


def by_pypng(raw: bytes) -> np.ndarray:
    width, height, rows, about = pypng.Reader(bytes=raw).read()
    return np.array([list(row) for row in rows]).reshape(height, width, about["planes"])


def test_every_kind_is_read_as_pypng_reads_it_or_refused() -> None:
    kinds = [(depth, colour) for colour, depths in DEPTHS.items() for depth in depths]
    ways = [(0,), (1,), (2,), (3,), (4,), (4, 3, 2, 1, 0)]
    n = n_read = 0
    for (depth, colour), filters, interlaced in itertools.product(kinds, ways, (False, True)):
        for pieces, size in ((1, SIZES[n % len(SIZES)]), (3, (7, 11))):
            samples = drawn(depth, colour, size)
            raw = png_file(samples, depth, colour, filters=filters, interlaced=interlaced, pieces=pieces)
            expected = by_pypng(raw)
            np.testing.assert_array_equal(expected, samples)
            n += 1
            if colour == COLOURS["palette"]:
                assert refusal(raw).code == "unknown_datatype"
                continue
            read = parse_png(raw)
            n_read += 1
            np.testing.assert_array_equal(
                read.samples, expected, err_msg=f"{depth=} {colour=} {filters=} {interlaced=}"
            )
            assert read.samples.dtype == samples.dtype
            assert read.n_colours == {1: 1, 2: 1, 3: 3, 4: 3}[CHANNELS[colour]]
    assert (n, n_read) == (360, 264)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colour", ["grey", "rgb", "grey+alpha", "rgba"])
def test_files_of_another_writer(colour: str, interlaced: bool) -> None:
    for depth in DEPTHS[COLOURS[colour]]:
        samples = drawn(depth, COLOURS[colour])
        writer = pypng.Writer(
            9,
            7,
            greyscale="grey" in colour,
            alpha=colour in ("grey+alpha", "rgba"),
            bitdepth=depth,
            interlace=interlaced,
        )
        file = io.BytesIO()
        writer.write(file, samples.reshape(7, -1).tolist())
        np.testing.assert_array_equal(parse_png(file.getvalue()).samples, samples)


@pytest.mark.parametrize("colour", ["rgb", "rgba", "grey+alpha"])
def test_both_bytes_of_a_large_sixteen_bit_picture(colour: str) -> None:
    from PIL import Image

    samples = drawn(16, COLOURS[colour], (64, 80))
    whole = parse_png(png_file(samples, 16, COLOURS[colour])).samples
    np.testing.assert_array_equal(whole, samples)
    with Image.open(io.BytesIO(png_file(samples, 16, COLOURS[colour]))) as image:
        assert np.asarray(image).dtype == np.uint8  # what is to be mended: Pillow drops the low byte


@pytest.mark.parametrize(("depth", "colour"), [(8, "grey"), (1, "grey"), (16, "rgb"), (16, "grey+alpha")])
def test_no_flipped_bit_changes_a_pixel(depth: int, colour: str) -> None:
    samples = drawn(depth, COLOURS[colour], (5, 4))
    raw = png_file(samples, depth, COLOURS[colour], before=chunk(b"gAMA", struct.pack(">I", 45455)))
    n_refused = 0
    for place in range(8 * len(SIGNATURE), 8 * len(raw)):
        content = bytearray(raw)
        content[place // 8] ^= 1 << (place % 8)
        try:
            read = parse_png(bytes(content))
        except PictureError:
            n_refused += 1
        else:
            np.testing.assert_array_equal(read.samples, samples)
    assert n_refused == 8 * (len(raw) - len(SIGNATURE))


def test_no_row_may_be_missing_or_too_many() -> None:
    samples = drawn(8, 0, (8, 6))
    rows = rows_of(samples, 8, (0,))
    for content, what in (
        (rows[: 7 * 4], "breaks off after 28 of 56"),
        (rows + bytes(7), "holds more than the 56 bytes"),
    ):
        raw = SIGNATURE + header(6, 8, 8, 0) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND")
        assert what in refusal(raw).what
    packed = zlib.compress(rows)
    for content, what in (
        (packed[:-1], "breaks off"),
        (packed + b"more", "4 stray bytes follow its deflate"),
        (packed[:-1] + bytes([packed[-1] ^ 1]), "damaged"),
    ):
        raw = SIGNATURE + header(6, 8, 8, 0) + chunk(b"IDAT", content) + chunk(b"IEND")
        assert what in refusal(raw).what


def test_a_cut_or_lengthened_file_is_refused() -> None:
    raw = png_file(drawn(8, 2), 8, 2)
    for n in range(len(SIGNATURE), len(raw)):
        assert refusal(raw[:n]).code == "corrupt"
    np.testing.assert_array_equal(parse_png(raw + bytes(5)).samples, parse_png(raw).samples)
    assert "3 stray bytes follow its end" in refusal(raw + b"\0\1\2").what


def test_chunks_that_contradict_the_format() -> None:
    pixels = chunk(b"IDAT", zlib.compress(rows_of(drawn(8, 0, (2, 2)), 8, (0,))))
    first, last = header(2, 2, 8, 0), chunk(b"IEND")
    for middle, what in (
        (first + first + pixels, "IHDR stands in the wrong place"),
        (pixels + first, "IDAT stands in the wrong place"),
        (first, "holds no pixels"),
        (first + pixels + chunk(b"tEXt", b"a\0b") + pixels, "torn by another chunk"),
        (first + chunk(b"ABCD") + pixels, "ABCD is needed"),
        (first + chunk(b"tRNS", b"\0\1") * 2 + pixels, "tRNS stands"),
        (first + chunk(b"tRNS", bytes(3)) + pixels, "tRNS holds 3 bytes"),
        (header(2, 2, 3, 0) + pixels, "colour type 0 with 3 bits"),
        (header(2, 2, 8, 5) + pixels, "colour type 5"),
        (header(0, 2, 8, 0) + pixels, "0 x 2 pixels"),
        (header(2, 3, 8, 0) + pixels, "breaks off after 6 of 9"),
        (chunk(b"IHDR", bytes(12)) + pixels, "12 bytes, not 13"),
        (first + pixels + chunk(b"I\xc3ND"), "kind is"),
    ):
        assert what in refusal(SIGNATURE + middle + last).what


def test_absurd_sizes_take_no_memory() -> None:
    pixels, last = chunk(b"IDAT", zlib.compress(bytes(2**20))), chunk(b"IEND")
    assert refusal(SIGNATURE + header(2**31 - 1, 2**31 - 1, 16, 6) + pixels + last).code == "too_large"
    assert refusal(SIGNATURE + header(2**13, 2**13, 16, 6) + pixels + last).code == "corrupt"
    many = SIGNATURE + header(1, 1, 8, 0) + chunk(b"tEXt") * (2**17)
    assert "chunks" in refusal(many).what


def test_several_pictures_are_refused() -> None:
    samples = drawn(8, 0)
    moving = chunk(b"acTL", struct.pack(">2I", 2, 0))
    assert refusal(png_file(samples, 8, 0, before=moving)).code == "several_frames"
    assert refusal(png_file(samples, 8, 0, after=chunk(b"fdAT", bytes(8)))).code == "several_frames"


def test_a_turn_is_refused_wherever_it_stands() -> None:
    from PIL import Image

    samples = drawn(16, 2)
    exif = Image.Exif()
    exif[274] = 6
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'
    for place in ("before", "after"):
        assert refusal(png_file(samples, 16, 2, **{place: chunk(b"eXIf", content)})).code == "exif_orientation"
        assert refusal(png_file(samples, 16, 2, **{place: chunk(b"iTXt", xmp)})).code == "exif_orientation"


def test_a_declared_transparent_value_hides_pixels() -> None:
    samples = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    for key, hidden in ((5, True), (200, False)):
        read = parse_png(png_file(samples, 8, 0, before=chunk(b"tRNS", struct.pack(">H", key))))
        np.testing.assert_array_equal(read.samples, samples)
        assert read.has_transparency is hidden
    colours = np.full((2, 2, 3), 40000, np.uint16)
    keyed = chunk(b"tRNS", struct.pack(">3H", 40000, 40000, 40000))
    assert parse_png(png_file(colours, 16, 2, before=keyed)).has_transparency
    veiled = drawn(16, 6)
    veiled[..., 3] = 65535
    assert not parse_png(png_file(veiled, 16, 6)).has_transparency
    veiled[0, 0, 3] = 65534
    assert parse_png(png_file(veiled, 16, 6)).has_transparency
