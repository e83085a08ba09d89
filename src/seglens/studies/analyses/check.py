"""Every file of a cohort is checked before use; cases that fail are left out."""

from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, Unit, nothing

if TYPE_CHECKING:
    from seglens.artifacts import Artifact
    from seglens.studies.cohorts import Checked, Files
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work


def each_cohort(settings: "StudySettings") -> list[Unit]:
    """Every cohort of a study."""
    return [(name,) for name in settings.cohorts]


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The phantom, where the cohort is one."""
    return [("phantom", unit)] if settings.cohorts[str(unit[0])].phantom else []


def inputs(study: "Study", name: str) -> dict[str, Any]:
    """The files' sha256, and what is known of the cohort beside them."""
    from seglens.studies.cohorts import check_inputs

    return check_inputs(_files(study, name), study.settings.foreground)


def run(study: "Study", work: "Work", name: str) -> None:
    """Check the cases."""
    from seglens.studies.cohorts import check_files

    own, foreground = study.settings.cohorts[name], study.settings.foreground
    with work.draft() as draft:
        draft.save_document("check", check_files(_files(study, name), own, foreground, work.progress))


def read(study: "Study", artifact: "Artifact", name: str) -> "Checked":
    """The cohort, and which of its cases are left out."""
    from seglens.cohorts.findings import CheckReport
    from seglens.studies.cohorts import settle

    report = CheckReport.from_json(artifact.document("check"))
    return settle(_files(study, name), report, study.run.path, strict=study.settings.strict)


def _files(study: "Study", name: str) -> "Files":
    from seglens.studies.cohorts import find_files

    def found() -> "Files":
        made = study.result("phantom", name) if study.settings.cohorts[name].phantom else None
        return find_files(study.settings, name, study.run.path, made)

    files: Files = study.once(found, "files", name)
    return files


CHECK = Analysis(
    "check",
    "Check the study's cohorts, and leave out the cases that fail.",
    each_cohort,
    inputs,
    run,
    after=("phantom",),
    reads=reads,
    read=read,
    verb="",
    summary=nothing,
    section=nothing,
    by_default=True,
    kept=True,
)
