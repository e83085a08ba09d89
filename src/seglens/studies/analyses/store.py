"""Activations of a segmenter at its hookpoints, on its own training slices, kept on disk."""

from typing import TYPE_CHECKING, Any

from seglens.lens_names import segmenter_of
from seglens.studies.analysis import Analysis, Unit, nothing
from seglens.studies.hookpoints import each_lens, lenses_of, measured

if TYPE_CHECKING:
    from seglens.activations.store import ActivationStore
    from seglens.artifacts import Artifact
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work


def units(settings: "StudySettings") -> list[Unit]:
    """Every lens, unless activations are computed whenever they are read."""
    return each_lens(settings) if settings.store else []


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The effects of all segmenters of its architecture: one hookpoint is chosen for all.

    A further hookpoint's come with those of the first one.
    """
    lens = str(unit[0])
    first: list[tuple[str, Unit]] = [("store", (segmenter_of(lens),))] if segmenter_of(lens) != lens else []
    return [*(("effects", (other,)) for other in measured(settings, lens)), *first]


def inputs(study: "Study", lens: str) -> dict[str, Any]:
    """The segmenter, its training slices and the hookpoint."""
    segmenter, slices = study.segmenter(lens), study.own_slices(lens, "train")
    return {"segmenter": segmenter.hash, "slices": slices.hash, "hookpoint": study.hookpoint(lens)}


def run(study: "Study", work: "Work", lens: str) -> None:
    """Store the activations, with those of all other hookpoints of the segmenter that are missing: one pass for all."""
    from seglens.activations.extraction import extract_each
    from seglens.runtime.distributed import broadcast_from_main

    paths = {study.hookpoint(lens): work.path}
    for other in lenses_of(study.settings, segmenter_of(lens)):
        if other != lens and (stage := study.stage("store", other)) is not None:
            paths[study.hookpoint(other)] = work.path.with_name(stage.folder)
    missing = broadcast_from_main(lambda: [name for name, path in paths.items() if not path.exists()])
    folders = {name: paths[name] for name in missing}
    extract_each(study.segmenter(lens), study.own_slices(lens, "train"), folders, progress=work.progress)


def read(study: "Study", artifact: "Artifact", lens: str) -> "ActivationStore":
    """The store."""
    from seglens.activations.store import ActivationStore

    return ActivationStore.read(artifact)


STORE = Analysis(
    "store",
    "Store the activations of the chosen ones.",
    units,
    inputs,
    run,
    after=("effects",),
    reads=reads,
    read=read,
    kind="activations",
    verb="extract",
    summary=nothing,
    section=nothing,
    by_default=True,
    together=True,
    weight=2.0,
)
