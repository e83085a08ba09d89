"""Cohorts become slices: read, normalise, choose, resize, in memory or straight into shards on disk."""

import logging
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seglens.artifacts import Draft, new_artifact, read_artifact
from seglens.cohorts.augmentation import augment
from seglens.cohorts.blanking import FIX, BlankedLabel, blanked_labels, blanked_text
from seglens.cohorts.case import Cohort
from seglens.cohorts.foreground import AUTO
from seglens.cohorts.normalisation_groups import GroupMember, groups_of, read_group, settled_foreground
from seglens.cohorts.normalising import resize_nearest
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slice_set import KIND, SliceSet, evenly_spaced, only_if_bare
from seglens.cohorts.slice_set_writer import SliceSetWriter
from seglens.cohorts.slice_shards import SliceShard
from seglens.cohorts.volumes import VolumeError
from seglens.runtime.progress import Progress, silent

UNASSIGNED = "none"
NOTHING_KNOWN: Mapping[Path, str] = MappingProxyType({})

__all__ = ["UNASSIGNED", "Preprocessing", "SliceSampling", "SliceSet", "augment", "prepare_slices"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SliceSampling:
    """Choice of the slices of a cohort that are kept; a network does not depend on it.

    Attributes:
        lesion_free_share: share (0..1) of all kept slices that show no lesion, as far as there are enough.
        minimum_foreground_share: a slice is kept when at least this share (0..1) of it is foreground.
        slices_per_volume: at most so many lesion slices a volume, evenly spaced over the lesion's extent; None: all.
    """

    lesion_free_share: float = 0.2
    minimum_foreground_share: float = 0.02
    slices_per_volume: int | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} {share} must be in 0..1"
            for name, share in (
                ("lesion_free_share", self.lesion_free_share),
                ("minimum_foreground_share", self.minimum_foreground_share),
            )
            if not 0 <= share <= 1
        ]
        if self.slices_per_volume is not None and self.slices_per_volume < 1:
            problems.append(f"slices_per_volume {self.slices_per_volume} must be at least 1, or None for all")
        if problems:
            raise ValueError("; ".join(problems))


DEFAULT_SAMPLING = SliceSampling()


