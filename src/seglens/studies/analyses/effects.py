"""Effects of mean ablation at each hookpoint, measured on the val split of the segmenter's own cohort."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, nothing, same_unit

if TYPE_CHECKING:
    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.studies.analysis import Unit
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import Summary


def units(settings: "StudySettings") -> "list[Unit]":
    """Every segmenter whose own cohort has masks."""
    return [(name,) for name, own in settings.segmenters.items() if settings.cohorts[own.cohort].labelled]


def inputs(study: "Study", name: str) -> dict[str, Any]:
    """The segmenter and its val slices."""
    return {"segmenter": study.segmenter(name).hash, "slices": study.own_slices(name, "val").hash}


def run(study: "Study", work: "Work", name: str) -> None:
    """Replace each hookpoint's activation by its mean."""
    from seglens.activations.effects import hookpoint_effects

    with work.draft() as draft:
        effects = hookpoint_effects(study.segmenter(name), study.own_slices(name, "val"), progress=work.progress)
        draft.save_table("effects", effects)


def section(run: "Run", summary: "Summary") -> "Section":
    """Worth of each place in a network."""
    from seglens.reports.sections.hookpoints import hookpoints_section

    return hookpoints_section(summary)


def sentences(run: "Run") -> Iterator[str]:
    """Foreground Dice before and after each hookpoint's activation is replaced by its mean."""
    for stage in run.stages("effects/"):
        table = run.artifact(stage).table("effects")
        rows = table.filter(table["class"] == "foreground").to_dicts()
        drops = [f"{row['hookpoint']} {row['dice_before'] or 0:.2f} to {row['dice_ablated'] or 0:.2f}" for row in rows]
        yield f"mean ablation, {stage.removeprefix('effects/')}: {', '.join(drops)}"


EFFECTS = Analysis(
    "effects",
    "Measure what each hookpoint does.",
    units,
    inputs,
    run,
    after=("segmenter",),
    reads=same_unit("segmenter"),
    sentences=sentences,
    verb="extract",
    summary=nothing,
    section=section,
    by_default=True,
)
