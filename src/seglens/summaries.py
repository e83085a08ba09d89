"""summary.json: the figures of a run, as reports and the explorer read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from seglens.dictionaries.quality import QualityRecord
from seglens.diffing.records import AlignmentRecord, UniversalRecord
from seglens.documents import from_document
from seglens.runs import Run
from seglens.segmenters.score_summary import ScoreSummary, VolumeSummary
from seglens.steering.records import FailureRecord, SteeringRecord

FILE = "summary.json"


@dataclass(frozen=True)
class PhantomRecord:
    """Origin of a phantom cohort."""

    population: str
    factors: Mapping[str, str]
    subjects: int
    slices: int


@dataclass(frozen=True)
class SplitRecord:
    """How large a split of a cohort is; None where no masks say which slices show no label."""

    patients: int
    slices: int
    slices_without_label: int | None


@dataclass(frozen=True)
class CohortRecord:
    """A cohort's counts.

    Attributes:
        name: of the cohort.
        n_cases: that were found.
        n_patients: of these cases.
        n_slices: that were kept.
        n_quarantined: cases left out.
        sequences: of its images.
        labels: value to name.
        phantom: None of real images.
        splits: train, val and test.
    """

    name: str
    n_cases: int
    n_patients: int
    n_slices: int
    n_quarantined: int
    sequences: tuple[str, ...]
    labels: Mapping[int, str]
    phantom: PhantomRecord | None
    splits: Mapping[str, SplitRecord]


@dataclass(frozen=True)
class EffectRecord:
    """Effect of mean ablation at a hookpoint on a class's pooled Dice; None where the class is nowhere.

    Attributes:
        hookpoint: where.
        class_name: a foreground class or ``"foreground"``; ``class`` in the document.
        width: channels of the activation.
        tokens: of a slice.
        dice_before: untouched.
        dice_ablated: with the mean in the activation's place.
    """

    hookpoint: str
    class_name: Annotated[str, Field(alias="class")]
    width: int
    tokens: int
    dice_before: float | None
    dice_ablated: float | None


@dataclass(frozen=True)
class SegmenterRecord:
    """A segmenter and how it does.

    Attributes:
        name: of the segmenter.
        architecture: such as ``segformer-b0``.
        trained_on: cohort; of an opened one, that it comes from.
        init_from: segmenter that it went on from.
        hookpoints: where it is opened, the first one first; none before it has a dictionary.
        hookpoint_reason: why there, where the study left the choice; None where it did not, or nothing was measured.
        seconds: that training took; None where that is not known.
        scores: cohort to scores on its test slices.
        effects: of every hookpoint and class; none where they were not measured.
        opened_from: name of the folder of a model that was opened and not trained; None where it was trained.
        unseen_is_known: it was trained on the study's own training slices, so that val and test are unseen.
    """

    name: str
    architecture: str
    trained_on: str
    init_from: str | None
    hookpoints: tuple[str, ...]
    hookpoint_reason: str | None
    seconds: float | None
    scores: Mapping[str, ScoreSummary]
    effects: tuple[EffectRecord, ...]
    opened_from: str | None = None
    unseen_is_known: bool = True


@dataclass(frozen=True)
class VolumeScoresRecord:
    """Scores of a segmenter on whole volumes of a cohort's test split, a summary a class or region."""

    segmenter: str
    cohort: str
    scores: tuple[VolumeSummary, ...]


@dataclass(frozen=True, kw_only=True)
class DictionaryRecord(QualityRecord):
    """A dictionary and its quality.

    Attributes:
        name: of its segmenter, with ``@`` and the hookpoint where that is not the segmenter's first.
        hookpoint: of its activations.
        k: active latents a token that were asked for.
        n_latents: its width; None where its latents were not described.
    """

    name: str
    hookpoint: str
    k: int
    n_latents: int | None


@dataclass(frozen=True)
class Summary:
    """Findings of a run; a stage that was not run leaves an empty list.

    Attributes:
        study: its name.
        seed: everything random follows from it.
        settings: of the study, as `StudySettings` dumps them.
        cohorts: in the order of the settings, as are all below.
        segmenters: see there.
        volume_scores: a record a segmenter and cohort.
        dictionaries: of the segmenters, one for each of their hookpoints.
        alignments: of pairs of dictionaries.
        universal: latents shared in every pair; None for fewer than three segmenters.
        steering: a record a policy and operation.
        failures: a record a policy.
        timings: stage to seconds when it was computed.
        seconds: that the last call took.
        peak_rss_mib: memory of its processes at most.
    """

    study: str
    seed: int
    settings: Mapping[str, Any]
    cohorts: tuple[CohortRecord, ...]
    segmenters: tuple[SegmenterRecord, ...]
    volume_scores: tuple[VolumeScoresRecord, ...]
    dictionaries: tuple[DictionaryRecord, ...]
    alignments: tuple[AlignmentRecord, ...]
    universal: UniversalRecord | None
    steering: tuple[SteeringRecord, ...]
    failures: tuple[FailureRecord, ...]
    timings: Mapping[str, float]
    seconds: float
    peak_rss_mib: int


def summary_of(run: Run) -> Summary | None:
    """Summary of a run, None before it is written.

    Raises:
        DocumentError: summary.json is damaged or of another version.
    """
    path = run.path / FILE
    return from_document(path.read_bytes(), Summary, path) if path.is_file() else None
