"""Phantom cohorts are made, not read."""

from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, Unit, nothing

if TYPE_CHECKING:
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work


def units(settings: "StudySettings") -> list[Unit]:
    """Cohorts that are phantoms."""
    return [(name,) for name, own in settings.cohorts.items() if own.phantom]


def inputs(study: "Study", name: str) -> dict[str, Any]:
    """The population, and a seed of the cohort's own."""
    phantom = study.settings.cohorts[name].phantom
    assert phantom is not None
    return {"phantom": phantom.model_dump(mode="json"), "size": study.settings.size, "seed": _seed(study, name)}


def run(study: "Study", work: "Work", name: str) -> None:
    """Write a cohort in nnU-Net's raw layout."""
    import torch

    from seglens.phantoms.cohort import write_phantom_cohort

    phantom = study.settings.cohorts[name].phantom
    assert phantom is not None
    with work.draft() as draft:
        write_phantom_cohort(
            draft.path / "cohort",
            phantom.population,
            subjects=phantom.subjects,
            seed=_seed(study, name),
            factors=phantom.factors,
            size=study.settings.size,
            slices=phantom.slices,
            workers=min(2, torch.get_num_threads()),
            progress=work.progress,
        )


def _seed(study: "Study", name: str) -> int:
    return study.settings.seed * 1000 + list(study.settings.cohorts).index(name)


PHANTOM = Analysis(
    "phantom",
    "Make the study's phantom cohorts.",
    units,
    inputs,
    run,
    verb="",
    summary=nothing,
    section=nothing,
    by_default=True,
    apart=False,
)
