"""Scores of whole volumes: every slice is predicted, on the files' own grid, and each volume is scored as one."""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import UInt8

from seglens.artifacts import finite
from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.label_names import regions_of
from seglens.cohorts.normalisation_groups import groups_of, read_group
from seglens.runtime.distributed import gather_object, rank_range
from seglens.runtime.oom import Halving
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.lesions import DILATION, MIN_MM3, lesion_scores
from seglens.segmenters.opened import OpenedModel
from seglens.segmenters.prediction import preprocessing_of, segment_case
from seglens.segmenters.score_summary import Score, VolumeSummary
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.surface import hd95, surface_dice, surface_distances
from seglens.segmenters.window_samples import check_cohort_fits

TOLERANCE_MM = 1.0
SCHEMA: Mapping[str, Any] = {
    "volume": pl.String,
    "patient": pl.String,
    "region": pl.String,
    "tp": pl.Int64,
    "predicted": pl.Int64,
    "truth": pl.Int64,
    "hd95_mm": pl.Float64,
    "surface_dice": pl.Float64,
    "lesion_dice": pl.Float64,
    "n_lesions": pl.Int64,
    "n_missed": pl.Int64,
    "n_false": pl.Int64,
}


@dataclass(frozen=True)
class VolumeScores:
    """Scores of whole volumes.

    Attributes:
        table: one row a volume x class or region: volume, patient, region, tp, predicted, truth (voxels of the file's
            own grid), hd95_mm and surface_dice (null where the spacing is unknown; HD95 also where the region is absent
            from mask or prediction, surface Dice where it is absent from both), lesion_dice, n_lesions, n_missed,
            n_false (null where the spacing is unknown).
        regions: name to the values that it is made of: every foreground class, then what was asked for.
    """

    table: pl.DataFrame
    regions: Mapping[str, tuple[int, ...]]

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    def summaries(self) -> list[VolumeSummary]:
        """One summary a class or region, in the order of ``regions``."""
        return [self._summary(name) for name in self.regions]

    def _summary(self, name: str) -> VolumeSummary:
        rows = self.table.filter(pl.col("region") == name)
        both = pl.col("predicted") + pl.col("truth")
        rows = rows.with_columns(dice=pl.when(both > 0).then(2 * pl.col("tp") / both))
        present, predicted = pl.col("truth") > 0, pl.col("predicted") > 0
        return VolumeSummary(
            region=name,
            labels=tuple(self.regions[name]),
            n_volumes=rows.height,
            dice=_mean(rows.filter(present)["dice"]),
            dice_empty1=_mean(rows["dice"].fill_null(1.0)),
            hd95_mm=_mean(rows["hd95_mm"]),
            surface_dice=_mean(rows["surface_dice"]),
            lesion_dice=_mean(rows["lesion_dice"]),
            n_missed_volumes=rows.filter(present & ~predicted).height,
            n_false_volumes=rows.filter(~present & predicted).height,
            n_lesions=int(rows["n_lesions"].sum()),
            n_missed_lesions=int(rows["n_missed"].sum()),
            n_false_lesions=int(rows["n_false"].sum()),
        )


def evaluate_volumes(
    model: Segmenter | OpenedModel,
    cohort: Cohort,
    *,
    regions: Mapping[str, Collection[int]] | None = None,
    quarantined: Set[str] = frozenset(),
    dilation: int = DILATION,
    min_mm3: float = MIN_MM3,
    batch_size: int = 16,
    progress: Progress = silent,
) -> VolumeScores:
    """Segment every slice of every case with a mask, and score each volume on its files' own grid.

    What `evaluate` scores are sampled slices of the network's size; here no slice is left out, so a false alarm far
    from the lesion counts, and distances are those of the volume. Volumes are dealt to all processes of a launcher.

    Args:
        model: a segmenter of slices, or a model of others, which runs its own windows and mirrors; may be steered by a
            context around this call.
        cohort: of the model's sequences and labels; all its cases are scored.
        regions: name to label values, such as ``{"whole tumour": (1, 2, 3)}``, scored beside each foreground class.
        quarantined: ids of cases to leave out (`CheckReport.quarantined`).
        dilation: of lesions in voxels (see `lesion_scores`).
        min_mm3: lesions of at most this volume do not count.
        batch_size: slices at a time; halved once where the device has no memory for them.
        progress: told of each volume.

    Raises:
        VolumeError: a case that is not quarantined cannot be read.
        ValueError: other sequences or labels than the model's, a region with an unknown value or a class's name,
            or no case.
        NotEnoughMemoryError: the device has no memory for half of the batch either.
    """
    if isinstance(model, OpenedModel):
        check_cohort_fits(model, cohort)
    else:
        model.check_data(cohort.name, cohort.sequences, cohort.labels)
    cases = [case for case in cohort.cases if case.id not in quarantined]
    if not cases:
        raise ValueError(f"{cohort.name}: none of {len(cohort.cases)} cases can be scored; `seglens check` says why")
    named = _classes(model, cohort.labels) | regions_of(cohort.labels, regions)
    halving = Halving("predictions", "give a smaller batch_size, or predict on another device")
    units = [[case] for case in cases] if isinstance(model, OpenedModel) else groups_of(cases)
    own = rank_range(len(units))
    found: dict[int, list[dict[str, Any]]] = {}
    for done, number in enumerate(own, start=1):
        segmented = _segmented(model, units[number], cohort.labels, batch_size, halving)
        found[number] = _rows(segmented, named, dilation=dilation, min_mm3=min_mm3)
        progress(done, len(own))
    rows = [row for volume in gather_object(found) for row in volume]
    return VolumeScores(pl.DataFrame(rows, schema=SCHEMA), named)


