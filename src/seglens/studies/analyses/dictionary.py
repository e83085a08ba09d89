"""Dictionaries: one for each hookpoint of each segmenter, and the variants that floors and ceilings need."""

from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, Unit, nothing, same_unit
from seglens.studies.hookpoints import aligned_pairs, alike, each_lens

if TYPE_CHECKING:
    from seglens.artifacts import Artifact
    from seglens.dictionaries.sae import SparseAutoencoder
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work


def variant_units(settings: "StudySettings") -> list[Unit]:
    """Variants of every lens that is compared with another of its activation space."""
    from seglens.studies.variants import VARIANTS

    pairs = aligned_pairs(settings) if settings.dictionaries.controls else []
    bounded = {lens for source, target in pairs if target in alike(settings, source) for lens in (source, target)}
    return [(*unit, variant) for unit in each_lens(settings) if unit[0] in bounded for variant in VARIANTS]


def variant_reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The activations that the plain fit has too."""
    return [("store", unit[:1])]


def inputs(study: "Study", lens: str, variant: str = "plain") -> dict[str, Any]:
    """The activations and how they are fitted."""
    if study.settings.store:
        origin = study.store(lens).hash
    else:  # what is not stored is computed in `run`: nobody needs it where the dictionary is finished
        segmenter, slices = study.segmenter(lens), study.own_slices(lens, "train")
        origin = f"{segmenter.hash} {slices.hash} {study.hookpoint(lens)}"
    return {
        "store": origin,
        "settings": study.dictionary_settings(lens).model_dump(mode="json", exclude={"controls"}),
        "seed": study.settings.seed,
        "variant": variant,
    }


def run(study: "Study", work: "Work", lens: str, variant: str = "plain") -> None:
    """Fit the dictionary."""
    from seglens.studies.variants import fit_to_store, variant_seeds, variant_store

    seed = study.settings.seed
    fitted = fit_to_store(
        variant_store(study.store(lens), variant, seed),
        study.dictionary_settings(lens),
        seeds=variant_seeds(variant, seed),
        device=study.device,
        checkpoint=work.checkpoint,
        progress=work.progress,
    )
    with work.draft() as draft:
        fitted.write(draft)


def read(study: "Study", artifact: "Artifact", lens: str, variant: str = "plain") -> "SparseAutoencoder":
    """The dictionary."""
    from seglens.dictionaries.sae import SparseAutoencoder

    return SparseAutoencoder.read(artifact)


DICTIONARY = Analysis(
    "dictionary",
    "Fit a dictionary to each segmenter's activations.",
    each_lens,
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
