"""Faces in the CelebAMask-HQ layout (19 classes, RGB): read from a folder, or drawn where nobody has one.

Layout (Lee et al. 2020): ``CelebA-HQ-img/<n>.jpg`` and, for each part that is visible, a black-and-white
``CelebAMask-HQ-mask-anno/<n // 2000>/<n with five digits>_<part>.png``.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from seglens.artifacts import hash_file, hash_of
from seglens.cohorts.case import ImageRef
from seglens.cohorts.image2d import read_plane, read_planes
from seglens.cohorts.slice_set import SliceSet, evenly_spaced

IMAGES, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
PARTS = (
    "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r", "nose", "mouth", "u_lip",
    "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
"""In the data set's own order; where parts overlap the later one is on top."""
LABELS: Mapping[int, str] = {0: "background"} | {value + 1: part for value, part in enumerate(PARTS)}
SPLITS = ("train", "train", "train", "val", "test")
"""Of five consecutive images."""
DRAWN = 128
"""Rows and columns of a drawn image."""


def draw_faces(folder: Path, n: int, seed: int) -> None:
    """Write ``n`` simple faces in the layout: ellipses of the parts' colours, with accessories on some of them."""
    (folder / IMAGES).mkdir(parents=True)
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        regions = _face(rng)
        colours = _colours(rng)
        label = np.zeros((DRAWN, DRAWN), np.uint8)
        masks = folder / MASKS / str(number // 2000)
        masks.mkdir(parents=True, exist_ok=True)
        for part in _PAINTED:
            if part in regions:
                label[regions[part]] = PARTS.index(part) + 1
        for part in PARTS:
            visible = label == PARTS.index(part) + 1
            if visible.any():
                Image.fromarray(visible.astype(np.uint8) * 255).save(masks / f"{number:05d}_{part}.png")
        light = np.linspace(rng.uniform(0.75, 1), rng.uniform(0.75, 1), DRAWN)[None, :, None]
        image = colours[label] * light + rng.normal(0, 9, (DRAWN, DRAWN, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / IMAGES / f"{number}.jpg", quality=92)


def read_faces(folder: Path, size: int, most: int) -> SliceSet:
    """Images and their parts as slices with the sequences red, green and blue.

    Args:
        folder: in the CelebAMask-HQ layout.
        size: rows and columns, a multiple of 32.
        most: at most so many images, evenly spaced.

    Raises:
        ValueError: no image, one without any part, or a file that is damaged.
    """
    paths = face_images(folder, most)
    images, masks, bare = [], [], []
    for path in paths:
        planes, _ = read_planes([ImageRef(path, channel) for channel in range(3)], constant=True)
        colours = Image.fromarray(np.stack(planes, -1).astype(np.uint8))
        pixels = np.asarray(colours.resize((size, size), Image.Resampling.BILINEAR), np.float32)
        images.append(torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1)
        mask = _parts_of(folder, int(path.stem), size)
        masks.append(torch.from_numpy(mask))
        if not mask.any():
            bare.append(path.stem)
    if bare:
        raise ValueError(
            f"{folder}: images {', '.join(bare[:5])} ({len(bare)}) have no part in {MASKS}; "
            f"masks are {MASKS}/<n // 2000>/<n with five digits>_<part>.png"
        )
    names = [path.stem for path in paths]
    splits = [SPLITS[row % len(SPLITS)] for row in range(len(paths))]
    return SliceSet.from_tensors(
        torch.stack(images),
        torch.stack(masks),
        torch.ones(len(paths), size, size, dtype=torch.bool),
        pl.DataFrame({"case": names, "patient": names, "split": splits}),
        name="faces",
        sequences=("red", "green", "blue"),
        labels=LABELS,
    )


def face_images(folder: Path, most: int) -> list[Path]:
    """The images of a folder in the order of their numbers, at most so many, evenly spaced.

    Raises:
        ValueError: there is none.
    """
    found = [path for path in (folder / IMAGES).glob("*.jpg") if path.stem.isdigit()]
    if not found:
        raise ValueError(f"{folder}: no {IMAGES}/<number>.jpg there; give a folder in the CelebAMask-HQ layout")
    found.sort(key=lambda path: int(path.stem))
    return [found[row] for row in evenly_spaced(len(found), most)]


def folder_hash(folder: Path, most: int) -> str:
    """Identity of the images that are read and of their parts."""
    paths = face_images(folder, most)
    files = [*paths, *(mask for path in paths for mask in _mask_paths(folder, int(path.stem)).values())]
    return hash_of({str(path.relative_to(folder)): hash_file(path) for path in files})


def _mask_paths(folder: Path, number: int) -> dict[str, Path]:
    """Part to its file, in the order of painting."""
    stem = folder / MASKS / str(number // 2000) / f"{number:05d}"
    paths = {part: stem.with_name(f"{stem.name}_{part}.png") for part in PARTS}
    return {part: path for part, path in paths.items() if path.is_file()}


def _parts_of(folder: Path, number: int, size: int) -> UInt8[np.ndarray, "S S"]:
    label = np.zeros((size, size), np.uint8)
    for part, path in _mask_paths(folder, number).items():
        plane, _ = read_plane(ImageRef(path), constant=True)
        here = np.asarray(Image.fromarray(plane > 127).resize((size, size), Image.Resampling.NEAREST))
        label[here] = PARTS.index(part) + 1
    return label


_PAINTED = (
    "hair", "neck", "cloth", "neck_l", "l_ear", "r_ear", "ear_r", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g",
    "nose", "u_lip", "l_lip", "mouth", "hat",
)  # fmt: skip
"""From back to front in a drawn face."""


def _face(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Regions of a face: where each part would be seen if nothing were in front of it."""
    x, y = 64 + rng.uniform(-8, 8), 62 + rng.uniform(-5, 5)
    w, h = rng.uniform(23, 29), rng.uniform(30, 36)
    gap, brow = w * 0.45, h * 0.42
    ellipses = {
        "hair": (x, y - 8, w * 1.35, h * rng.uniform(1.05, 1.4)),
        "neck": (x, y + h + 8, w * 0.5, 18),
        "cloth": (x, 128, w * 1.9, 24),
        "l_ear": (x + w, y, 5, 9),
        "r_ear": (x - w, y, 5, 9),
        "skin": (x, y, w, h),
        "l_brow": (x + gap, y - brow, 8, 2.5),
        "r_brow": (x - gap, y - brow, 8, 2.5),
        "l_eye": (x + gap, y - h * 0.2, 6, 3.5),
        "r_eye": (x - gap, y - h * 0.2, 6, 3.5),
        "nose": (x, y + h * 0.12, 4.5, 9),
        "u_lip": (x, y + h * 0.5, 10, 3.5),
        "l_lip": (x, y + h * 0.6, 9, 4),
    }
    if rng.random() < 0.4:
        ellipses["mouth"] = (x, y + h * 0.55, 6, 2.5)
    if rng.random() < 0.35:
        ellipses["hat"] = (x, y - h, w * 1.4, 14)
    if rng.random() < 0.35:
        ellipses["neck_l"] = (x, y + h + 14, w * 0.55, 3)
    regions = {part: _ellipse(*box) for part, box in ellipses.items()}
    if rng.random() < 0.4:
        rims = [(x + side * gap, y - h * 0.2) for side in (-1, 1)]
        regions["eye_g"] = np.logical_or(*(_ellipse(cx, cy, 11, 8) & ~_ellipse(cx, cy, 8, 5.5) for cx, cy in rims))
    if rng.random() < 0.35:
        regions["ear_r"] = _ellipse(x + w, y + 11, 3, 4) | _ellipse(x - w, y + 11, 3, 4)
    return regions


def _ellipse(x: float | int, y: float | int, w: float | int, h: float | int) -> np.ndarray:
    canvas = Image.new("1", (DRAWN, DRAWN))
    ImageDraw.Draw(canvas).ellipse((x - w, y - h, x + w, y + h), fill=1)
    return np.asarray(canvas)


def _colours(rng: np.random.Generator) -> np.ndarray:
    """A colour for each label, [19 3]; eyes, lips and ears alike on both sides."""
    colours = rng.uniform(40, 220, (len(LABELS), 3))
    skin = np.array([rng.uniform(120, 235), 0, 0])
    skin[1:] = skin[0] * np.array([rng.uniform(0.7, 0.82), rng.uniform(0.55, 0.7)])
    fixed: dict[str, np.ndarray | tuple[int, int, int]] = {
        "skin": skin, "neck": skin * 0.92, "nose": skin * 0.86, "l_ear": skin * 0.9, "r_ear": skin * 0.9,
        "l_eye": (235, 235, 240), "r_eye": (235, 235, 240), "u_lip": (170, 60, 70), "l_lip": (190, 75, 80),
        "mouth": (80, 20, 25), "eye_g": (25, 25, 30), "ear_r": (235, 205, 60), "neck_l": (220, 190, 80),
    }  # fmt: skip
    fixed["l_brow"] = fixed["r_brow"] = rng.uniform(20, 70, 3)
    for part, colour in fixed.items():
        colours[PARTS.index(part) + 1] = colour
    return colours
