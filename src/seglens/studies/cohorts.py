"""The cohorts of a study: their files as they lie, and what a check of them leaves."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from seglens.artifacts import Artifact, hash_file, hash_of
from seglens.cohorts.case import Cohort
from seglens.cohorts.findings import CheckReport
from seglens.cohorts.foreground import AUTO
from seglens.cohorts.label_names import regions_of
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slice_set import only_if_bare
from seglens.cohorts.source_options import STRICT, SourceOptions
from seglens.runs import Run
from seglens.runtime.progress import Progress
from seglens.studies.input_checksums import files_of, known_files, places_of, refuse_other_files, remember
from seglens.studies.settings import CohortSettings, StudySettings


@dataclass(frozen=True)
class Files:
    """A cohort's files as they lie now.

    Attributes:
        cohort: whose.
        sha256: of every file that may be read and can be.
        known: sha256 of those that the run's folder has seen before, as they were then.
    """

    cohort: Cohort
    sha256: Mapping[Path, str]
    known: Mapping[Path, str]


@dataclass(frozen=True)
class Checked:
    """A cohort whose files have been checked.

    Attributes:
        cohort: all of it.
        sha256: of every file that may be read and can be.
        report: what was found, without hashes; its quarantined cases are left out.
    """

    cohort: Cohort
    sha256: Mapping[Path, str]
    report: CheckReport


def find_files(settings: StudySettings, name: str, folder: Path, made: Artifact | None) -> Files:
    """Find a cohort's cases and hash their files.

    Args:
        settings: of the study.
        name: of the cohort.
        folder: the run's, which remembers the files that it has seen.
        made: where the cohort was made, for a phantom.

    Raises:
        ValueError: something about the files has to be decided first, or a class is steered that the cohort does not
            have.
    """
    cohort = read_sources(settings, name) if made is None else _read_phantom(made, settings, name)
    settings.check_steered(name, list(cohort.labels.values()))
    regions_of(cohort.labels, settings.cohorts[name].regions)
    refuse_other_files(folder, cohort)
    sha256: dict[Path, str] = {}
    for path in files_of(cohort):
        with suppress(OSError):  # what cannot be read is a finding of the check
            sha256[path] = hash_file(path)
    return Files(cohort, sha256, known_files(folder, cohort))


def check_inputs(files: Files, foreground: str) -> dict[str, Any]:
    """All that the check of a cohort depends on."""
    inputs: dict[str, Any] = {"cohort": identity_of(files.cohort, files.sha256), "foreground": foreground}
    changed = {str(path): digest for path, digest in files.known.items() if files.sha256.get(path, digest) != digest}
    if changed:
        inputs["changed"] = hash_of(sorted(changed.values()))
    limits = _limits(files.cohort)
    if limits:
        inputs["limits"] = hash_of(limits)
    return inputs


def check_files(files: Files, settings: CohortSettings, foreground: str, progress: Progress) -> dict[str, Any]:
    """Check a cohort: the report as check.json holds it, with the cohort's facts.

    Raises:
        ValueError: a file could be read once and then not.
    """
    from seglens.cohorts.checks import check_cohort

    known = {**files.sha256, **files.known}
    report = check_cohort(files.cohort, known=known, foreground=foreground, progress=progress)
    for finding in report.findings:
        if finding.code == "unreadable" and finding.file in files.sha256:  # kept, it would outlive the fault
            raise ValueError(f"{finding.file} could be read once and then not; run again, from a disk that works")
    by_place = {place: report.sha256.get(ref.path) for place, ref in places_of(files.cohort).items()}
    return {**_cohort_facts(files.cohort, settings), **report.to_json(), "sha256": by_place}


def settle(files: Files, report: CheckReport, folder: Path, *, strict: bool) -> Checked:
    """Remember what was found and decide which cases are left out.

    Args:
        files: that were checked.
        report: what was found.
        folder: the run's.
        strict: refuse a cohort with a quarantined case.

    Raises:
        ValueError: a file that could be read only at the second try, a quarantined case and ``strict``, no case left.
    """
    cohort, quarantined = files.cohort, report.quarantined
    unhashed = [path for path in files_of(cohort.without(quarantined)) if path not in files.sha256]
    if unhashed:  # what depends on it would not be made again when it changes
        raise ValueError(f"{unhashed[0]} could be read only at the second try; run again, from a disk that works")
    remember(folder, cohort, files.sha256, report)
    report.settle(strict=strict)
    if quarantined >= {case.id for case in cohort.cases}:
        raise ValueError(
            f"{cohort.name}: all {len(cohort.cases)} cases are quarantined; {folder / 'quarantine.txt'} says why"
        )
    return Checked(cohort, files.sha256, report)


def preprocessing_of(settings: StudySettings, reports: Sequence[CheckReport]) -> Preprocessing:
    """Preprocessing of every network of a study.

    Args:
        settings: of the study.
        reports: of all cohorts; where the settings name a foreground rule none is needed.
    """
    rules = {report.foreground for report in reports} if settings.foreground == AUTO else {settings.foreground}
    foreground = rules.pop() if len(rules) == 1 else "none"
    assert foreground is not None
    return Preprocessing(tuple(settings.sequences), settings.size, settings.clip_percentiles, foreground)


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
    return read_sources(settings, name)


def _read_phantom(made: Artifact, settings: StudySettings, name: str) -> Cohort:
    from seglens.cohorts.layouts import read_cohort

    own = settings.cohorts[name]
    made_cohort = read_cohort(
        made.path / "cohort",
        SourceOptions(layout="nnunet"),
        name=name,
        sequences=settings.sequences,
        fractions=own.fractions.model_dump(),
        seed=settings.seed,
    )
    return made_cohort if own.labelled else made_cohort.without_masks()


def read_sources(settings: StudySettings, name: str) -> Cohort:
    """Read which cases the folders of a cohort hold, without their images.

    Raises:
        ValueError: something about the files has to be decided first.
    """
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
            with_masks=own.labelled,
        )
        for source in own.sources
    ]
    if not own.labelled:
        parts = [part.without_masks() for part in parts]
    if len(parts) == 1:
        return parts[0]
    cohort = Cohort.merged(parts, name)
    deal = partial(split_by_patient, fractions=own.fractions.model_dump(), seed=settings.seed)
    return replace(cohort, splits=deal(cohort.cases), deal=deal)


def identity_of(cohort: Cohort, sha256: Mapping[Path, str]) -> str:
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
        **only_if_bare(labelled=cohort.labelled),
    }


def _limits(cohort: Cohort) -> dict[str, Any]:
    """Waived limits that decide whether a file is read at all; {} where all are the usual ones.

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
