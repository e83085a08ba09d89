"""Cohorts become slices: read, normalise, choose, resize, in memory or straight into shards on disk."""

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from seglens.artifacts import Draft, hash_tensors, new_artifact, read_artifact
from seglens.cohorts.augmentation import augment
from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.normalisation_groups import GroupMember, groups_of, read_group, scales_of
from seglens.cohorts.normalising import Intensities, resize, resize_nearest
from seglens.cohorts.slice_set import (
    KIND,
    Preprocessing,
    SliceSet,
    SliceShard,
    assemble,
    complete_index,
    rows_per_shard,
    shard_name,
    write_head,
)
from seglens.cohorts.volumes import VolumeError
from seglens.runtime.progress import Progress, silent
from seglens.runtime.resources import require_disk

UNASSIGNED = "none"
NOTHING_KNOWN: Mapping[Path, str] = MappingProxyType({})

__all__ = ["UNASSIGNED", "Preprocessing", "SliceSet", "augment", "prepare_slices"]


def prepare_slices(
    cohort: Cohort,
    preprocessing: Preprocessing,
    *,
    folder: Path | None = None,
    quarantined: Set[str] = frozenset(),
    sha256: Mapping[Path, str] = NOTHING_KNOWN,
    seed: int = 0,
    progress: Progress = silent,
) -> SliceSet:
    """Read a cohort's cases and keep its slices.

    Intensities are clipped and z-scored over the brain of a whole volume (of all slices of a patient where the files
    are 2-D). Of each volume the slices with enough brain are candidates: those that show a lesion, thinned to
    ``slices_per_volume``, and so many without any, drawn at random, that in each split ``lesion_free_share`` of the
    kept slices show none, as far as the volumes seen so far allow. One volume is in memory at a time.

    Args:
        cohort: cases with masks.
        preprocessing: sequences, size and choice of slices.
        folder: write an artifact of kind ``slices`` there, shard by shard, and return it as read from disk; None keeps
            everything in memory. Both have the same hash.
        quarantined: ids of cases to leave out (`CheckReport.quarantined`), as if they had never been there.
        sha256: of files, where they are known: a file that is another by now is refused.
        seed: of the choice of lesion-free slices.
        progress: told of each volume.

    Returns:
        The slices, in order of the cohort's cases.

    Raises:
        VolumeError: a case that is not quarantined cannot be read, or its files are not those of ``sha256``.
        ValueError: a sequence that the cohort does not have, or no slice to keep.
        ArtifactError: ``folder`` exists.
    """
    cohort = cohort.with_sequences(preprocessing.sequences).without(quarantined)
    cases = cohort.cases
    if folder is None:
        return _prepare(cohort, cases, preprocessing, sha256=sha256, seed=seed, progress=progress, draft=None)
    inputs = {
        "cohort": cohort.name,
        "cases": [case.id for case in cases],
        "labels": {str(value): name for value, name in cohort.labels.items()},
        "preprocessing": asdict(preprocessing),
        "seed": seed,
    }
    with new_artifact(folder, kind=KIND, inputs=inputs) as draft:
        _prepare(cohort, cases, preprocessing, sha256=sha256, seed=seed, progress=progress, draft=draft)
    return SliceSet.read(read_artifact(folder, KIND))


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
    *,
    sha256: Mapping[Path, str],
    seed: int,
    progress: Progress,
    draft: Draft | None,
) -> SliceSet:
    splits = cohort.split_of()
    quota = _Quota(preprocessing.lesion_free_share)
    size = preprocessing.size
    step = rows_per_shard(len(cohort.sequences), (size, size))
    shards: list[SliceShard] = []
    hashes: list[str] = []
    index: list[dict[str, Any]] = []
    waiting: list[SliceShard] = []

    def close(shard: SliceShard) -> None:
        hashes.append(hash_tensors(shard.tensors()))
        if draft is None:
            shards.append(shard)
        else:
            draft.save_tensors(shard_name(len(hashes) - 1), shard.tensors())

    units = groups_of(cases)
    for number, unit in enumerate(units):
        parts = read_group(unit, cohort.sequences, cohort.labels)
        for path, digest in (own for part in parts for own in part.sha256.items()):
            if sha256.get(path, digest) != digest:
                raise VolumeError(path, "changed", "was written to since it was checked", "run again when it rests")
        if not any(part.brains.any() for part in parts):
            parts = []
        scales = scales_of(parts, preprocessing.clip_percentiles)
        split = splits.get(unit[0].id, UNASSIGNED)
        for part, chosen in _choose(parts, split, preprocessing, quota, seed):
            waiting.append(_tensors(part, chosen, scales, size))
            index += _rows(part, chosen, split, size)
        if number == 0 and draft is not None:
            n_bytes = len(units) * sum(tensor.nbytes for shard in waiting for tensor in shard.tensors().values())
            require_disk(draft.path, n_bytes, f"slices of {len(units)} volumes (fewer with slices_per_volume)")
        while sum(map(len, waiting)) >= step:
            shard, waiting = _take(waiting, step)
            close(shard)
        progress(number + 1, len(units), slices=float(len(index)))
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


