"""Whether any latent edit beats all that can be had without latents, for every steering entry, on val patients."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from seglens.studies.analyses.steering import reads, units
from seglens.studies.analysis import Analysis, Unit, nothing

if TYPE_CHECKING:
    from seglens.runs import Run
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work

VERSION = 4


def asked(settings: "StudySettings") -> list[Unit]:
    """Entries of ``steering``.

    Raises:
        ValueError: there is none.
    """
    if not settings.steering:
        raise ValueError("the study has no entry under steering; give a segmenter, another cohort and a label")
    return units(settings)


def inputs(study: "Study", name: str, cohort: str, label: str) -> dict[str, Any]:
    """The dictionary, the val slices and the class."""
    return {
        "dictionary": study.dictionary(name).hash,
        "selection": study.slices(cohort).split("val").hash,
        "label": label,
        "seed": study.settings.seed,
        "version": VERSION,
    }


def run(study: "Study", work: "Work", name: str, cohort: str, label: str) -> None:
    """Write verdict.json, methods.parquet, and where an edit helps its fitted numbers."""
    from seglens.artifacts import finite
    from seglens.steering.automatic import choose_intervention
    from seglens.steering.records import VerdictRecord

    with work.draft() as draft:
        found = choose_intervention(
            study.lens(name),
            study.slices(cohort).split("val"),
            target=label,
            seed=study.settings.seed,
            progress=work.progress,
        )
        draft.save_table("methods", found.table)
        record = VerdictRecord(
            sentence=found.sentence,
            helps=found.intervention is not None,
            edit=found.edit,
            baseline=found.baseline,
            improvement=finite(found.improvement.value),
            low=finite(found.improvement.low),
            high=finite(found.improvement.high),
            patients=found.improvement.n_patients,
            chosen=found.chosen,
        )
        draft.save_record("verdict", record)
        if found.intervention is not None and found.intervention.values:
            draft.save_tensors("values", {name: value.cpu() for name, value in found.intervention.values.items()})


def sentences(run: "Run") -> Iterator[str]:
    """One for each entry."""
    from seglens.steering.records import VerdictRecord

    for stage in run.stages("verdict/"):
        yield f"- {stage.removeprefix('verdict/')}: {run.artifact(stage).record('verdict', VerdictRecord).sentence}"


VERDICT = Analysis(
    "verdict",
    "Say for every steering entry whether an edit beats every baseline in cross-validation.",
    asked,
    inputs,
    run,
    after=("dictionary", "slices"),
    reads=reads,
    sentences=sentences,
    summary=nothing,
    section=nothing,
    weight=10.0,
)
