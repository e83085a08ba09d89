"""Choice of a study's segmenters for an experiment."""

from seglens.experiments.experiment import NotApplicableError
from seglens.segmenters.score_summary import ScoreSummary
from seglens.studies.stages import Study


def example_segmenter(study: Study, preferred: str) -> str:
    """The segmenter that the paper takes where the study has it, else the first."""
    names = study.settings.segmenters
    return preferred if preferred in names else next(iter(names))


def lesion_segmenters(study: Study) -> list[str]:
    """One segmenter for each cohort that is labelled like more than anatomy: the first that was trained on it.

    A cohort counts where some of its test slices carry no label at all or few pixels do, which anatomy never does.
    """
    found = {}
    for name, own in study.settings.segmenters.items():
        if own.cohort not in found and labelled_share(study, own.cohort) < 0.5:
            found[own.cohort] = name
    return list(found.values())


def labelled_share(study: Study, cohort: str) -> float:
    """Share of the brain's pixels that carry a label, over the test slices of a cohort."""
    slices = study.slices(cohort).split("test")
    return float((slices.masks() > 0).sum() / slices.brains().sum().clamp(min=1))


def require_lesions(study: Study) -> list[str]:
    """`lesion_segmenters`, at least one.

    Raises:
        NotApplicableError: there is none.
    """
    names = lesion_segmenters(study)
    if not names:
        raise NotApplicableError("needs a segmenter of lesions; every cohort here is labelled all over the brain")
    return names


CONVENTIONS = {
    "dice_pooled": "pooled",
    "dice_sampled": "per volume, sampled slices",
    "dice_slice_present": "per slice, class present",
    "dice_slice_empty1": "per slice, empty = 1",
}
"""Key in a score summary to what tables call it."""


def dice_columns(summary: ScoreSummary, label: str) -> dict[str, float | None]:
    """Dice of a class (or the foreground) in all conventions, under the names of columns."""
    return {f"{label} Dice, {words}": summary.score(name, label).value for name, words in CONVENTIONS.items()}
