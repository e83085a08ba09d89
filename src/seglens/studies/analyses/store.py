"""Activations of a segmenter at its hookpoint, on its own training slices, kept on disk."""

from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, Unit, each_segmenter, nothing

if TYPE_CHECKING:
    from seglens.activations.store import ActivationStore
    from seglens.artifacts import Artifact
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work


def units(settings: "StudySettings") -> list[Unit]:
    """Every segmenter, unless activations are computed whenever they are read."""
    return each_segmenter(settings) if settings.store else []


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The effects of all segmenters of its architecture: one hookpoint is chosen for all."""
    return [("effects", (other,)) for other in settings.alike(str(unit[0]))]


def inputs(study: "Study", name: str) -> dict[str, Any]:
    """The segmenter, its training slices and the hookpoint."""
    segmenter, slices = study.segmenter(name), study.own_slices(name, "train")
    return {"segmenter": segmenter.hash, "slices": slices.hash, "hookpoint": study.hookpoint(name)}


def run(study: "Study", work: "Work", name: str) -> None:
    """Store the activations."""
    from seglens.activations.extraction import extract

    slices, hookpoint = study.own_slices(name, "train"), study.hookpoint(name)
    extract(study.segmenter(name), slices, hookpoint, folder=work.path, progress=work.progress)


def read(study: "Study", artifact: "Artifact", name: str) -> "ActivationStore":
    """The store."""
    from seglens.activations.store import ActivationStore

    return ActivationStore.read(artifact)


STORE = Analysis(
    "store",
    "Store the activations of the chosen one.",
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
