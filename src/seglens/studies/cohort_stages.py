"""From a study's settings to slices: read or make a cohort, check it, preprocess it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seglens.artifacts import Artifact, hash_file, hash_of, new_artifact
from seglens.cohorts.case import Cohort
from seglens.cohorts.findings import CheckReport
from seglens.cohorts.foreground import AUTO
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.source_options import STRICT, SourceOptions
from seglens.runs import Run, Stage
from seglens.runtime.progress import Progress
from seglens.studies.input_checksums import files_of, known_files, places_of, refuse_other_files, remember
from seglens.studies.settings import CohortSettings, StudySettings

Do = Callable[[Stage, Callable[[Path, Path, Progress], None]], Artifact]
"""Does a stage: the callable gets the artifact's final folder, a folder for checkpoints, and a progress callback."""


@dataclass(frozen=True)
class CheckedCohort:
    """A cohort that was looked at, and what was found.

    Attributes:
        cohort: all its cases.
        report: the findings; without hashes.
        sha256: of its files.
    """

    cohort: Cohort
    report: CheckReport
    sha256: Mapping[Path, str]


def checked(do: Do, settings: StudySettings, name: str, folder: Path) -> CheckedCohort:
    """Read or make a cohort, and check it.

    Args:
        do: does a stage.
        settings: of the study.
        name: of the cohort.
        folder: the run's, which remembers the files that it has seen.

    Raises:
        ValueError: something about the files has to be decided first, a case is quarantined and the study strict, or
            a class is steered that the cohort does not have.
    """
    from seglens.cohorts.checks import check_cohort

    own = settings.cohorts[name]
    cohort = _phantom(do, settings, name) if own.phantom else _read(settings, name)
    settings.check_steered(name, list(cohort.labels.values()))
    refuse_other_files(folder, cohort)
    sha256: dict[Path, str] = {}
    for path in files_of(cohort):
        with suppress(OSError):  # what cannot be read is a finding of the check
            sha256[path] = hash_file(path)
    known = known_files(folder, cohort)
    inputs: dict[str, Any] = {"cohort": _identity(cohort, sha256), "foreground": settings.foreground}
    changed = {str(path): digest for path, digest in known.items() if sha256.get(path, digest) != digest}
    if changed:
        inputs["changed"] = hash_of(sorted(changed.values()))
    limits = _limits(cohort)
    if limits:
        inputs["limits"] = hash_of(limits)
    check_stage = Stage(f"check/{name}", "check", inputs)

    def check(path: Path, checkpoint: Path, progress: Progress) -> None:
        report = check_cohort(cohort, known=sha256 | known, foreground=settings.foreground, progress=progress)
        for finding in report.findings:
            if finding.code == "unreadable" and finding.file in sha256:  # kept, it would outlive the fault
                raise ValueError(f"{finding.file} could be read once and then not; run again, from a disk that works")
        by_place = {place: report.sha256.get(ref.path) for place, ref in places_of(cohort).items()}
        with new_artifact(path, kind=check_stage.kind, inputs=check_stage.inputs) as draft:
            draft.save_document("check", {**_cohort_facts(cohort, own), **report.to_json(), "sha256": by_place})

    report = CheckReport.from_json(do(check_stage, check).document("check"))
    quarantined = report.quarantined
    unhashed = [path for path in files_of(cohort.without(quarantined)) if path not in sha256]
    if unhashed:  # what depends on it would not be made again when it changes
        raise ValueError(f"{unhashed[0]} could be read only at the second try; run again, from a disk that works")
    remember(folder, cohort, sha256, report)
    report.settle(strict=settings.strict)
    if quarantined >= {case.id for case in cohort.cases}:
        raise ValueError(f"{name}: all {len(cohort.cases)} cases are quarantined; {folder / 'quarantine.txt'} says why")
    return CheckedCohort(cohort, report, sha256)


def preprocessing_of(settings: StudySettings, reports: Sequence[CheckReport]) -> Preprocessing:
    """What every network of a study is shown.

    Args:
        settings: of the study.
        reports: of all cohorts; where the settings name a foreground rule none is needed.
    """
    rules = {report.foreground for report in reports} if settings.foreground == AUTO else {settings.foreground}
    foreground = rules.pop() if len(rules) == 1 else "none"
    assert foreground is not None
    return Preprocessing(tuple(settings.sequences), settings.size, settings.clip_percentiles, foreground)


def prepare(
    do: Do, settings: StudySettings, name: str, checked_cohort: CheckedCohort, preprocessing: Preprocessing
) -> Artifact:
    """Cut a cohort into slices.

    Args:
        do: does a stage.
        settings: of the study.
        name: of the cohort.
        checked_cohort: with what was found of its files.
        preprocessing: of the study.
    """
    from seglens.cohorts.slices import SliceSampling, prepare_slices

    own, cohort, sha256 = settings.cohorts[name], checked_cohort.cohort, checked_cohort.sha256
    quarantined = checked_cohort.report.quarantined
    sampling = SliceSampling(lesion_free_share=own.lesion_free_share, slices_per_volume=own.slices_per_volume)

    def preprocess(path: Path, checkpoint: Path, progress: Progress) -> None:
        prepare_slices(
            cohort,
            preprocessing,
            sampling,
            folder=path,
            quarantined=quarantined,
            sha256=sha256,
            seed=settings.seed,
            progress=progress,
        )

    inputs = {
        "cohort": _identity(cohort.without(quarantined), sha256),  # as if the others had never been there
        "preprocessing": preprocessing.to_json(),
        "sampling": asdict(sampling),
        "seed": settings.seed,
    }
    return do(Stage(f"slices/{name}", "slices", inputs), preprocess)


