"""Meanings of latents, on slices that neither the segmenter nor the dictionary was trained on."""

from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, nothing, same_unit
from seglens.studies.hookpoints import labelled_lenses

if TYPE_CHECKING:
    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.studies.stages import Study, Work
    from seglens.summaries import Summary

NAMES = 2
"""Raise it when the rules of names or what they rest on change: 2 are words that come back in both halves."""


def inputs(study: "Study", name: str) -> dict[str, Any]:
    """The dictionary and the slices."""
    dictionary, slices = study.dictionary(name), study.unseen_slices(name)
    top_k = study.settings.atlas_top_k
    return {"dictionary": dictionary.hash, "slices": slices.hash, "top_k": top_k, "names": NAMES}


def run(study: "Study", work: "Work", name: str) -> None:
    """Describe every latent."""
    from seglens.semantics.atlas import describe

    slices, top_k = study.unseen_slices(name), study.settings.atlas_top_k
    with work.draft() as draft:
        describe(study.lens(name), slices, top_k=top_k, progress=work.progress).write(draft)


def section(run: "Run", summary: "Summary") -> "Section":
    """Cards of latents."""
    from seglens.reports.sections.gallery import gallery_section

    return gallery_section(run, {one.name: one.trained_on for one in summary.segmenters})


ATLAS = Analysis(
    "atlas",
    "Say what each latent means.",
    labelled_lenses,
    inputs,
    run,
    after=("dictionary",),
    reads=same_unit("dictionary"),
    verb="describe",
    summary=nothing,
    section=section,
    by_default=True,
)
