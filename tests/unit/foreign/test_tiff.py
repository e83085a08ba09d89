"""TIFF against tifffile with imagecodecs, independent decoders, on every type, order, compression and layout."""

import io
import itertools
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from seglens.foreign.pictures import PictureError
from seglens.foreign.tiff import parse_tiff

RNG = np.random.default_rng(0)
TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
PACKINGS = (None, "lzw", "deflate", "packbits")
LAYOUTS: tuple[dict[str, Any], ...] = (
    {},
    {"rowsperstrip": 5},
    {"tile": (16, 32)},
    {"rowsperstrip": 4, "planarconfig": "separate"},
    {"tile": (32, 16), "planarconfig": "separate"},
    {"rowsperstrip": 1, "bigtiff": True},
    {"tile": (16, 16), "bigtiff": True},
)


def drawn(kind: str, n_samples: int, size: tuple[int, int] = (23, 37)) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return RNG.normal(0, 100, (*size, n_samples)).astype(dtype)
    limits = np.iinfo(dtype)
    samples = RNG.integers(limits.min, limits.max, (*size, n_samples), dtype, endpoint=True)
    samples[:3] = samples[:1]  # something to pack
    samples[4] = limits.max
    return samples


def written(samples: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    n = samples.shape[2]
    options.setdefault("photometric", "rgb" if n in (3, 4) else "minisblack")
    if n in (2, 4):
        options.setdefault("extrasamples", ["unassalpha"])
    if n > 1:
        options.setdefault("planarconfig", "contig")
    if n == 1:
        options.pop("planarconfig", None)
    planes = samples.transpose(2, 0, 1) if options.get("planarconfig") == "separate" else samples
    tifffile.imwrite(file, planes if n > 1 else samples[..., 0], metadata=None, **options)
    return file.getvalue()


def by_tifffile(raw: bytes) -> np.ndarray:
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        page = file.pages[0]
        values = page.asarray()
        separate = page.planarconfig == 2 and page.samplesperpixel > 1
    values = np.moveaxis(values, 0, -1) if separate else values
    return values.reshape(*values.shape[:2], -1)


def refusal(raw: bytes) -> PictureError:
    with pytest.raises(PictureError) as caught:
        parse_tiff(raw)
    assert caught.value.fix
    return caught.value


def test_every_kind_is_read_as_tifffile_reads_it() -> None:
    n = 0
    for kind, n_samples, order, packing in itertools.product(TYPES, (1, 2, 3, 4), "<>", PACKINGS):
        samples = drawn(kind, n_samples)
        predicted = packing in ("lzw", "deflate") and kind not in ("u8", "i8")
        for predictor in {False, predicted}:
            layout = LAYOUTS[n % len(LAYOUTS)]
            raw = written(samples, byteorder=order, compression=packing, predictor=predictor, **layout)
            expected = by_tifffile(raw)
            np.testing.assert_array_equal(expected, samples)
            read = parse_tiff(raw)
            about = f"{kind=} {n_samples=} {order=} {packing=} {predictor=} {layout=}"
            np.testing.assert_array_equal(read.samples, expected, err_msg=about)
            assert (read.samples.dtype, read.n_colours) == (samples.dtype, {1: 1, 2: 1, 3: 3, 4: 3}[n_samples]), about
            n += 1
    assert n == 496


@pytest.mark.parametrize(("depth", "n_samples"), [(1, 1), (2, 1), (4, 1), (2, 3), (4, 3)])
def test_samples_of_few_bits(depth: int, n_samples: int) -> None:
    packers = {5: imagecodecs.lzw_encode, 8: zlib.compress, 32773: packbits}
    for order in "<>":
        samples = RNG.integers(0, 2**depth, (23, 37, n_samples)).astype(bool if depth == 1 else np.uint8)
        raw = written(samples, byteorder=order, bitspersample=depth)
        np.testing.assert_array_equal(by_tifffile(raw), samples)
        np.testing.assert_array_equal(parse_tiff(raw).samples, samples)
        strips = written(samples, byteorder=order, bitspersample=depth, rowsperstrip=5)
        np.testing.assert_array_equal(parse_tiff(strips).samples, samples)
        with tifffile.TiffFile(io.BytesIO(raw)) as file:
            at, n = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
        for code, pack in packers.items():
            content = pack(raw[at : at + n])
            packed = raw + content
            for tag, value in ((259, code), (273, len(raw)), (279, len(content))):
                packed = edited(packed, tag, value)
            np.testing.assert_array_equal(by_tifffile(packed), samples)
            np.testing.assert_array_equal(parse_tiff(packed).samples, samples)


def packbits(content: bytes) -> bytes:
    return bytes(imagecodecs.packbits_encode(np.frombuffer(content, np.uint8)))


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "?"])
def test_white_is_zero_is_turned_at_every_depth(kind: str) -> None:
    samples = RNG.integers(0, 2, (9, 11, 1)).astype(bool) if kind == "?" else drawn(kind, 1)
    for packing in PACKINGS:
        raw = written(samples, photometric="miniswhite", compression=packing)
        top = 1 if kind == "?" else np.iinfo(kind).max
        np.testing.assert_array_equal(parse_tiff(raw).samples, top - by_tifffile(raw))


