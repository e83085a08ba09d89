from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglens.cohorts.case import ImageRef
from seglens.cohorts.image2d import oriented, read_plane
from seglens.cohorts.volumes import VolumeError

RNG = np.random.default_rng(0)


def code_of(ref: ImageRef, **options: bool) -> str:
    with pytest.raises(VolumeError) as caught:
        read_plane(ref, **options)
    assert caught.value.fix
    return caught.value.code


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize(("bands", "channel"), [(3, 0), (3, 2), (4, 3), (4, 0)])
def test_a_channel_is_read_as_it_lies(tmp_path: Path, write_picture, ending: str, bands: int, channel: int) -> None:
    pixels = RNG.integers(0, 256, (7, 9, bands)).astype(np.uint8)
    path = write_picture(tmp_path / f"a{ending}", pixels)
    plane, sha256 = read_plane(ImageRef(path, channel))
    np.testing.assert_array_equal(plane, pixels[..., channel])
    assert plane.dtype == np.float32
    assert len(sha256) == 64


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_grey_files_of_any_depth(tmp_path: Path, write_picture, dtype: type) -> None:
    pixels = RNG.integers(0, 250, (7, 9)).astype(dtype)
    for channel in (None, 0):
        np.testing.assert_array_equal(
            read_plane(ImageRef(write_picture(tmp_path / "a.tif", pixels), channel))[0], pixels
        )


def test_inverted_leaves_the_background(tmp_path: Path, write_picture) -> None:
    pixels = np.array([[0, 1, 255], [0, 100, 7]], np.uint8)
    plane, _ = read_plane(ImageRef(write_picture(tmp_path / "a.png", pixels), inverted=True))
    np.testing.assert_array_equal(plane, [[0, 254, 0], [0, 155, 248]])
    deep = write_picture(tmp_path / "b.tif", (pixels * 3.0).astype(np.float32))
    assert code_of(ImageRef(deep, inverted=True)) == "not_8_bit"


@pytest.mark.parametrize("orientation", [a + b for a, b in ("PL", "PR", "AL", "AR", "LP", "LA", "RP", "RA")])
def test_orientation_against_a_loop(orientation: str) -> None:
    # truth: one value a place, as a radiologist sees it (rows to posterior, columns to left)
    truth = np.arange(12, dtype=np.float32).reshape(3, 4)
    places = {}
    for row in range(3):
        for column in range(4):
            way = {"P": row, "A": 2 - row, "L": column, "R": 3 - column}
            places[way[orientation[0]], way[orientation[1]]] = truth[row, column]
    stored = np.zeros((1 + max(r for r, _ in places), 1 + max(c for _, c in places)), np.float32)
    for (row, column), value in places.items():
        stored[row, column] = value
    np.testing.assert_array_equal(oriented(stored, orientation), truth)


def test_grey_saved_as_colours_needs_no_channel(tmp_path: Path, write_picture) -> None:
    grey = RNG.integers(0, 256, (5, 5)).astype(np.uint8)
    same = write_picture(tmp_path / "a.png", np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(read_plane(ImageRef(same))[0], grey)
    opaque = write_picture(tmp_path / "b.png", np.stack([grey, grey, grey, np.full_like(grey, 255)], -1))
    np.testing.assert_array_equal(read_plane(ImageRef(opaque))[0], grey)


def test_alpha_is_no_channel_where_it_hides_nothing(tmp_path: Path, write_picture) -> None:
    grey = RNG.integers(0, 256, (5, 5)).astype(np.uint8)
    opaque = np.full_like(grey, 255)
    for ending in (".png", ".tif"):
        path = write_picture(tmp_path / f"a{ending}", np.stack([grey, opaque], -1))
        np.testing.assert_array_equal(read_plane(ImageRef(path))[0], grey)
    for name, colours in (("la.png", [grey]), ("rgba.png", [grey] * 3)):
        veiled = opaque.copy()
        veiled[2, 3] = 254
        assert code_of(ImageRef(write_picture(tmp_path / name, np.stack([*colours, veiled], -1)))) == "which_channel"


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7])
def test_every_channel_of_an_array_counts(tmp_path: Path, n: int) -> None:
    path = tmp_path / "a.npy"
    grey = RNG.normal(size=(5, 6))
    np.save(path, np.stack([grey] * n, -1))
    np.testing.assert_array_equal(read_plane(ImageRef(path))[0], grey.astype(np.float32))
    for odd in range(n):
        np.save(path, np.stack([np.full_like(grey, 255) if channel == odd else grey for channel in range(n)], -1))
        assert code_of(ImageRef(path)) == "which_channel"
    np.testing.assert_array_equal(read_plane(ImageRef(path, 0))[0], grey.astype(np.float32))


def test_an_array_of_one_channel_needs_none_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(4)[..., None])
    np.testing.assert_array_equal(read_plane(ImageRef(tmp_path / "a.npy"))[0], np.eye(4))
    np.save(tmp_path / "n.npy", np.where(np.eye(4) > 0, np.nan, 1.0)[..., None])
    assert code_of(ImageRef(tmp_path / "n.npy")) == "nonfinite_voxels"


def test_what_is_refused(tmp_path: Path, write_picture, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = write_picture(tmp_path / "a.png", RNG.integers(0, 256, (5, 5, 3)).astype(np.uint8))
    assert code_of(ImageRef(colours)) == "which_channel"
    assert code_of(ImageRef(colours, 3)) == "no_such_channel"
    grey = write_picture(tmp_path / "g.png", RNG.integers(0, 256, (50, 50)).astype(np.uint8))
    assert code_of(ImageRef(grey, 1)) == "no_such_channel"
    assert code_of(ImageRef(tmp_path / "none.png")) == "missing"
    (tmp_path / "e.png").write_bytes(b"")
    assert code_of(ImageRef(tmp_path / "e.png")) == "empty_file"
    (tmp_path / "h.png").write_bytes(b"<html>no such file</html>")
    assert code_of(ImageRef(tmp_path / "h.png")) == "corrupt"
    (tmp_path / "t.png").write_bytes(grey.read_bytes()[:-400])
    assert code_of(ImageRef(tmp_path / "t.png")) == "corrupt"
    flat = write_picture(tmp_path / "f.png", np.full((4, 4), 9, np.uint8))
    assert code_of(ImageRef(flat)) == "constant"
    assert read_plane(ImageRef(flat), constant=True)[0].max() == 9
    nan = np.ones((4, 4), np.float32)
    nan[0, 0] = np.nan
    assert code_of(ImageRef(write_picture(tmp_path / "n.tif", nan))) == "nonfinite_voxels"
    np.save(tmp_path / "large.npy", np.eye(4) * 1e39)
    assert code_of(ImageRef(tmp_path / "large.npy")) == "precision_lost"
    Image.fromarray(np.eye(4, dtype=np.uint8)).convert("P").save(tmp_path / "p.png")
    assert code_of(ImageRef(tmp_path / "p.png")) == "unknown_datatype"
    frame = Image.fromarray(np.eye(4, dtype=np.uint8))
    frame.save(tmp_path / "s.tif", save_all=True, append_images=[frame])
    assert code_of(ImageRef(tmp_path / "s.tif")) == "several_frames"
    monkeypatch.setattr("seglens.foreign.pictures.MAX_PIXELS", 100)
    assert code_of(ImageRef(grey)) == "too_large"
    monkeypatch.setattr("seglens.cohorts.image2d.MAX_FILE_BYTES", 10)
    assert code_of(ImageRef(grey)) == "too_large"
