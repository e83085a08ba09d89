"""Masks of whole cohorts, written where the images lie: the way from files to files."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray

from seglens.artifacts import Artifact, new_artifact, read_artifact
from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.mask_files import file_codes, mask_name, write_mask
from seglens.cohorts.normalisation_groups import GroupMember, groups_of, read_group
from seglens.cohorts.normalising import from_square
from seglens.cohorts.preprocessing import Preprocessing
from seglens.runtime.oom import Halving
from seglens.runtime.progress import Progress, silent
from seglens.runtime.resources import require_disk
from seglens.segmenters.decision import most_likely
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import plane_of, with_depth

KIND = "predictions"
DOCUMENT = "cases"
MASK_SHARE = 0.25
"""A packed mask takes less than this share of its image's file."""


def predict_cohort(
    segmenter: Segmenter,
    cohort: Cohort,
    *,
    folder: Path,
    quarantined: Set[str] = frozenset(),
    steering: Sequence[Mapping[str, Any]] = (),
    batch_size: int = 16,
    progress: Progress = silent,
) -> Artifact:
    """Segment every slice of every case, and write each case's mask on the grid of its first sequence's file.

    Slices are prepared as the segmenter's own ``preprocessing`` says, as `prepare_slices` does; logits are brought back
    to the file's grid before the most likely class is taken, so where the grid is as large as the network's slices
    nothing is interpolated.

    Args:
        segmenter: may be steered by a context around this call.
        cohort: its masks are not read.
        folder: an artifact of kind ``predictions`` is written there: a ``.nii.gz`` or ``.png`` a case, its values those
            of the case's own mask convention, and ``cases.json``.
        quarantined: ids of cases to leave out (`CheckReport.quarantined`).
        steering: descriptions of the edits that are in force, for the manifest.
        batch_size: slices at a time; halved once where the device has no memory for them.
        progress: told of each volume.

    Raises:
        VolumeError: a case that is not quarantined cannot be read.
        InsufficientResourcesError: the disk has no room for the masks.
        NotEnoughMemoryError: the device has none for half of the batch either.
        ValueError: a segmenter without preprocessing, other sequences or labels than the segmenter's, a label without a
            value in the files, or no case.
        ArtifactError: ``folder`` exists.
    """
    segmenter.check_data(cohort.name, cohort.sequences, cohort.labels)
    cases = [case for case in cohort.cases if case.id not in quarantined]
    if not cases:
        raise ValueError(f"{cohort.name}: none of {len(cohort.cases)} cases can be read; `seglens check` says why")
    preprocessing = preprocessing_of(segmenter)
    codes = {case.id: file_codes(case, cohort.labels) for case in cases}
    inputs = {
        "segmenter": segmenter.hash,
        "preprocessing": preprocessing.to_json(),
        "steering": [dict(edit) for edit in steering],
        "cohort": cohort.name,
        "cases": [case.id for case in cases],
        "quarantined": sorted(quarantined),
    }
    n_bytes = sum(case.images[cohort.sequences[0]].path.stat().st_size for case in cases)
    require_disk(folder, int(MASK_SHARE * n_bytes), f"masks of {len(cases)} cases")
    halving = Halving("predictions", "give a smaller batch_size, or predict on another device")
    with new_artifact(folder, kind=KIND, inputs=inputs) as draft:
        rows = []
        units = groups_of(cases)
        for number, unit in enumerate(units):
            for part in read_group(unit, preprocessing, cohort.labels, with_masks=False):
                mask = segment_case(segmenter, part, batch_size, halving)
                like = part.case.images[cohort.sequences[0]]
                name = mask_name(part.case, like)
                cap = part.case.reading.max_bytes
                write_mask(draft.path / name, mask, codes[part.case.id], like, max_bytes=cap)
                row = prediction_row(part.case, name, mask, codes[part.case.id], cohort, sha256=part.sha256)
                rows.append(row | {"foreground_seen": bool(part.foreground.any())})
            progress(number + 1, len(units), cases=float(len(rows)))
        draft.save_document(DOCUMENT, rows)
    return read_artifact(folder, KIND)


def preprocessing_of(segmenter: Segmenter) -> Preprocessing:
    """How files are prepared for a segmenter.

    Raises:
        ValueError: it does not say so.
    """
    if segmenter.preprocessing is None:
        raise ValueError(
            "this segmenter does not say how what its network was trained on was made of files; wrap it with "
            "preprocessing=, such as Preprocessing(('T1c', 'FLAIR'), size=256, foreground='brain')"
        )
    return segmenter.preprocessing


def prediction_row(
    case: Case,
    file: str,
    mask: NDArray[np.uint8],
    codes: Mapping[int, int],
    cohort: Cohort,
    *,
    sha256: Mapping[Path, str],
) -> dict[str, Any]:
    """Row of a case in ``cases.json``."""
    paths = {sequence: case.images[sequence].path for sequence in cohort.sequences}
    return {
        "case": case.id,
        "patient": case.patient,
        "file": file,
        "values": {label: codes[value] for value, label in cohort.labels.items()},
        "voxels": {label: int(np.count_nonzero(mask == value)) for value, label in cohort.labels.items()},
        "sources": {sequence: {"file": path.name, "sha256": sha256[path]} for sequence, path in paths.items()},
    }


def segment_case(
    segmenter: Segmenter, part: GroupMember, batch_size: int, halving: Halving
) -> UInt8[np.ndarray, "D H W"]:
    """Segment all slices of a case on its files' own grid; all background where its unit has no foreground.

    Args:
        segmenter: with the preprocessing by which ``part`` was read.
        part: of `read_group`.
        batch_size: slices at a time.
        halving: what to do where the device has no memory for them.
    """
    depth, height, width = part.shape
    if not part.scales:
        return np.zeros(part.shape, np.uint8)

    def labels(chosen: Sequence[int]) -> NDArray[np.uint8]:
        images, _, _ = part.prepared(chosen)
        with torch.no_grad():
            logits = from_square(plane_of(segmenter.logits(images.to(segmenter.device))), height, width)
        return plane_of(most_likely(with_depth(logits, 5))).cpu().numpy()

    batches = (list(range(start, min(start + batch_size, depth))) for start in range(0, depth, batch_size))
    return np.concatenate([masks for chosen in batches for masks in halving.parts(labels, chosen)])
