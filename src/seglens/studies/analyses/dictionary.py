"""Dictionaries: one fitted to each segmenter's activations, and the variants that floors and ceilings need."""

from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, Unit, each_segmenter, nothing, same_unit

if TYPE_CHECKING:
    from seglens.artifacts import Artifact
    from seglens.dictionaries.sae import SparseAutoencoder
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work


def variant_units(settings: "StudySettings") -> list[Unit]:
    """Variants of every segmenter that has another of its architecture to be compared with."""
    from seglens.studies.variants import VARIANTS

    bounded = settings.dictionaries.controls
    return [
        (name, variant)
        for name in settings.segmenters
        if bounded and len(settings.alike(name)) > 1
        for variant in VARIANTS
    ]


def variant_reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The activations that the plain fit has too."""
    return [("store", unit[:1])]


def inputs(study: "Study", name: str, variant: str = "plain") -> dict[str, Any]:
    """The activations and how they are fitted."""
    if study.settings.store:
        origin = study.store(name).hash
    else:  # what is not stored is computed in `run`: nobody needs it where the dictionary is finished
        segmenter, slices = study.segmenter(name), study.own_slices(name, "train")
        origin = f"{segmenter.hash} {slices.hash} {study.hookpoint(name)}"
    return {
        "store": origin,
        "settings": study.dictionary_settings(name).model_dump(mode="json", exclude={"controls"}),
        "seed": study.settings.seed,
        "variant": variant,
    }


def run(study: "Study", work: "Work", name: str, variant: str = "plain") -> None:
    """Fit the dictionary."""
    from seglens.studies.variants import fit_to_store, variant_seeds, variant_store

    seed = study.settings.seed
    fitted = fit_to_store(
        variant_store(study.store(name), variant, seed),
        study.dictionary_settings(name),
        seeds=variant_seeds(variant, seed),
        device=study.device,
        checkpoint=work.checkpoint,
        progress=work.progress,
    )
    with work.draft() as draft:
        fitted.write(draft)


def read(study: "Study", artifact: "Artifact", name: str, variant: str = "plain") -> "SparseAutoencoder":
    """The dictionary."""
    from seglens.dictionaries.sae import SparseAutoencoder

    return SparseAutoencoder.read(artifact)


DICTIONARY = Analysis(
    "dictionary",
    "Fit a dictionary to each segmenter's activations.",
    each_segmenter,
    inputs,
    run,
    after=("store",),
    reads=same_unit("store"),
    read=read,
    verb="fit",
    summary=nothing,
    section=nothing,
    by_default=True,
    together=True,
    weight=3.0,
)
VARIANT = Analysis(
    "variant",
    "Fit the variants that floors and ceilings need.",
    variant_units,
    inputs,
    run,
    after=("store",),
    reads=variant_reads,
    read=read,
    kind="dictionary",
    verb="",
    summary=nothing,
    section=nothing,
    by_default=True,
    together=True,
    weight=3.0,
)
