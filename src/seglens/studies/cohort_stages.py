"""From a study's settings to slices: read or make a cohort, check it, cut it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seglens.artifacts import Artifact, hash_file, hash_of, new_artifact
from seglens.cohorts.case import Cohort
from seglens.progress import Progress
from seglens.studies.run import Stage
from seglens.studies.settings import CohortSettings, StudySettings

Do = Callable[[Stage, Callable[[Path, Path, Progress], None]], Artifact]
"""Does a stage: the callable gets the artifact's final folder, a folder for checkpoints, and a progress callback."""


def prepare(do: Do, settings: StudySettings, name: str) -> Artifact:
    """Read or make a cohort, check it, and cut it into slices."""
    from seglens.cohorts.checks import check_cohort
    from seglens.cohorts.slices import Preprocessing, prepare_slices

    own = settings.cohorts[name]
    cohort, identity = _phantom(do, settings, name) if own.phantom else _read(settings, name)

    check_stage = Stage(f"check/{name}", "check", {"cohort": identity})

    def check(path: Path, checkpoint: Path, progress: Progress) -> None:
        report = check_cohort(cohort, progress=progress)
        with new_artifact(path, kind=check_stage.kind, inputs=check_stage.inputs) as draft:
            draft.save_document("check", {**_cohort_facts(cohort, own), **report.to_json()})

    quarantined = frozenset(do(check_stage, check).document("check")["quarantined"])
    preprocessing = Preprocessing(
        sequences=tuple(settings.sequences),
        size=settings.size,
        lesion_free_share=own.lesion_free_share,
        slices_per_volume=own.slices_per_volume,
    )

    def cut(path: Path, checkpoint: Path, progress: Progress) -> None:
        prepare_slices(
            cohort, preprocessing, folder=path, quarantined=quarantined, seed=settings.seed, progress=progress
        )

    inputs = {
        "cohort": identity,
        "quarantined": sorted(quarantined),
        "preprocessing": repr(preprocessing),
        "seed": settings.seed,
    }
    return do(Stage(f"slices/{name}", "slices", inputs), cut)


def _phantom(do: Do, settings: StudySettings, name: str) -> tuple[Cohort, str]:
    from seglens.cohorts.layouts import read_cohort
    from seglens.cohorts.phantom.cohort import write_phantom_cohort

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

    made = do(stage, make)
    cohort = read_cohort(
        made.path / "cohort",
        name=name,
        layout="nnunet",
        sequences=settings.sequences,
        fractions=own.fractions.model_dump(),
        seed=settings.seed,
    )
    return cohort, hash_of({"phantom": made.hash, "cohort": _facts_of_cases(cohort)})


def _read(settings: StudySettings, name: str) -> tuple[Cohort, str]:
    from seglens.cohorts.case import split_by_patient
    from seglens.cohorts.layouts import read_cohort

    own = settings.cohorts[name]
    parts = [
        read_cohort(
            source.path,
            name=name,
            layout=source.layout,
            labels=source.labels,
            mask_values=source.mask_values,
            sequences=settings.sequences,
            images=source.images,
            masks=source.masks,
            patient=source.patient,
            channels=source.channels,
            inverted=source.inverted,
            orientation=source.orientation,
            fractions=own.fractions.model_dump(),
            seed=settings.seed,
        )
        for source in own.sources
    ]
    cohort = parts[0]
    if len(parts) > 1:
        cohort = Cohort.merged(parts, name)
        cohort = cohort.with_splits(split_by_patient(cohort.cases, own.fractions.model_dump(), settings.seed))
    refs = {
        f"{case.id}/{sequence}": ref
        for case in cohort.cases
        for sequence, ref in [*case.images.items(), *([("mask", case.mask)] if case.mask else [])]
    }
    digests = {path: hash_file(path) for path in sorted({ref.path for ref in refs.values()}) if path.is_file()}
    identity = {
        place: [digests.get(ref.path), ref.channel, ref.inverted, ref.orientation] for place, ref in refs.items()
    }
    return cohort, hash_of({"files": identity, "cohort": _facts_of_cases(cohort)})


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
            ]
            for case in cohort.cases
        },
    }


def _cohort_facts(cohort: Cohort, settings: CohortSettings) -> dict[str, Any]:
    return {
        "name": cohort.name,
        "n_cases": len(cohort.cases),
        "n_patients": len({case.patient for case in cohort.cases}),
        "sequences": list(cohort.sequences),
        "labels": {str(value): label for value, label in cohort.labels.items()},
        "phantom": settings.phantom.model_dump(mode="json") if settings.phantom else None,
    }