@pytest.mark.parametrize("kind", ["i2", "f4"])
def test_white_is_zero_without_a_largest_value_is_refused(kind: str) -> None:
    assert "0 is white" in refusal(written(drawn(kind, 1), photometric="miniswhite")).what


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F"])
def test_files_of_another_writer(mode: str, options: dict[str, str]) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (19, 23, 4)).astype(np.uint8)).convert(mode if mode != "I;16" else "I")
    image = image.convert("I;16") if mode == "I;16" else image
    file = io.BytesIO()
    image.save(file, "TIFF", **options)
    np.testing.assert_array_equal(parse_tiff(file.getvalue()).samples.squeeze(), np.asarray(image))


@pytest.mark.parametrize("packing", ["zstd", "lzma", "jpeg", "webp", "lerc"])
def test_other_compressions_are_refused(packing: str) -> None:
    said = refusal(written(drawn("u1", 3), compression=packing))
    assert said.code == "unknown_datatype"
    assert "uncompressed or with LZW or deflate" in said.fix


def test_other_samples_are_refused() -> None:
    grey = drawn("u1", 1)
    palette = io.BytesIO()
    Image.fromarray(grey[..., 0]).convert("P").save(palette, "TIFF")
    assert "photometric interpretation 3" in refusal(palette.getvalue()).what
    inks = io.BytesIO()
    Image.fromarray(drawn("u1", 4), "CMYK").save(inks, "TIFF")
    assert "photometric interpretation 5" in refusal(inks.getvalue()).what
    assert refusal(written(drawn("u1", 1).astype(np.complex64))).code == "unknown_datatype"
    assert refusal(written(drawn("u2", 1) >> 4, bitspersample=12)).code == "unknown_datatype"


def test_several_pictures_are_refused() -> None:
    stack = drawn("u1", 1)[..., 0][None].repeat(3, axis=0)
    for options in ({"metadata": None}, {"imagej": True}):
        file = io.BytesIO()
        tifffile.imwrite(file, stack, photometric="minisblack", **options)
        assert refusal(file.getvalue()).code == "several_frames"
    file = io.BytesIO()
    tifffile.imwrite(file, stack[0], imagej=True)
    np.testing.assert_array_equal(parse_tiff(file.getvalue()).samples[..., 0], stack[0])


@pytest.mark.parametrize("order", "<>")
def test_a_turn_is_refused(order: str) -> None:
    samples = drawn("u2", 3)
    turned = written(samples, byteorder=order, extratags=[(274, 3, 1, 6, True)])
    assert refusal(turned).code == "exif_orientation"
    xmp = b'<x tiff:Orientation="8"/>'
    assert refusal(written(samples, extratags=[(700, 7, len(xmp), xmp, True)])).code == "exif_orientation"


def edited(raw: bytes, tag: int, value: int) -> bytes:
    """A classic TIFF with the one value of a tag, or where its values lie, replaced."""
    order = "<" if raw[:2] == b"II" else ">"
    at = struct.unpack_from(order + "I", raw, 4)[0]
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from(order + "H", raw, at)[0], 12):
        if struct.unpack_from(order + "H", raw, entry)[0] == tag:
            kind = struct.unpack_from(order + "H", raw, entry + 2)[0]
            new = struct.pack(order + ("H2x" if kind == 3 else "I"), value)
            return raw[: entry + 8] + new + raw[entry + 12 :]
    raise KeyError(tag)


