"""How well a dictionary stands for the activation on the test split, beside an untrained segmenter's dictionary.

Explained variance alone proves nothing: random features are explained too.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seglens.documents import to_document
from seglens.studies.analysis import Analysis, same_unit
from seglens.studies.hookpoints import labelled_lenses

if TYPE_CHECKING:
    from pathlib import Path

    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.runtime.progress import Progress
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import DictionaryRecord, Summary


def inputs(study: "Study", name: str) -> dict[str, Any]:
    """The dictionary and the test slices."""
    return {
        "dictionary": study.dictionary(name).hash,
        "slices": study.own_slices(name, "test").hash,
        "settings": study.settings.dictionaries.model_dump(mode="json"),
    }


def run(study: "Study", work: "Work", name: str) -> None:
    """Measure `lens_quality`; ``control_explained_variance`` is None where no control is asked for."""
    from seglens.dictionaries.quality import lens_quality
    from seglens.studies.variants import activations_of

    lens, slices = study.lens(name), study.own_slices(name, "test")
    scratch = work.checkpoint if study.settings.store else None
    evaluated = activations_of(lens.segmenter, slices, lens.hookpoint, scratch and scratch / "test")
    quality = lens_quality(lens, evaluated, slices)
    if study.settings.dictionaries.controls:
        quality = replace(quality, control_explained_variance=_control(study, name, scratch, work.progress))
    with work.draft() as draft:
        draft.save_record("quality", quality)


def _control(study: "Study", name: str, scratch: "Path | None", progress: "Progress") -> float | None:
    """Variance that a dictionary of the untrained segmenter explains of its own activations."""
    from seglens.dictionaries.quality import dictionary_quality
    from seglens.studies.untrained import untrained_segmenter
    from seglens.studies.variants import activations_of, fit_to_store

    hookpoint, seed = study.hookpoint(name), study.settings.seed
    untrained = untrained_segmenter(study, name)
    training, test = study.own_slices(name, "train"), study.own_slices(name, "test")
    control = fit_to_store(
        activations_of(untrained, training, hookpoint, scratch and scratch / "control_training"),
        study.dictionary_settings(name),
        seeds=(seed, seed),
        device=study.device,
        checkpoint=None,
        progress=progress,
    )
    evaluated = activations_of(untrained, test, hookpoint, scratch and scratch / "control_test")
    return dictionary_quality(control, evaluated).explained_variance


def summary(run: "Run", settings: "StudySettings") -> dict[str, Any]:
    """Every dictionary with its figures."""
    measured = [str(lens) for (lens,) in labelled_lenses(settings) if f"quality/{lens}" in run]
    return {"dictionaries": [to_document(_record(run, name)) for name in measured]}


def _record(run: "Run", name: str) -> "DictionaryRecord":
    from seglens.dictionaries.quality import QualityRecord
    from seglens.summaries import DictionaryRecord

    head = run.artifact(f"dictionary/{name}").document("dictionary")
    latents = run.artifact(f"atlas/{name}").table("latents").height if f"atlas/{name}" in run else None
    quality = vars(run.artifact(f"quality/{name}").record("quality", QualityRecord))
    return DictionaryRecord(name=name, hookpoint=head["hookpoint"], k=head["k"], n_latents=latents, **quality)


def section(run: "Run", summary: "Summary") -> "Section":
    """The dictionaries beside their controls."""
    from seglens.reports.sections.dictionaries import dictionaries_section

    return dictionaries_section(summary)


QUALITY = Analysis(
    "quality",
    "Measure its quality.",
    labelled_lenses,
    inputs,
    run,
    after=("dictionary",),
    reads=same_unit("dictionary"),
    verb="fit",
    summary=summary,
    section=section,
    by_default=True,
    together=True,
    weight=2.0,
)
