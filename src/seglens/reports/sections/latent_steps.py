"""Latent cards of every segmenter, and the steps behind one of them (paper, figures 2, 12 and 13)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from seglens.cohorts.slice_set import Ends, SliceSet
from seglens.reports.blocks import Block, Cards, Fold, Picture, Pictures
from seglens.reports.palette import CLASSES, class_colours
from seglens.reports.pictures import best_sequence, heat_picture, mask_picture
from seglens.reports.sections.gallery import chosen_latents, described_slices, gallery_section
from seglens.reports.shown_planes import plane_at, planes_of, strongest_planes
from seglens.runs import Run
from seglens.semantics.atlas import LatentAtlas
from seglens.semantics.geometry import brain_depth, edge_band
from seglens.semantics.localisation import localise

CAPTION = (
    "The steps behind a latent's description: the slice, the brain, the edge band at its surface, the labels, the "
    "activation enlarged over the slice with the label's outline, and the centroid of the highly activated pixels "
    "(ring). The metrics of the table are sums and shares over these regions."
)


def latent_blocks(run: Run, cohorts: Mapping[str, str]) -> list[Block]:
    """Steps for one latent, then the cards of each segmenter, those after the first folded.

    Args:
        run: with atlases and slices.
        cohorts: segmenter to the cohort that it was trained on.
    """
    described = [name for name in cohorts if f"atlas/{name}" in run]
    if not described:
        return []
    blocks = [*_steps(run, cohorts, described)]
    open_yet = False
    for block in gallery_section(run, cohorts).blocks:
        folded = isinstance(block, Cards) and open_yet
        open_yet = open_yet or isinstance(block, Cards)
        blocks.append(Fold(block.title, (block,)) if folded and isinstance(block, Cards) else block)
    return blocks


def _steps(run: Run, cohorts: Mapping[str, str], described: list[str]) -> list[Block]:
    name = "pediatric" if "pediatric" in described else described[-1]
    atlas = LatentAtlas.read(run.artifact(f"atlas/{name}"))
    classes = [label for value, label in sorted(atlas.labels.items()) if value != 0]
    latents = chosen_latents(atlas.table, classes, 1)
    if not latents:
        return []
    exemplars, maps = atlas.exemplars_of(latents[0])
    row = int(exemplars["row"][0])
    slices = described_slices(run, cohorts[name])
    facts = atlas.of(latents[0])
    title = f"{facts['name']} (latent {latents[0]} of {name})"
    return [Pictures(title, _pictures(slices, row, maps[0].float(), str(facts["top_class"])), CAPTION, per_row=6)]


def _pictures(slices: SliceSet, row: int, latent_map: torch.Tensor, top_class: str) -> tuple[Picture, ...]:
    brains = slices.brains([row])
    heat, numbers = strongest_planes(latent_map[None], slices.size[0])
    (images, masks, shown_brains), _ = planes_of(slices, [row], numbers)
    image, mask, brain, grid = images[0], masks[0], shown_brains[0], heat[0]
    scan = image[best_sequence(slices.sequences, top_class)]
    edge = plane_at(edge_band(brain_depth(brains, slices.spacing_mm([row])), brains), numbers)[0].numpy()
    where = localise(latent_map[None], torch.tensor([row]), slices)
    strongest = float(latent_map.max())
    label = next((value for value, name in slices.labels.items() if name == top_class and value), None)
    region = None if label is None else mask == label
    ring = _ring(brain, slices.ends(row), float(where["centroid_row"]), float(where["centroid_column"]))
    shown = (
        ("slice", mask_picture(scan, brain, None, {})),
        ("brain", mask_picture(scan, brain, brain.astype(np.uint8), {1: CLASSES[1]})),
        ("edge band", mask_picture(scan, brain, edge.astype(np.uint8), {1: CLASSES[2]})),
        ("labels", mask_picture(scan, brain, mask, class_colours(slices.labels))),
        ("activation", heat_picture(scan, brain, grid, strongest, region=region, side=208)),
        ("centroid", heat_picture(scan, brain, grid, strongest, region=ring, side=208)),
    )
    return tuple(Picture(uri, f"{words} of the exemplar slice", 208, 208, words) for words, uri in shown)


def _ring(brain: np.ndarray, ends: Sequence[Ends] | None, row_share: float, column_share: float) -> np.ndarray:
    """A disc around a place given as shares of the brain's extent; pictures draw its outline."""
    rows, columns = np.nonzero(brain.any(1))[0], np.nonzero(brain.any(0))[0]
    if not rows.size or np.isnan(row_share + column_share):
        return np.zeros_like(brain)
    (top, bottom), (first, last) = ends[1:] if ends else ((rows[0], rows[-1]), (columns[0], columns[-1]))
    row = top + row_share * (bottom - top)
    column = first + column_share * (last - first)
    y, x = np.ogrid[: brain.shape[0], : brain.shape[1]]
    return (y - row) ** 2 + (x - column) ** 2 <= (0.045 * brain.shape[0]) ** 2
