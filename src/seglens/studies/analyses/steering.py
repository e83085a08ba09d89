"""A segmenter is adapted to a cohort by changing latents of one class.

Whatever is corrected is chosen on the val patients of a cohort and evaluated on its test patients. So the latents'
meanings are measured on the val patients too: an atlas of the test slices would let their masks rank the latents.
"""

from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, Unit
from seglens.studies.hookpoints import lens_of

if TYPE_CHECKING:
    from seglens.cohorts.slice_set import SliceSet
    from seglens.dictionaries.lens import Lens
    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.semantics.atlas import LatentAtlas
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import Summary

VERSION = 2


def units(settings: "StudySettings") -> list[Unit]:
    """Entries of ``steering``."""
    return [
        (lens_of(settings, entry.segmenter, entry.hookpoint), entry.cohort, entry.label) for entry in settings.steering
    ]


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The dictionary and the cohort's slices."""
    return [("dictionary", unit[:1]), ("slices", unit[1:2])]


def corrected_inputs(study: "Study", name: str, cohort: str) -> dict[str, Any]:
    """Inputs of whatever is chosen on some patients of a cohort and evaluated on others."""
    slices = study.slices(cohort)
    return {
        "dictionary": study.dictionary(name).hash,
        "selection": slices.split("val").hash,
        "evaluation": slices.split("test").hash,
        "seed": study.settings.seed,
    }


def corrected_by(study: "Study", name: str, cohort: str) -> "tuple[Lens, LatentAtlas, SliceSet, SliceSet]":
    """The lens, meanings of its latents on the patients to choose on, these patients' slices and the others'."""
    from seglens.runtime.distributed import broadcast_from_main
    from seglens.semantics.atlas import describe

    lens, slices = study.lens(name), study.slices(cohort)
    selection = slices.split("val")
    return lens, broadcast_from_main(lambda: describe(lens, selection, top_k=1)), selection, slices.split("test")


def results_of(run: "Run", name: str) -> list[Any]:
    """Documents of every policy of every entry of an analysis."""
    return [entry for stage in run.stages(f"{name}/") for entry in run.artifact(stage).document("results")]


def inputs(study: "Study", name: str, cohort: str, label: str) -> dict[str, Any]:
    """The dictionary, both splits of the cohort and the class."""
    return {"label": label, "version": VERSION} | corrected_inputs(study, name, cohort)


def run(study: "Study", work: "Work", name: str, cohort: str, label: str) -> None:
    """Choose edits and evaluate them beside their baselines."""
    from seglens.steering.adaptation import steer_between

    with work.draft() as draft:
        steer_between(
            *corrected_by(study, name, cohort),
            target=label,
            source=name,
            seed=study.settings.seed,
            progress=work.progress,
        ).write(draft)


def summary(run: "Run", settings: "StudySettings") -> dict[str, Any]:
    """Every policy of every entry."""
    return {"steering": results_of(run, "steering")}


def section(run: "Run", summary: "Summary") -> "Section":
    """Before and after, beside every baseline and control."""
    from seglens.reports.sections.steering import steering_section

    return steering_section(run, summary)


STEERING = Analysis(
    "steering",
    "Adapt segmenters to other cohorts by changing latents.",
    units,
    inputs,
    run,
    after=("dictionary", "slices"),
    reads=reads,
    verb="steer",
    summary=summary,
    section=section,
    by_default=True,
    together=True,
    weight=10.0,
)
