"""Phantom cohorts as prepared slices in memory, for examples and first trials."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slice_set import SliceSet
from seglens.cohorts.slices import prepare_slices
from seglens.phantoms.cohort import NO_FACTORS, write_phantom_cohort


def phantom_cohort(
    population: str,
    *,
    subjects: int = 10,
    seed: int = 0,
    factors: Mapping[str, str] = NO_FACTORS,
    size: int = 64,
    slices: int = 6,
    sequences: Sequence[str] = ("T1c", "FLAIR"),
) -> SliceSet:
    """Make a phantom cohort and prepare its slices, in memory; the files in between are gone afterwards.

    Sets of several populations fit one segmenter: all are prepared with the foreground rule ``brain``.

    Args:
        population: ``adult``, ``pediatric``, ``ssa`` or ``healthy``; the name of the set.
        subjects: how many; five or more, or a split may be empty.
        seed: every bit follows from it.
        factors: single differences switched on, as in `write_phantom_cohort`.
        size: rows and columns of a slice, pixels.
        slices: axial slices a subject.
        sequences: channels, of T1, T1c, T2 and FLAIR.

    Raises:
        ValueError: an unknown population, factor or sequence, or a number that is too small.

    Example:
        >>> adult = phantom_cohort("adult", subjects=5, size=32, slices=3)
        >>> adult.train.images().shape[1:]
        torch.Size([2, 1, 32, 32])
    """
    with TemporaryDirectory(prefix="seglens-phantoms-") as folder:
        place = Path(folder) / population
        write_phantom_cohort(place, population, subjects=subjects, seed=seed, factors=factors, size=size, slices=slices)
        return prepare_slices(read_cohort(place), Preprocessing(tuple(sequences), size=size, foreground="brain"))
