"""An audit from end to end: two cohorts and a model in, a folder with a page, a document and a table out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from seglens.artifacts import Artifact, finite, new_artifact, read_artifact
from seglens.audit.hospitals import hospitals_of
from seglens.audit.predicted_dice import DicePrediction, RungScore, predict_dice
from seglens.audit.probes import FIT
from seglens.audit.shift import Shift, shift_between
from seglens.audit.verdict import AuditVerdict, Flag, flags_of, verdict_of
from seglens.audit.volume_samples import SampleReader, VolumeSamples
from seglens.audit.volume_table import TableMaker, VolumeTable, folds_of
from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.findings import CheckReport
from seglens.cohorts.normalisation_groups import groups_of
from seglens.dictionaries.fit_settings import FitSettings
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.progress import Announce, unseen
from seglens.segmenters.opened import OpenedModel
from seglens.segmenters.segmenter import Segmenter

KIND = "audit"
DOCUMENT, PAGE, VOLUMES, FEATURES = "audit", "audit.html", "volumes.csv", "features"


@dataclass(frozen=True)
class AuditSettings:
    """How an audit is done.

    Attributes:
        hookpoint: where the activation is reconstructed; None: that of the dictionary, else the one in the middle of
            the network's list.
        threshold: Dice below which a volume fails; None: the 10th percentile of the source.
        hospitals: virtual hospitals a patient of the source, 0 to 30; 0 learns from the source as it is.
        fit: of the small dictionaries that are fitted within the audit.
        seed: of folds, draws and controls.
    """

    hookpoint: str | None = None
    threshold: float | None = None
    hospitals: int = 4
    fit: FitSettings = FIT
    seed: int = 0


DEFAULT_AUDIT = AuditSettings()


@dataclass(frozen=True, eq=False)
class Audit:
    """All that an audit found.

    Attributes:
        model: hash of the model.
        names: of the source and the target.
        source: table.
        training: the same, volumes of virtual hospitals behind them.
        target: table.
        prediction: of the target's Dice.
        shift: between both.
        verdict: of it.
        flags: of each target volume.
        notes: about the inputs, for people.
        settings: that it was done by.
        maker: of the tables.
    """

    model: str
    names: tuple[str, str]
    source: VolumeTable
    training: VolumeTable
    target: VolumeTable
    prediction: DicePrediction
    shift: Shift
    verdict: AuditVerdict
    flags: tuple[tuple[Flag, ...], ...]
    notes: tuple[str, ...]
    settings: AuditSettings
    maker: TableMaker

    def volumes(self) -> pl.DataFrame:
        """One row a target volume, the likeliest failure first."""
        prediction, rows = self.prediction, self.target.rows
        areas = [name for name in self.target.family("area.") if not name.endswith("_share")]
        table = rows.select("volume", "patient", pl.col("n_samples").alias("samples")).with_columns(
            pl.Series("predicted_dice", prediction.target),
            pl.Series("low", prediction.low),
            pl.Series("high", prediction.high),
            pl.Series("chance_of_failure", prediction.failing),
            pl.Series("distance", self.verdict.distance / max(self.verdict.limit, 1e-12)),
            pl.Series("flags", ["; ".join(flag.text for flag in own) for own in self.flags], dtype=pl.String),
            *(rows[name].alias(f"log_{name}") for name in areas),
        )
        floats = [name for name, kind in table.schema.items() if kind == pl.Float64]
        return table.with_columns(pl.col(floats).fill_nan(None)).sort(
            "chance_of_failure", "predicted_dice", "volume", descending=[True, False, False]
        )

    def document(self) -> dict[str, Any]:
        """All figures, for programs."""
        verdict, prediction, shift = self.verdict, self.prediction, self.shift
        return {
            "model": self.model,
            "source": {"name": self.names[0], "volumes": len(self.source), "lost": dict(self.source.lost)},
            "target": {"name": self.names[1], "volumes": len(self.target), "lost": dict(self.target.lost)},
            "verdict": {
                "outcome": verdict.outcome,
                "sentence": verdict.sentence,
                "source_dice": finite(verdict.source),
                "expected_dice": finite(verdict.expected),
                "expected_loss": _ends(verdict.loss.value, verdict.loss.low, verdict.loss.high),
                "share_outside": finite(float(verdict.outside.mean())),
                "alarm_after_patients": verdict.alarm.rang_after,
            },
            "notes": list(self.notes),
            "prediction": {
                "chosen": prediction.chosen,
                "failure_below": finite(prediction.threshold),
                "patients": prediction.n_patients,
                "virtual_hospitals": prediction.n_hospitals,
                "reach_of_a_cohort": finite(prediction.reach),
                "nested": _score(prediction.nested),
                "shuffled": _score(prediction.shuffled),
                "ladder": [_score(score) for score in prediction.ladder],
            },
            "shift": {
                "different": shift.different,
                "p": finite(shift.p),
                "limit": finite(shift.limit),
                "patients": [shift.n_source, shift.n_target],
                "moved": [
                    {name: finite(value) if isinstance(value, float) else value for name, value in asdict(one).items()}
                    for one in shift.moved
                ],
            },
            "volumes": [
                {name: finite(value) if isinstance(value, float) else value for name, value in row.items()}
                for row in self.volumes().iter_rows(named=True)
            ],
            "settings": asdict(self.settings),
        }


def audit(
    model: Segmenter | OpenedModel,
    source: Cohort,
    target: Cohort,
    *,
    checks: tuple[CheckReport, CheckReport],
    dictionary: SparseAutoencoder | None = None,
    settings: AuditSettings = DEFAULT_AUDIT,
    announce: Announce = unseen,
) -> Audit:
    """Say what to expect of a model on a cohort without masks.

    Args:
        model: on the device where it is to run.
        source: cases with masks, of the model's sequences and labels; best patients that it was not trained on.
        target: cases whose masks, if any, are not looked at.
        checks: of both cohorts' files; what they quarantine is left out.
        dictionary: that comes with the model; None: small ones are fitted.
        settings: see `AuditSettings`.
        announce: shows stages.

    Raises:
        ValueError: cohorts that do not fit the model, a cohort without a volume that can be read, a target all of whose
            files are the source's, or fewer than 4 labelled patients.
    """
    reader = SampleReader(model)
    segmenter = reader.segmenter
    segmenter.check_data(source.name, source.sequences, source.labels, regions=True)
    segmenter.check_data(target.name, target.sequences, regions=True)
    units = [_units(cohort, check) for cohort, check in zip((source, target), checks, strict=True)]
    notes = _input_notes(source, target, checks)
    folds = folds_of([unit[0].patient for unit in units[0]], seed=settings.seed)
    with announce(f"activations of {source.name}") as progress:
        maker = TableMaker.fitted(
            reader,
            units[0],
            folds,
            hookpoint=settings.hookpoint,
            dictionary=dictionary,
            settings=settings.fit,
            progress=progress,
        )
    with announce(f"features of {source.name}") as progress:
        first = maker.table(units[0], folds=folds, with_masks=True, progress=progress)
    with announce(f"features of {target.name}") as progress:
        second = maker.table(units[1], progress=progress)
    if not len(second):
        raise ValueError(
            f"{target.name}: none of {len(units[1])} volumes can be shown to the model; the first: "
            f"{next(iter(second.lost.values()))}"
        )
    training = first
    if settings.hospitals:
        of_patient = hospitals_of([unit[0].patient for unit in units[0]], settings.hospitals)
        with announce(f"virtual hospitals of {source.name}") as progress:
            training = first.beside(
                maker.table(units[0], folds=folds, with_masks=True, hospitals=of_patient, progress=progress)
            )
    with announce("predicted Dice"):
        prediction = predict_dice(training, second, threshold=settings.threshold, seed=settings.seed)
        shift = shift_between(first, second, seed=settings.seed)
        verdict = verdict_of(training, second, prediction, shift, seed=settings.seed)
    flags = flags_of(prediction, verdict)
    names = source.name, target.name
    return Audit(model.hash, names, first, training, second, prediction, shift, verdict, flags, notes, settings, maker)


def write_audit(found: Audit, folder: Path, page: str) -> Artifact:
    """Write the page, the document and the tables.

    Args:
        found: the audit.
        folder: an artifact of kind ``audit`` is written there.
        page: HTML text.

    Raises:
        ArtifactError: ``folder`` exists.
    """
    inputs = {"model": found.model, "names": list(found.names), "settings": asdict(found.settings)}
    with new_artifact(folder, kind=KIND, inputs=inputs) as draft:
        draft.save_document(DOCUMENT, found.document())
        draft.save_table(FEATURES, pl.concat([found.training.rows, found.target.rows], how="diagonal"))
        (draft.path / PAGE).write_text(page, encoding="utf-8")
        found.volumes().write_csv(draft.path / VOLUMES)
    return read_artifact(folder, KIND)


def read_again(found: Audit, target: Cohort, volumes: Sequence[str]) -> list[VolumeSamples]:
    """Samples of some target volumes, to be shown."""
    units = {unit[0].volume: unit for unit in groups_of(target.cases)}
    return [found.maker.reader.read(units[volume]) for volume in volumes]


def _units(cohort: Cohort, check: CheckReport) -> list[Sequence[Case]]:
    cases = [case for case in cohort.cases if case.id not in check.quarantined]
    if not cases:
        first = next((finding.what for finding in check.findings if finding.severity == "quarantine"), "")
        raise ValueError(
            f"{cohort.name}: none of {len(cohort.cases)} cases can be read{f' ({first})' if first else ''}; `seglens "
            "check` says why"
        )
    return list(groups_of(cases))


def _input_notes(source: Cohort, target: Cohort, checks: tuple[CheckReport, CheckReport]) -> tuple[str, ...]:
    """Sentences on what is wrong with the cohorts as files.

    Raises:
        ValueError: all of the target's files are the source's.
    """
    notes = []
    first, second = checks
    known = set(first.sha256.values())
    files = list(second.sha256.values())
    same = sum(digest in known for digest in files)
    if files and same == len(files):
        raise ValueError(
            f"all {same} files of the target {target.name} are the source's, byte for byte: there is nothing to find "
            "out about it; give images of another place, or other patients"
        )
    if same:
        notes.append(
            f"{same} of {len(files)} files of the target are the source's, byte for byte: on those patients the "
            "estimate is too good."
        )
    for cohort, check in ((source, first), (target, second)):
        if check.quarantined:
            notes.append(
                f"{len(check.quarantined)} of {len(cohort.cases)} cases of {cohort.name} cannot be used and were left "
                "out; `seglens check` says why."
            )
    shared = {case.patient for case in source.cases} & {case.patient for case in target.cases}
    if shared and not same:
        notes.append(f"{len(shared)} patients have the same name in both cohorts; if they are the same, it is no test.")
    return tuple(notes)


def _score(score: RungScore) -> dict[str, Any]:
    parts: Mapping[str, Any] = {
        "dice": score.errors,
        "dice_in_source": score.within,
        "failures": score.failures,
        "intervals": score.coverage,
    }
    return {"rung": score.rung, "cohort_error": finite(score.cohorts)} | {
        name: {key: finite(value) for key, value in asdict(part).items()} for name, part in parts.items()
    }


def _ends(value: float, low: float, high: float) -> list[float | None]:
    return [finite(value), finite(low), finite(high)]
