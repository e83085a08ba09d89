"""Rows 71 to 73: pictures whose numbers a decoder would change, or whose pixels are not all there."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.faults.scans import codes
from tests.png_files import COLOURS, SIGNATURE, chunk, header, png_file, rows_of

from seglens.cohorts.case import Cohort, ImageRef
from seglens.cohorts.case_reader import read_case
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.image2d import read_plane, read_planes
from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.source_options import SourceOptions
from seglens.cohorts.volumes import VolumeError

RNG = np.random.default_rng(0)
LABELS = {0: "background", 1: "edema", 2: "core"}


def tiff_file(samples: np.ndarray, *, photometric: int = 1, order: str = "<", packed: bytes | None = None) -> bytes:
    """A TIFF of one strip, of samples [H W C]; ``packed`` by deflate in their place."""
    content = samples.astype(samples.dtype.newbyteorder(order)).tobytes() if packed is None else packed
    bits, kind = 8 * samples.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    height, width, n = samples.shape
    entries = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1 if packed is None else 8),
        (262, photometric),
        (273, 8),
    ]
    entries += [(277, n), (278, height), (279, len(content)), (339, kind)]
    directory = struct.pack(order + "H", len(entries))
    for tag, value in entries:
        listed = tag in (258, 339) and n > 1
        at = 8 + len(content) + (len(content) % 2)
        directory += struct.pack(
            order + "HHII", tag, 4, n if listed else 1, at + (4 * n if tag == 339 else 0) if listed else value
        )
    lists = struct.pack(order + "I", bits) * n + struct.pack(order + "I", kind) * n
    start = 8 + len(content) + len(content) % 2 + len(lists)
    first = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return first + content + b"\0" * (len(content) % 2) + lists + directory + bytes(4)


def read(folder: Path, content: bytes, name: str = "a.png", *, channel: int | None = None) -> np.ndarray:
    (folder / name).write_bytes(content)
    return read_plane(ImageRef(folder / name, channel), constant=True)[0]


def refusal(folder: Path, content: bytes, name: str = "a.png") -> VolumeError:
    with pytest.raises(VolumeError) as caught:
        read(folder, content, name, channel=0)
    return caught.value


def cohort_of(folder: Path, image: bytes, mask: bytes, ending: str = "png") -> Cohort:
    for name, content in (("images", image), ("masks", mask)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"p-1.{ending}").write_bytes(content)
    options = SourceOptions(
        images=f"images/{{patient}}-{{slice}}.{ending}",
        masks=f"masks/{{patient}}-{{slice}}.{ending}",
        labels=LABELS,
        mask_values={0: 0, 1: 1, 2: 2},
    )
    return read_cohort(folder, options, sequences=["T1"])


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("colour", ["rgb", "rgba", "grey+alpha"])
def test_row_71_sixteen_bit_colours(tmp_path: Path, colour: str, ending: str) -> None:
    """A 16-bit mask and image saved as RGB, RGBA or grey with alpha keep labels 1 and 2, and intensities 300 to 500."""
    mask = np.zeros((40, 48), np.uint16)
    mask[10:20, 10:20], mask[20:30, 10:20] = 1, 2
    image = RNG.integers(300, 501, mask.shape).astype(np.uint16)
    files = []
    for grey in (image, mask):
        n, alpha = (1 if "grey" in colour else 3), colour != "rgb"
        samples = np.stack([grey] * n + [np.full_like(grey, 65535)] * alpha, axis=-1)
        if ending == "png":
            files.append(png_file(samples, 16, COLOURS[colour]))
        else:
            file = tiff_file(samples[..., :n], photometric=1 if n == 1 else 2)
            files.append(file)
    cohort = cohort_of(tmp_path, files[0], files[1], ending)
    assert check_cohort(cohort).findings == ()
    case = read_case(cohort.cases[0], cohort.sequences, LABELS)
    np.testing.assert_array_equal(case.mask[0], mask)
    np.testing.assert_array_equal(read_plane(cohort.cases[0].images["T1"])[0], image)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "f4"])
def test_row_71_signed_and_unsigned(tmp_path: Path, kind: str, order: str) -> None:
    """A TIFF of signed, unsigned or real numbers is read as it was stored: -1 is -1 and 3,000,000,000 is itself."""
    limits = np.iinfo(kind) if kind != "f4" else np.finfo(np.float32)
    values = np.array(
        [[limits.min, 0, 1, 2**31 if kind == "u4" else 100], [3_000_000_000 if kind == "u4" else 7, 1, 2, 3]]
    )
    if kind[0] == "i":
        values[1, 0] = -1
    samples = values.astype(kind)[..., None]
    np.testing.assert_array_equal(
        read(tmp_path, tiff_file(samples, order=order), "a.tif"), samples[..., 0].astype(float)
    )


@pytest.mark.parametrize("kind", ["u1", "u2", "u4"])
def test_row_71_white_is_zero(tmp_path: Path, kind: str) -> None:
    """A TIFF that says 0 is white is turned to black is 0, exactly, at every depth; signed samples are refused."""
    top = np.iinfo(kind).max
    samples = np.array([[top, top - 1], [top - 2, top - 200]], kind)[..., None]
    np.testing.assert_array_equal(read(tmp_path, tiff_file(samples, photometric=0), "a.tif"), [[0, 1], [2, 200]])
    assert "0 is white" in refusal(tmp_path, tiff_file(samples.astype("i4"), photometric=0), "a.tif").what


def test_row_71_few_bits(tmp_path: Path) -> None:
    """Labels in a PNG of 1, 2 or 4 bits are the stored numbers, not shades that fill 0 to 255; palettes are refused."""
    for depth in (1, 2, 4):
        samples = RNG.integers(0, 2**depth, (9, 13, 1)).astype(np.uint8)
        np.testing.assert_array_equal(read(tmp_path, png_file(samples, depth, 0)), samples[..., 0])
        assert "palette" in refusal(tmp_path, png_file(samples, depth, 3)).what


def test_row_71_numbers_that_would_be_rounded(tmp_path: Path) -> None:
    """Whole numbers that 32-bit floats do not hold are refused, and so are values whose differences they would lose."""
    exact = np.array([[2**24, 2**30], [0, 3]], np.int32)[..., None]
    np.testing.assert_array_equal(read(tmp_path, tiff_file(exact), "a.tif"), exact[..., 0].astype(float))
    for values in (
        np.array([[2**24 + 1, 0]], np.uint32),
        np.array([[2**30 + 1, 2**30 + 2]], np.int32),
        np.array([[2**60 + 1, 2**60]], np.int64),
        np.array([[1e9, 1e9 + 1, 1e9 + 2]]),
    ):
        assert refusal(tmp_path, tiff_file(values[..., None]), "a.tif").code == "precision_lost"
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(VolumeError, match="float32 moves its values"):
            read_plane(ImageRef(tmp_path / "a.npy"))
    np.save(tmp_path / "a.npy", RNG.normal(size=(5, 5)))
    read_plane(ImageRef(tmp_path / "a.npy"))


def test_row_72_flipped_bits(tmp_path: Path) -> None:
    """Every single flipped bit of a PNG is caught by the checksums that are compared."""
    mask = np.zeros((16, 16, 1), np.uint8)
    mask[3:9, 4:11] = 255
    raw = png_file(mask, 8, 0)
    for place in range(8 * len(raw)):
        content = bytearray(raw)
        content[place // 8] ^= 1 << (place % 8)
        assert refusal(tmp_path, bytes(content)).code == "corrupt"


def test_row_72_checksums_and_rows(tmp_path: Path) -> None:
    """A PNG with a false checksum, too few rows, too many, or bytes behind its end is quarantined, image and mask."""
    mask = np.zeros((40, 48, 1), np.uint8)
    mask[10:20, 10:20] = 1
    rows = rows_of(mask, 8, (0,))
    sound = png_file(mask, 8, 0)
    at = sound.index(b"IDAT")
    false = sound[:at] + sound[at:].replace(sound[-16:-12], b"\0\0\0\0")
    half = SIGNATURE + header(48, 40, 8, 0) + chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2])) + chunk(b"IEND")
    more = SIGNATURE + header(48, 39, 8, 0) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")
    for content in (false, half, more, sound + b"more"):
        assert refusal(tmp_path, content).code == "corrupt"
        cohort = cohort_of(tmp_path, png_file(RNG.integers(1, 99, mask.shape).astype(np.uint8), 8, 0), content)
        assert codes(check_cohort(cohort)) == {"p-1": ["corrupt"]}


def test_row_72_strips_of_a_tiff(tmp_path: Path) -> None:
    """A TIFF whose strip is short, overlong, or of a deflate stream with a false checksum is quarantined."""
    samples = RNG.integers(0, 99, (40, 48, 1)).astype(np.uint8)
    packed = zlib.compress(samples.tobytes())
    np.testing.assert_array_equal(read(tmp_path, tiff_file(samples, packed=packed), "a.tif"), samples[..., 0])
    for content in (packed[:-1] + bytes([packed[-1] ^ 1]), zlib.compress(samples[:20].tobytes()), packed + b"more"):
        assert refusal(tmp_path, tiff_file(samples, packed=content), "a.tif").code == "corrupt"
    short = tiff_file(samples).replace(struct.pack("<I", 1920), struct.pack("<I", 960))
    assert "holds 960 bytes and needs 1920" in refusal(tmp_path, short, "a.tif").what


def test_row_72_bombs(tmp_path: Path) -> None:
    """A PNG or TIFF that unfolds to more than any picture, or than its bytes can, is refused before it is unpacked."""
    pixels = chunk(b"IDAT", zlib.compress(bytes(2**20)))
    for size, code in ((2**16, "too_large"), (2**13, "corrupt")):
        assert refusal(tmp_path, SIGNATURE + header(size, size, 16, 6) + pixels + chunk(b"IEND")).code == code
    flat = np.zeros((1, 1, 1), np.uint8)
    for size, code in ((2**16, "too_large"), (2**13, "corrupt")):
        file = tiff_file(np.broadcast_to(flat, (size, size, 1)), packed=zlib.compress(bytes(2**20)))
        assert refusal(tmp_path, file, "a.tif").code == code


def test_row_58_a_jpeg_whose_data_breaks_off(tmp_path: Path) -> None:
    """A JPEG whose data breaks off before a sound end marker is quarantined: no grey rest is taken for pixels."""
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 48, 3)).astype(np.uint8)).save(file, "JPEG")
    raw = file.getvalue()
    assert "breaks off" in refusal(tmp_path, raw[: len(raw) // 2].removesuffix(b"\xff") + b"\xff\xd9", "a.jpg").what


def test_row_73_two_looks_say_the_same(tmp_path: Path) -> None:
    """What is found in a damaged picture holds no address of memory: two looks give one text, and one hash."""
    sound = png_file(RNG.integers(0, 2, (40, 48, 1)).astype(np.uint8), 8, 0)
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 48)).astype(np.uint8)).save(file, "JPEG")
    jpeg = file.getvalue()
    for content in (
        jpeg[:2] + b"\0\0" + jpeg[4:],
        jpeg[:200],
        b"no picture at all",
        jpeg[:3],
        b"II*\0" + jpeg,
        sound[:60],
    ):
        texts = []
        for _ in range(2):
            keep = [bytearray(n) for n in range(1, 5000, 7)]  # so that the next object lies elsewhere
            report = check_cohort(cohort_of(tmp_path, content, sound))
            texts.append(json.dumps(report.to_json()))
            del keep
        assert codes(report)["p-1"] == ["corrupt"]
        assert texts[0] == texts[1]
        assert "0x" not in texts[0]
        assert str(tmp_path) not in texts[0]


@pytest.mark.parametrize("kind", ["png", "tif", "jpg"])
def test_row_58_every_format_is_turned_alike(tmp_path: Path, kind: str) -> None:
    """A turn by EXIF is refused alike in PNG (wherever its chunk stands), TIFF and JPEG; so is one in XMP."""
    grey = Image.fromarray(RNG.integers(0, 256, (40, 48)).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = 8
    grey.save(tmp_path / f"a.{kind}", exif=exif)
    assert refusal(tmp_path, (tmp_path / f"a.{kind}").read_bytes(), f"b.{kind}").code == "exif_orientation"
    if kind == "png":
        late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        assert refusal(tmp_path, png_file(np.asarray(grey)[..., None], 8, 0, after=late)).code == "exif_orientation"


def test_row_71_all_channels_of_a_file(tmp_path: Path) -> None:
    """Channels of a 16-bit colour picture that are read by number are the stored ones."""
    samples = RNG.integers(0, 2**16, (9, 13, 3)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png_file(samples, 16, 2))
    planes, _ = read_planes([ImageRef(tmp_path / "a.png", channel) for channel in range(3)])
    np.testing.assert_array_equal(np.stack(planes, -1), samples)