@dataclass(frozen=True)
class _Segmented:
    """Prediction and mask of a case, on its file's grid."""

    case: Case
    spacing_mm: tuple[float, float, float] | None
    predicted: UInt8[np.ndarray, "D H W"]
    truth: UInt8[np.ndarray, "D H W"]


def _segmented(
    model: Segmenter | OpenedModel, unit: Sequence[Case], labels: Mapping[int, str], batch_size: int, halving: Halving
) -> list[_Segmented]:
    """The cases of a volume, segmented."""
    if isinstance(model, OpenedModel):
        (case,) = unit
        volume = model.read(case, with_mask=True)
        assert volume.mask is not None
        return [_Segmented(case, volume.spacing_mm, model.segment(volume), volume.mask)]
    parts = read_group(unit, preprocessing_of(model), labels)
    return [
        _Segmented(
            part.case,
            part.voxel_mm if len(parts) == 1 else None,
            segment_case(model, part, batch_size, halving),
            part.masks,
        )
        for part in parts
    ]


def _classes(model: Segmenter | OpenedModel, labels: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """The values that each foreground label is made of; a region holds those that lie inside of it."""
    segmenter = next(iter(model.folds.values())) if isinstance(model, OpenedModel) else model
    members = segmenter.decision.members
    return {name: members[value - 1] if members else (value,) for value, name in labels.items() if value}


def _rows(
    segmented: Sequence[_Segmented], regions: Mapping[str, tuple[int, ...]], *, dilation: int, min_mm3: float
) -> list[dict[str, Any]]:
    """Rows of one volume: of all its regions."""
    case, spacing_mm = segmented[0].case, segmented[0].spacing_mm
    rows = []
    for name, values in regions.items():
        pairs = [(np.isin(own.predicted, values), np.isin(own.truth, values)) for own in segmented]
        row: dict[str, Any] = {
            "volume": case.volume,
            "patient": case.patient,
            "region": name,
            "tp": sum(int(np.count_nonzero(predicted & truth)) for predicted, truth in pairs),
            "predicted": sum(int(np.count_nonzero(predicted)) for predicted, _ in pairs),
            "truth": sum(int(np.count_nonzero(truth)) for _, truth in pairs),
        }
        if spacing_mm is not None:
            predicted, truth = pairs[0]
            row |= _surface_row(predicted, truth, spacing_mm)
            lesions = lesion_scores(predicted, truth, float(np.prod(spacing_mm)), dilation=dilation, min_mm3=min_mm3)
            row |= {
                "lesion_dice": lesions.dice,
                "n_lesions": lesions.n_lesions,
                "n_missed": lesions.n_missed,
                "n_false": lesions.n_false,
            }
        rows.append(row)
    return rows


def _surface_row(
    predicted: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, float, float]
) -> dict[str, float | None]:
    """HD95 and surface Dice; a volume of one slice is a slice."""
    axes = [axis for axis, length in enumerate(truth.shape) if axis or length > 1]
    plane = predicted.shape[3 - len(axes) :]
    distances = surface_distances(predicted.reshape(plane), truth.reshape(plane), [spacing_mm[axis] for axis in axes])
    if distances is None:
        return {"hd95_mm": None, "surface_dice": 0.0 if predicted.any() or truth.any() else None}
    return {"hd95_mm": hd95(distances), "surface_dice": surface_dice(distances, TOLERANCE_MM)}


def _mean(values: pl.Series) -> Score:
    known = values.drop_nulls()
    mean = known.mean()
    return Score(finite(float(mean)) if isinstance(mean, float) else None, known.len())
