"""Lesion-wise Dice, as the BraTS 2023 challenges score it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

DILATION = 3
"""Voxels: of BraTS-GLI, -SSA and -PED; -MEN and -MET take 1."""
MIN_MM3 = 50.0
"""Of all BraTS 2023 challenges but -MET, which takes 2."""


@dataclass(frozen=True)
class LesionScores:
    """Lesions of one volume, each found or missed.

    Attributes:
        dice: sum of the lesions' Dice over the number of lesions and false lesions; 1 where there are neither.
        n_lesions: lesions of the truth that are larger than the smallest that counts.
        n_missed: those of them that no part of the prediction comes near.
        n_false: parts of the prediction that come near no lesion, however small.
    """

    dice: float
    n_lesions: int
    n_missed: int
    n_false: int


def lesion_scores(
    predicted: Bool[np.ndarray, "D H W"],
    truth: Bool[np.ndarray, "D H W"],
    voxel_mm3: float,
    *,
    dilation: int = DILATION,
    min_mm3: float = MIN_MM3,
) -> LesionScores:
    """Score a prediction lesion by lesion (BraTS 2023, lesion-wise Dice).

    Parts of the truth that touch when each is grown by ``dilation`` voxels are one lesion. To a lesion belong all
    connected parts of the prediction that its own grown shape meets; its Dice is between the lesion and the whole of
    these parts. Parts that belong to no lesion are false and count 0. Voxels are connected by faces, edges and corners;
    growth is by faces and edges.

    Args:
        predicted: one class of a prediction.
        truth: the same class of the mask.
        voxel_mm3: volume of a voxel.
        dilation: voxels by which lesions grow, whatever the spacing, as in the challenge.
        min_mm3: lesions of at most this volume are left out; what is predicted near them is not false.
    """
    from scipy import ndimage

    connected, growth = ndimage.generate_binary_structure(3, 3), ndimage.generate_binary_structure(3, 2)

    def grown(mask: Bool[np.ndarray, "D H W"]) -> Bool[np.ndarray, "D H W"]:
        return ndimage.binary_dilation(mask, growth, iterations=dilation) if dilation else mask

    parts, n_parts = ndimage.label(predicted, connected)
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    lesions = np.where(truth, ndimage.label(grown(truth), connected)[0], 0)
    belonging: set[int] = set()
    dice: list[float] = []
    n_missed = 0
    for number, box in enumerate(ndimage.find_objects(lesions), start=1):
        wider = tuple(
            slice(max(0, side.start - dilation), min(length, side.stop + dilation))
            for side, length in zip(box, truth.shape, strict=True)
        )
        lesion, nearby = lesions[wider] == number, parts[wider]
        own = np.unique(nearby[grown(lesion)])
        own = own[own > 0]
        belonging.update(own.tolist())
        n_voxels = int(np.count_nonzero(lesion))
        if n_voxels * voxel_mm3 > min_mm3:
            common = int(np.count_nonzero(np.isin(nearby, own) & lesion))
            dice.append(2 * common / (n_voxels + int(sizes[own].sum())))
            n_missed += not len(own)
    n_false = n_parts - len(belonging)
    n_scored = len(dice) + n_false
    return LesionScores(sum(dice) / n_scored if n_scored else 1.0, len(dice), n_missed, n_false)