@pytest.mark.parametrize("packing", PACKINGS)
def test_no_row_may_be_missing(packing: str | None) -> None:
    raw = written(drawn("u1", 1), compression=packing, byteorder="<")
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        n = file.pages[0].databytecounts[0]
    assert refusal(edited(raw, 279, n // 2)).code == "corrupt"
    assert refusal(edited(raw, 257, 24)).code == "corrupt"
    if packing in (None, "deflate"):  # of the others libtiff unpacks what is needed, and does not tell how much is left
        assert refusal(edited(raw, 257, 22)).code == "corrupt"
        assert refusal(edited(raw, 256, 36)).code == "corrupt"
    assert "lie outside" in refusal(edited(raw, 273, len(raw))).what
    assert "lie outside" in refusal(edited(raw, 279, 0)).what
    assert "strips or tiles" in refusal(edited(raw, 278, 4)).what
    assert refusal(edited(raw, 257, 2**30)).code == "too_large"
    assert refusal(edited(raw, 257, 0)).code == "corrupt"


def test_strips_over_each_other_are_refused() -> None:
    raw = written(drawn("u1", 1), byteorder="<", rowsperstrip=12)
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        tag = file.pages[0].tags[273]
        first, second = tag.value
        at = tag.valueoffset
    assert raw[at + 4 : at + 8] == struct.pack("<I", second)
    assert "lie over each other" in refusal(raw[: at + 4] + struct.pack("<I", first + 5) + raw[at + 8 :]).what


def test_deflate_compares_its_checksum() -> None:
    raw = written(drawn("u2", 1), compression="deflate", rowsperstrip=5)
    expected = parse_tiff(raw).samples
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        places = [
            8 * byte + byte % 8
            for start, n in zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True)
            for byte in range(start, start + n, 3)
        ]
    n_refused = 0
    for place in places:
        content = bytearray(raw)
        content[place // 8] ^= 1 << (place % 8)
        try:
            np.testing.assert_array_equal(parse_tiff(bytes(content)).samples, expected)
        except PictureError:
            n_refused += 1
    assert n_refused >= len(places) - 5  # a bit of a stream's first two bytes may mean nothing


def test_bombs_are_refused_from_the_header() -> None:
    raw = written(np.zeros((4096, 4096, 1), np.uint8), compression="deflate", byteorder="<")
    assert len(raw) < 2**16
    assert refusal(edited(edited(raw, 256, 2**13), 278, 2**13)).code == "corrupt"
    assert refusal(edited(raw, 256, 2**31)).code == "too_large"
    small = written(drawn("u1", 1, (16, 16)), tile=(16, 16), byteorder="<")
    assert refusal(edited(edited(small, 322, 65520), 323, 65520)).code == "too_large"


def test_alpha_counts_only_where_it_is_one() -> None:
    grey = drawn("u2", 1)
    full = np.full_like(grey, 65535)
    assert not parse_tiff(written(np.concatenate([grey, full], 2))).has_transparency
    read = parse_tiff(written(np.concatenate([grey, full - 1], 2)))
    assert (read.n_colours, read.has_transparency) == (1, True)
    read = parse_tiff(written(np.concatenate([grey, full - 1], 2), extrasamples=["unspecified"]))
    assert (read.n_colours, read.has_transparency) == (2, False)
    ones = np.ones((5, 5, 2), np.float32)
    assert not parse_tiff(written(ones)).has_transparency


def test_nothing_that_is_cut_is_read() -> None:
    raw = written(drawn("u1", 3), byteorder="<", tile=(16, 16))
    for n in range(4, len(raw), 7):
        try:
            read = parse_tiff(raw[:n])
        except PictureError:
            continue
        np.testing.assert_array_equal(read.samples, parse_tiff(raw).samples)
    assert zlib.crc32(parse_tiff(raw).samples.tobytes()) == zlib.crc32(by_tifffile(raw).tobytes())


@pytest.mark.parametrize("packing", [None, "deflate"])
def test_a_last_strip_may_be_filled_up_to_its_full_height(packing: str | None) -> None:
    samples = drawn("u1", 1, (24, 37))
    raw = written(samples, compression=packing, rowsperstrip=6, byteorder="<")
    np.testing.assert_array_equal(parse_tiff(edited(raw, 257, 20)).samples, samples[:20])
    assert refusal(edited(raw, 257, 18)).code == "corrupt"
