"""``seglens steer --policy auto``: for every steering entry of a study, whether any latent edit beats all baselines."""

from pathlib import Path

from seglens.artifacts import Artifact, Draft, finite
from seglens.runs import Run, Stage
from seglens.runtime.progress import Progress
from seglens.steering.automatic import choose_intervention
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Announce, Study, unseen


def decide(settings: StudySettings, out: Path, *, announce: Announce = unseen) -> list[str]:
    """Ask for every steering entry, on the val patients of its cohort alone; finished answers are taken as they are.

    Args:
        settings: of the study.
        out: the run's folder.
        announce: shown which stage is worked on, and how far it is.

    Returns:
        A sentence an entry.

    Raises:
        ValueError: the study has no steering entry.
    """
    if not settings.steering:
        raise ValueError("the study has no entry under steering; give a segmenter, another cohort and a label")
    run = Run(out)
    with run.writing(settings.model_dump(mode="json")):
        study = Study(settings, run, announce)
        found = []
        for entry in settings.steering:
            document = verdict(study, entry.segmenter, entry.cohort, entry.label).document("verdict")
            found.append(f"{entry.segmenter} on {entry.cohort}, {entry.label}: {document['sentence']}")
        return found


def verdict(study: Study, segmenter: str, cohort: str, label: str) -> Artifact:
    """One entry's verdict: verdict.json, methods.parquet, and where an edit helps its fitted numbers."""
    lens, selection = study.lens(segmenter), study.slices(cohort).split("val")
    inputs = {
        "dictionary": lens.dictionary_hash,
        "selection": selection.hash,
        "label": label,
        "seed": study.settings.seed,
        "version": 4,
    }

    def make(draft: Draft, progress: Progress) -> None:
        found = choose_intervention(
            lens,
            selection,
            target=label,
            seed=study.settings.seed,
            progress=progress,
        )
        draft.save_table("methods", found.table)
        draft.save_document(
            "verdict",
            {
                "sentence": found.sentence,
                "helps": found.intervention is not None,
                "edit": found.edit,
                "baseline": found.baseline,
                "improvement": finite(found.improvement.value),
                "low": finite(found.improvement.low),
                "high": finite(found.improvement.high),
                "patients": found.improvement.n_patients,
                "chosen": dict(found.chosen),
            },
        )
        if found.intervention is not None and found.intervention.values:
            draft.save_tensors("values", {name: value.cpu() for name, value in found.intervention.values.items()})

    return study.draft(Stage(f"verdict/{segmenter}-{cohort}-{label}", "verdict", inputs), make)