def cohort_of(run: Run, name: str) -> Cohort:
    """The cohort that a run's slices were cut from, as its files lie now; they may have changed since.

    Args:
        run: whose settings say where the files are.
        name: of the cohort.

    Raises:
        ValueError: the settings name no such cohort, or its folder is not there any more.
    """
    settings = StudySettings.model_validate(run.study)
    if name not in settings.cohorts:
        raise ValueError(f"the run's settings do not say where the files of {name} are")
    if settings.cohorts[name].phantom:
        return _read_phantom(run.artifact(f"phantom/{name}"), settings, name)
    return _read(settings, name)


def _phantom(do: Do, settings: StudySettings, name: str) -> Cohort:
    from seglens.phantoms.cohort import write_phantom_cohort

    own = settings.cohorts[name]
    assert own.phantom is not None
    phantom = own.phantom
    seed = settings.seed * 1000 + list(settings.cohorts).index(name)
    inputs = {"phantom": phantom.model_dump(mode="json"), "size": settings.size, "seed": seed}
    stage = Stage(f"phantom/{name}", "phantom", inputs)

    def make(path: Path, checkpoint: Path, progress: Progress) -> None:
        with new_artifact(path, kind=stage.kind, inputs=stage.inputs) as draft:
            write_phantom_cohort(
                draft.path / "cohort",
                phantom.population,
                subjects=phantom.subjects,
                seed=seed,
                factors=phantom.factors,
                size=settings.size,
                slices=phantom.slices,
                workers=min(2, torch.get_num_threads()),
                progress=progress,
            )

    return _read_phantom(do(stage, make), settings, name)


def _read_phantom(made: Artifact, settings: StudySettings, name: str) -> Cohort:
    from seglens.cohorts.layouts import read_cohort

    return read_cohort(
        made.path / "cohort",
        SourceOptions(layout="nnunet"),
        name=name,
        sequences=settings.sequences,
        fractions=settings.cohorts[name].fractions.model_dump(),
        seed=settings.seed,
    )


def _read(settings: StudySettings, name: str) -> Cohort:
    from seglens.cohorts.case import split_by_patient
    from seglens.cohorts.layouts import read_cohort

    own = settings.cohorts[name]
    parts = [
        read_cohort(
            source.path,
            source,
            name=name,
            sequences=settings.sequences,
            fractions=own.fractions.model_dump(),
            seed=settings.seed,
        )
        for source in own.sources
    ]
    if len(parts) == 1:
        return parts[0]
    cohort = Cohort.merged(parts, name)
    deal = partial(split_by_patient, fractions=own.fractions.model_dump(), seed=settings.seed)
    return replace(cohort, splits=deal(cohort.cases), deal=deal)


def _identity(cohort: Cohort, sha256: Mapping[Path, str]) -> str:
    """All that a cohort's slices depend on."""
    files = {
        place: [sha256.get(ref.path), ref.channel, ref.inverted, ref.orientation]
        for place, ref in places_of(cohort).items()
    }
    return hash_of({"files": files, "cohort": _facts_of_cases(cohort)})


def _facts_of_cases(cohort: Cohort) -> dict[str, Any]:
    """All that slices depend on beside the files' bytes."""
    return {
        "labels": {str(value): name for value, name in cohort.labels.items()},
        "sequences": list(cohort.sequences),
        "splits": {split: sorted(ids) for split, ids in cohort.splits.items()},
        "cases": {
            case.id: [
                case.patient,
                case.volume,
                case.position,
                {str(code): value for code, value in case.mask_values.items()},
                [case.reading.nonfinite, case.reading.resample],
                *([] if case.mask_threshold is None else [case.mask_threshold]),
            ]
            for case in cohort.cases
        },
    }


def _limits(cohort: Cohort) -> dict[str, Any]:
    """What was waived of the limits that decide whether a file is read at all; {} where all are the usual ones.

    Slices do not depend on them but by the cases that are left out; the check does, or raising a cap would not help.
    """
    given = {case.id: [case.reading.follow_links, case.reading.max_gib] for case in cohort.cases}
    return {case: limits for case, limits in given.items() if limits != [STRICT.follow_links, STRICT.max_gib]}


def _cohort_facts(cohort: Cohort, settings: CohortSettings) -> dict[str, Any]:
    return {
        "name": cohort.name,
        "n_cases": len(cohort.cases),
        "n_patients": len({case.patient for case in cohort.cases}),
        "sequences": list(cohort.sequences),
        "labels": {str(value): label for value, label in cohort.labels.items()},
        "phantom": settings.phantom.model_dump(mode="json") if settings.phantom else None,
    }