def _choose(
    parts: Sequence[GroupMember], split: str, preprocessing: Preprocessing, quota: _Quota, seed: int
) -> Iterator[tuple[GroupMember, NDArray[np.int64]]]:
    """Of each part the slices to keep, in order; parts without any are left out."""
    if not parts:
        return
    lesion: list[tuple[int, int]] = []
    free: list[tuple[int, int]] = []
    for number, part in enumerate(parts):
        enough = part.brains.mean((1, 2)) >= preprocessing.minimum_brain_share
        has = part.masks.max((1, 2)) > 0
        shows = resize_nearest(torch.from_numpy(part.masks), preprocessing.size).flatten(1).amax(1).numpy() > 0
        for depth in np.flatnonzero(enough).tolist():
            if shows[depth]:
                lesion.append((number, depth))
            elif not has[depth]:  # a lesion that resizing loses is neither shown nor absent
                free.append((number, depth))
    limit = preprocessing.slices_per_volume
    if preprocessing.lesion_free_share >= 1:
        lesion = []
    elif limit is not None and len(lesion) > limit:
        lesion = [lesion[i] for i in np.linspace(0, len(lesion) - 1, limit).round().astype(int).tolist()]
    n_free = quota.take(split, len(lesion), len(free))
    if limit is not None and not lesion:
        n_free = min(n_free, limit)
    if n_free < len(free):
        # the draw hangs on the volume's own name, so other cases coming or going do not change which slices it gives
        own = zlib.crc32(parts[0].case.volume.encode())
        drawn = np.random.default_rng([seed, own]).permutation(len(free))[:n_free]
        free = [free[i] for i in drawn.tolist()]
    kept = sorted([*lesion, *free])
    for number, part in enumerate(parts):
        chosen = np.array([depth for owner, depth in kept if owner == number], np.int64)
        if len(chosen):
            yield part, chosen


def _tensors(part: GroupMember, chosen: NDArray[np.int64], scales: Sequence[Intensities], size: int) -> SliceShard:
    images, brains = part.normalised(scales, chosen), part.brains[chosen]
    masks = part.masks[chosen]
    return SliceShard(*resize(torch.from_numpy(images), torch.from_numpy(masks), torch.from_numpy(brains), size))


def _rows(part: GroupMember, chosen: NDArray[np.int64], split: str, size: int) -> list[dict[str, Any]]:
    zoom = max(part.shape[1:]) / size
    row_mm, column_mm = (None, None) if part.spacing_mm is None else (side * zoom for side in part.spacing_mm)
    return [
        {
            "case": part.case.id,
            "patient": part.case.patient,
            "volume": part.case.volume,
            "position": part.position(depth),
            "spacing_row_mm": row_mm,
            "spacing_column_mm": column_mm,
            "split": split,
        }
        for depth in chosen.tolist()
    ]


def _take(waiting: Sequence[SliceShard], n: int) -> tuple[SliceShard, list[SliceShard]]:
    """The first ``n`` slices as one shard, and what is left."""
    whole = SliceShard(
        torch.cat([shard.images for shard in waiting]),
        torch.cat([shard.masks for shard in waiting]),
        torch.cat([shard.brains for shard in waiting]),
    )
    first = SliceShard(whole.images[:n], whole.masks[:n], whole.brains[:n])
    rest = SliceShard(whole.images[n:].clone(), whole.masks[n:].clone(), whole.brains[n:].clone())
    return first, [rest] if len(rest) else []