def prepare_slices(
    cohort: Cohort,
    preprocessing: Preprocessing,
    sampling: SliceSampling = DEFAULT_SAMPLING,
    *,
    folder: Path | None = None,
    quarantined: Set[str] = frozenset(),
    sha256: Mapping[Path, str] = NOTHING_KNOWN,
    seed: int = 0,
    progress: Progress = silent,
) -> SliceSet:
    """Read a cohort's cases and keep its slices.

    Intensities are clipped and z-scored over the foreground of a whole volume (of all slices of a patient where the
    files are 2-D). Of each volume the slices with enough foreground are candidates: those that show a lesion, thinned
    to ``slices_per_volume``, and so many without any, drawn at random, that in each split ``lesion_free_share`` of the
    kept slices show none, as far as the volumes seen so far allow. One volume is in memory at a time. Label pixels
    outside the foreground are counted in ``SliceSet.blanked``, and logged as a warning. Of a cohort without masks all
    candidates are kept, thinned to ``slices_per_volume`` evenly over the foreground's extent.

    Args:
        cohort: cases, with masks where it is ``labelled``.
        preprocessing: what the network is shown; for slices that a trained segmenter is to see, its own. The foreground
            ``auto`` reads the images once more (until a volume is no stripped brain) to settle the rule; the set's own
            ``preprocessing`` names it.
        sampling: which slices are kept.
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
    n_quarantined = sum(case.id in quarantined for case in cohort.cases)
    cohort = cohort.with_sequences(preprocessing.sequences).without(quarantined)
    if preprocessing.foreground == AUTO:
        preprocessing = replace(preprocessing, foreground=settled_foreground(cohort))
    preparation = partial(
        _prepare,
        cohort,
        preprocessing,
        sampling,
        n_quarantined=n_quarantined,
        sha256=sha256,
        seed=seed,
        progress=progress,
    )
    if folder is None:
        return preparation(draft=None)
    inputs = {
        "cohort": cohort.name,
        "cases": [case.id for case in cohort.cases],
        "labels": {str(value): name for value, name in cohort.labels.items()},
        "preprocessing": preprocessing.to_json(),
        "sampling": asdict(sampling),
        "seed": seed,
        **only_if_bare(labelled=cohort.labelled),
    }
    with new_artifact(folder, kind=KIND, inputs=inputs) as draft:
        preparation(draft=draft)
    return SliceSet.read(read_artifact(folder, KIND))


class LesionFreeQuota:
    """How many lesion-free slices a volume gives, so that each split comes as near to the share as it can."""

    def __init__(self, share: float):
        self._share = share
        self._lesions: dict[str, int] = defaultdict(int)
        self._free: dict[str, int] = defaultdict(int)

    def take(self, split: str, n_lesions: int, n_free: int) -> int:
        """Number of ``n_free`` lesion-free samples to keep beside ``n_lesions`` others of the split."""
        if self._share >= 1:
            return n_free
        self._lesions[split] += n_lesions
        wanted = round(self._lesions[split] * self._share / (1 - self._share)) - self._free[split]
        taken = max(0, min(n_free, wanted))
        self._free[split] += taken
        return taken


def _prepare(
    cohort: Cohort,
    preprocessing: Preprocessing,
    sampling: SliceSampling,
    *,
    n_quarantined: int,
    sha256: Mapping[Path, str],
    seed: int,
    progress: Progress,
    draft: Draft | None,
) -> SliceSet:
    splits = cohort.split_of()
    quota = LesionFreeQuota(sampling.lesion_free_share)
    size = preprocessing.size
    writer = SliceSetWriter(len(cohort.sequences), (1, size, size), draft)
    blanked: list[BlankedLabel] = []
    labelled = False
    units = groups_of(cohort.cases)
    for number, unit in enumerate(units):
        parts = read_group(unit, preprocessing, cohort.labels, with_masks=cohort.labelled)
        for path, digest in (own for part in parts for own in part.sha256.items()):
            if sha256.get(path, digest) != digest:
                raise VolumeError(path, "changed", "was written to since it was checked", "run again when it rests")
        for part in parts:
            blanked += blanked_labels(part.case.id, part.masks, part.foreground, cohort.labels)
            labelled |= bool(part.masks.any())
        split = splits.get(unit[0].id, UNASSIGNED)
        shown = [part for part in parts if part.scales]
        kept = _choose(shown, split, sampling, quota, seed) if cohort.labelled else _evenly(shown, sampling)
        for part, chosen in kept:
            writer.add(SliceShard(*part.prepared(chosen)), _rows(part, chosen, split))
        if number == 0:
            writer.require_disk(len(units), f"slices of {len(units)} volumes (fewer with slices_per_volume)")
        writer.close_full()
        progress(number + 1, len(units), slices=float(len(writer)))
    if not len(writer):
        raise ValueError(_nothing_kept(cohort, sampling, n_quarantined=n_quarantined, labelled=labelled))
    if blanked:
        log.warning("%s, foreground %s: %s; %s", cohort.name, preprocessing.foreground, blanked_text(blanked), FIX)
    return writer.finish(
        name=cohort.name,
        sequences=cohort.sequences,
        labels=cohort.labels,
        preprocessing=preprocessing,
        blanked=blanked,
        labelled=cohort.labelled,
    )


def _nothing_kept(cohort: Cohort, sampling: SliceSampling, *, n_quarantined: int, labelled: bool) -> str:
    """The refusal of a cohort that gives no slice: what was met, and what would help."""
    refusal = f"{cohort.name}: no slice of {len(cohort.cases)} cases is kept"
    if labelled or not cohort.labelled:
        return f"{refusal}; lower minimum_foreground_share ({sampling.minimum_foreground_share})"
    left_out = (
        f". {n_quarantined} further case(s) are quarantined and may be those with labels: `seglens check` says why"
        if n_quarantined
        else ""
    )
    return (
        f"{refusal}: their masks hold no label pixel{left_out}. To keep slices without labels, raise lesion_free_share "
        f"({sampling.lesion_free_share}) to 1"
    )


def _evenly(parts: Sequence[GroupMember], sampling: SliceSampling) -> Iterator[tuple[GroupMember, NDArray[np.int64]]]:
    """Of each part the slices to keep where no mask says which show a lesion, in order."""
    enough = [
        (number, depth)
        for number, part in enumerate(parts)
        for depth in np.flatnonzero(part.foreground.mean((1, 2)) >= sampling.minimum_foreground_share).tolist()
    ]
    kept = [enough[at] for at in evenly_spaced(len(enough), sampling.slices_per_volume or len(enough))]
    yield from _by_part(parts, kept)


def _choose(
    parts: Sequence[GroupMember], split: str, sampling: SliceSampling, quota: LesionFreeQuota, seed: int
) -> Iterator[tuple[GroupMember, NDArray[np.int64]]]:
    """Of each part the slices to keep, in order; parts without any are left out."""
    if not parts:
        return
    lesion: list[tuple[int, int]] = []
    free: list[tuple[int, int]] = []
    for number, part in enumerate(parts):
        enough = part.foreground.mean((1, 2)) >= sampling.minimum_foreground_share
        has = part.masks.max((1, 2)) > 0
        shows = resize_nearest(torch.from_numpy(part.masks), part.size).flatten(1).amax(1).numpy() > 0
        for depth in np.flatnonzero(enough).tolist():
            if shows[depth]:
                lesion.append((number, depth))
            elif not has[depth]:  # a lesion that resizing loses is neither shown nor absent
                free.append((number, depth))
    limit = sampling.slices_per_volume
    if sampling.lesion_free_share >= 1:
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
    yield from _by_part(parts, sorted([*lesion, *free]))


def _by_part(
    parts: Sequence[GroupMember], kept: Sequence[tuple[int, int]]
) -> Iterator[tuple[GroupMember, NDArray[np.int64]]]:
    """Slices that are kept (number of the part, of the slice) part by part; parts without any are left out."""
    for number, part in enumerate(parts):
        chosen = np.array([depth for owner, depth in kept if owner == number], np.int64)
        if len(chosen):
            yield part, chosen


def _rows(part: GroupMember, chosen: NDArray[np.int64], split: str) -> list[dict[str, Any]]:
    zoom = max(part.shape[1:]) / part.size
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
