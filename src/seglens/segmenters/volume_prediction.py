"""Masks of a cohort's volumes by a model of others, written on each file's own grid."""

from collections.abc import Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

from seglens.artifacts import Artifact, new_artifact, read_artifact
from seglens.cohorts.case import Cohort
from seglens.cohorts.mask_files import mask_name, write_mask
from seglens.runtime.progress import Progress, silent
from seglens.runtime.resources import require_disk
from seglens.segmenters.opened import OpenedModel
from seglens.segmenters.prediction import DOCUMENT, KIND, MASK_SHARE, prediction_row
from seglens.segmenters.windows import Precision

REASON = "quarantined"
"""Key of a case's row in ``cases.json``: why it has no mask."""


def predict_volumes(
    model: OpenedModel,
    cohort: Cohort,
    *,
    folder: Path,
    quarantined: Set[str] = frozenset(),
    steering: Sequence[Mapping[str, Any]] = (),
    mirror: bool = True,
    precision: Precision | None = None,
    strict: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Segment every case's volume, and write each mask on the grid of its first sequence's file.

    The masks are those that the model's own software writes: the same numbers, voxels in the file's own order, its
    affine. A case that cannot be segmented is quarantined: it has no mask, and its row in ``cases.json`` says why under
    ``quarantined``.

    Args:
        model: may be steered by a context around this call.
        cohort: of the model's sequences, in their order; its masks are not read.
        folder: an artifact of kind ``predictions`` is written there: a ``.nii.gz`` a case, and ``cases.json``.
        quarantined: ids of cases to leave out (`CheckReport.quarantined`).
        steering: descriptions of the edits that are in force, for the manifest.
        mirror: also run each window turned round, where the model was trained for it.
        precision: in which windows and folds are added up; None: as the model's own software does it.
        strict: stop where a case would be quarantined.
        progress: told of each window, in cases.

    Raises:
        InsufficientResourcesError: the disk has no room for the masks.
        ValueError: other sequences or labels than the model's, no case, or none that can be segmented; ``strict``, and
            one that cannot.
        ArtifactError: ``folder`` exists.
    """
    if cohort.sequences != model.sequences or dict(cohort.labels) != dict(model.labels):
        raise ValueError(
            f"cohort {cohort.name} has the sequences {', '.join(cohort.sequences)} and the labels "
            f"{dict(cohort.labels)}, the model {', '.join(model.sequences)} and {dict(model.labels)}; read it with "
            "sequences=model.sequences and SourceOptions(labels=model.labels)"
        )
    cases = [case for case in cohort.cases if case.id not in quarantined]
    if not cases:
        raise ValueError(f"{cohort.name}: none of {len(cohort.cases)} cases can be read; `seglens check` says why")
    inputs = {
        "model": model.hash,
        "mirror": mirror,
        "precision": precision or model.precision,
        "steering": [dict(edit) for edit in steering],
        "cohort": cohort.name,
        "cases": [case.id for case in cases],
        "quarantined": sorted(quarantined),
    }
    n_bytes = sum(case.images[cohort.sequences[0]].path.stat().st_size for case in cases)
    require_disk(folder, int(MASK_SHARE * n_bytes), f"masks of {len(cases)} cases")
    with new_artifact(folder, kind=KIND, inputs=inputs) as draft:
        rows: list[dict[str, Any]] = []
        for number, case in enumerate(cases):
            report = partial(_tell, progress, number, len(cases))
            try:
                volume = model.read(case)
                mask = volume.axial(model.segment(volume, mirror=mirror, precision=precision, progress=report))
            except ValueError as error:
                if strict:
                    raise
                rows.append({"case": case.id, "patient": case.patient, REASON: str(error)})
            else:
                name = mask_name(case, volume.like)
                write_mask(draft.path / name, mask, model.codes, volume.like, max_bytes=case.reading.max_bytes)
                rows.append(prediction_row(case, name, mask, model.codes, cohort, sha256=volume.sha256))
            progress(number + 1, len(cases))
        if all(REASON in row for row in rows):
            raise ValueError(
                f"{cohort.name}: none of {len(cases)} cases can be segmented; the first: {rows[0][REASON]}"
            )
        draft.save_document(DOCUMENT, rows)
    return read_artifact(folder, KIND)


def _tell(progress: Progress, before: int, whole: int, done: int, total: int, **_figures: float) -> None:
    """Report how far one case is."""
    progress(before, whole, windows=done / total)
