"""Cohorts become slices: read, normalise, choose, resize, in memory or straight into shards on disk."""

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from seglens.artifacts import Draft, hash_tensors, new_artifact, read_artifact
from seglens.cohorts.augmentation import augment as augment
from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.normalising import brain_of, normalise, resize
from seglens.cohorts.slice_set import KIND, Shard, assemble, complete_index, rows_per_shard, shard_name, write_head
from seglens.cohorts.slice_set import Preprocessing as Preprocessing
from seglens.cohorts.slice_set import SliceSet as SliceSet
from seglens.cohorts.stacks import read_case
from seglens.progress import Progress, silent

UNASSIGNED = "none"


def prepare_slices(
    cohort: Cohort,
    preprocessing: Preprocessing,
    *,
    folder: Path | None = None,
    quarantined: Set[str] = frozenset(),
    seed: int = 0,
    progress: Progress = silent,
) -> SliceSet:
    """Read a cohort's cases and keep its slices.

    Intensities are clipped and z-scored over the brain of a whole volume (of all slices of a patient where the files
    are 2-D). Of each volume the slices with enough brain are candidates: those that show a lesion, thinned to
    ``slices_per_volume``, and so many others, drawn at random, that in each split ``lesion_free_share`` of the kept
    slices show none, as far as the volumes seen so far allow. One volume is in memory at a time.

    Args:
        cohort: cases with masks.
        preprocessing: sequences, size and choice of slices.
        folder: write an artifact of kind ``slices`` there, shard by shard, and return it as read from disk; None keeps
            everything in memory. Both have the same hash.
        quarantined: ids of cases to leave out (`CheckReport.quarantined`).
        seed: of the choice of lesion-free slices.
        progress: told of each volume.

    Returns:
        The slices, in order of the cohort's cases.

    Raises:
        VolumeError: a case that is not quarantined cannot be read.
        ValueError: a sequence that the cohort does not have, or no slice to keep.
        ArtifactError: ``folder`` exists.
    """
    cohort = cohort.with_sequences(preprocessing.sequences)
    cases = [case for case in cohort.cases if case.id not in quarantined]
    if folder is None:
        return _prepare(cohort, cases, preprocessing, seed, progress, None)
    inputs = {
        "cohort": cohort.name,
        "cases": [case.id for case in cases],
        "labels": {str(value): name for value, name in cohort.labels.items()},
        "preprocessing": asdict(preprocessing),
        "seed": seed,
    }
    with new_artifact(folder, kind=KIND, inputs=inputs) as draft:
        _prepare(cohort, cases, preprocessing, seed, progress, draft)
    return SliceSet.read(read_artifact(folder, KIND))


@dataclass(frozen=True, eq=False)
class _Volume:
    """The slices of one unit: images [C D H W], masks and brains [D H W], and whose slice each is."""

    name: str
    images: list[NDArray[np.float32]]
    masks: NDArray[np.uint8]
    brains: NDArray[np.bool_]
    cases: list[Case]
    positions: list[int]
    spacing_mm: tuple[float, float]


class _Quota:
    """How many lesion-free slices a volume gives, so that each split comes as near to the share as it can."""

    def __init__(self, share: float):
        self._share = share
        self._lesions: dict[str, int] = defaultdict(int)
        self._free: dict[str, int] = defaultdict(int)

    def take(self, split: str, n_lesions: int, n_free: int) -> int:
        if self._share >= 1:
            return n_free
        self._lesions[split] += n_lesions
        wanted = round(self._lesions[split] * self._share / (1 - self._share)) - self._free[split]
        taken = max(0, min(n_free, wanted))
        self._free[split] += taken
        return taken


def _prepare(
    cohort: Cohort,
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    seed: int,
    progress: Progress,
    draft: Draft | None,
) -> SliceSet:
    splits = cohort.split_of()
    quota = _Quota(preprocessing.lesion_free_share)
    size = preprocessing.size
    step = rows_per_shard(len(cohort.sequences), (size, size))
    shards: list[Shard] = []
    hashes: list[str] = []
    index: list[dict[str, Any]] = []
    waiting: list[Shard] = []

    def close(shard: Shard) -> None:
        hashes.append(hash_tensors(shard.tensors()))
        if draft is None:
            shards.append(shard)
        else:
            draft.save_tensors(shard_name(len(hashes) - 1), shard.tensors())

    units = _units(cases)
    for number, unit in enumerate(units):
        for volume in _read_unit(unit, cohort, preprocessing):
            split = splits.get(volume.cases[0].id, UNASSIGNED)
            chosen = _choose(volume, split, preprocessing, quota, seed)
            if len(chosen):
                waiting.append(_tensors(volume, chosen, size))
                index += _rows(volume, chosen, split, size)
        while sum(map(len, waiting)) >= step:
            shard, waiting = _take(waiting, step)
            close(shard)
        progress(number + 1, len(units), slices=len(index))
    if not index:
        raise ValueError(
            f"{cohort.name}: no slice of {len(cases)} cases is kept; lower minimum_brain_share "
            f"({preprocessing.minimum_brain_share}) or raise lesion_free_share ({preprocessing.lesion_free_share})"
        )
    if waiting:
        close(_take(waiting, sum(map(len, waiting)))[0])
    table = complete_index(pl.DataFrame(index))
    slices = assemble(
        shards, table, name=cohort.name, sequences=cohort.sequences, labels=cohort.labels, shard_hashes=hashes
    )
    if draft is not None:
        write_head(draft, slices, len(hashes))
    return slices


def _units(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases of each volume together, in order of the first."""
    units: dict[str, list[Case]] = {}
    for case in cases:
        units.setdefault(case.volume, []).append(case)
    return [sorted(unit, key=lambda case: case.position or 0) for unit in units.values()]


def _read_unit(unit: Sequence[Case], cohort: Cohort, preprocessing: Preprocessing) -> Iterator[_Volume]:
    """A volume's cases, normalised over all of it; 2-D slices of differing size come one by one."""
    read = [read_case(case, cohort.sequences, cohort.labels) for case in unit]
    brains = [brain_of([stack.values for stack in stacks]) for stacks, _ in read]
    if not any(brain.any() for brain in brains):
        return
    inside = np.concatenate([brain.ravel() for brain in brains])
    images: list[list[NDArray[np.float32]]] = [[] for _ in unit]
    for channel in range(len(cohort.sequences)):
        values = np.concatenate([stacks[channel].values.ravel() for stacks, _ in read])
        normal = normalise(values[None, None], inside[None, None], preprocessing.clip_percentiles).ravel()
        start = 0
        for place, brain in enumerate(brains):
            images[place].append(normal[start : start + brain.size].reshape(brain.shape))
            start += brain.size
    for case, (stacks, mask), brain, normalised in zip(unit, read, brains, images, strict=True):
        positions = list(range(len(mask))) if case.position is None else [case.position]
        owners = [case] * len(positions)
        yield _Volume(case.volume, normalised, mask, brain, owners, positions, stacks[0].spacing_mm)
