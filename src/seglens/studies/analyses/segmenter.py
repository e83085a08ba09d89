"""Segmenters are trained, each on the train split of its cohort, or opened."""

from typing import TYPE_CHECKING, Any

from seglens.documents import to_document
from seglens.studies.analysis import Analysis, Unit, each_segmenter, nothing

if TYPE_CHECKING:
    from pathlib import Path

    from seglens.artifacts import Artifact
    from seglens.cohorts.slice_set import SliceSet
    from seglens.runs import Run
    from seglens.segmenters.segmenter import Segmenter
    from seglens.segmenters.training import TrainingSettings
    from seglens.studies.segmenter_settings import SegmenterSettings
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import SegmenterRecord


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The slices of its cohort, and the segmenter that it starts from."""
    own = settings.segmenters[str(unit[0])]
    start: list[tuple[str, Unit]] = [("segmenter", (own.init_from,))] if own.init_from else []
    return [("slices", (own.cohort,)), *start]


def inputs(study: "Study", name: str) -> dict[str, Any]:
    """The slices, the settings and the start; or the slices and the model that is opened."""
    own = study.settings.segmenters[name]
    if (opened := study.opened(name)) is not None:
        return {"slices": study.own_slices(name, "train").hash, "model": opened.hash, "trained_on": None}
    if own.model is not None:
        from seglens.artifacts import read_artifact

        model = read_artifact(own.model, "segmenter")
        trained_on = model.inputs.get("slices")
        return {"slices": study.own_slices(name, "train").hash, "model": model.hash, "trained_on": trained_on}
    return {
        "slices": study.own_slices(name, "train").hash,
        "settings": identity(own),
        "init_from": study.segmenter(own.init_from).hash if own.init_from else None,
        "seed": study.settings.seed,
    }


def run(study: "Study", work: "Work", name: str) -> None:
    """Open a model; or train: from another segmenter, the pretrained encoder of the settings, or random weights."""
    from seglens.segmenters.architectures import build_segmenter
    from seglens.segmenters.training import train_segmenter

    own, slices, seed = study.settings.segmenters[name], study.own_slices(name, "train"), study.settings.seed
    others = study.opened(name)
    if own.model is not None:
        segmenter = opened_segmenter(own.model, own.architecture, slices) if others is None else others.segmenter
        with work.draft() as draft:
            segmenter.write(draft)
        return
    start = study.segmenter(own.init_from) if own.init_from else None
    if start is None and own.pretrained is not None:
        start = build_segmenter(
            own.architecture,
            sequences=slices.sequences,
            labels=slices.labels,
            size=study.settings.size,
            seed=seed,
            pretrained=own.pretrained,
            settings=own.network,
        )
    trained = train_segmenter(
        slices,
        architecture=own.architecture,
        init_from=start,
        settings=training_settings(own, len(slices)),
        seed=seed,
        device=study.device,
        checkpoint=work.checkpoint,
        progress=work.progress,
    )
    with work.draft() as draft:
        trained.write(draft)


def opened_segmenter(model: "Path", architecture: str, slices: "SliceSet") -> "Segmenter":
    """Open a segmenter that another run, or `Segmenter.save`, wrote.

    Args:
        model: its folder.
        architecture: that the study takes it for.
        slices: of its own cohort.

    Raises:
        ValueError: it is of another architecture, or the study prepares slices otherwise than those that it was trained
            on, or with other labels.
    """
    from seglens.segmenters.segmenter import Segmenter, stored_architecture

    found = stored_architecture(model)["name"]
    if found != architecture:
        raise ValueError(
            f"the model in {model} is a {found}, the study says {architecture}; give architecture: {found}"
        )
    segmenter = Segmenter.load(model)
    segmenter.check_data(slices.name, slices.sequences, slices.labels, preprocessing=slices.preprocessing)
    return segmenter


def identity(own: "SegmenterSettings") -> dict[str, Any]:
    """Settings that change a weight: not where the network is opened; what is not given is left out."""
    later = ("model", "epochs", "encoder_learning_rate", "network")
    return own.model_dump(mode="json", exclude={"hookpoints", *(name for name in later if not getattr(own, name))})


def training_settings(own: "SegmenterSettings", n_slices: int) -> "TrainingSettings":
    """A study's settings of one segmenter as the trainer takes them.

    Args:
        own: the settings.
        n_slices: of the training split; an epoch is as many steps as show each of them once.
    """
    from dataclasses import replace
    from math import ceil

    from seglens.segmenters.training import TrainingSettings

    steps = own.steps if own.epochs is None else ceil(own.epochs * n_slices / own.batch_size)
    settings = TrainingSettings(
        steps=steps,
        batch_size=own.batch_size,
        encoder_learning_rate=own.encoder_learning_rate,
        architecture_settings=own.network,
    )
    return settings if own.learning_rate is None else replace(settings, learning_rate=own.learning_rate)


def read(study: "Study", artifact: "Artifact", name: str) -> "Segmenter":
    """The segmenter, on the study's device."""
    from seglens.segmenters.segmenter import Segmenter

    return Segmenter.read(artifact).to(study.device)


def summary(run: "Run", settings: "StudySettings") -> dict[str, Any]:
    """Every segmenter: how it was trained, its scores, and what its hookpoints do."""
    trained = [name for name in settings.segmenters if f"segmenter/{name}" in run]
    return {"segmenters": [to_document(_record(run, settings, name)) for name in trained]}


def _record(run: "Run", settings: "StudySettings", name: str) -> "SegmenterRecord":
    from seglens.segmenters.scoring import Scores
    from seglens.studies.hookpoints import lenses_of
    from seglens.summaries import EffectRecord, SegmenterRecord

    own = settings.segmenters[name]
    scored = {stage.split("@", 1)[1]: stage for stage in run.stages(f"scores/{name}@")}
    effects = run.artifact(f"effects/{name}").table("effects").rows() if f"effects/{name}" in run else []
    trained = run.artifact(f"segmenter/{name}").inputs
    fitted = [stage for lens in lenses_of(settings, name) if (stage := f"dictionary/{lens}") in run]
    return SegmenterRecord(
        name=name,
        architecture=own.architecture,
        trained_on=own.cohort,
        init_from=own.init_from,
        opened_from=None if own.model is None else own.model.name,
        unseen_is_known=own.model is None or trained["trained_on"] == trained["slices"],
        hookpoints=tuple(run.artifact(stage).document("dictionary")["hookpoint"] for stage in fitted),
        hookpoint_reason=_reason(run, settings, name),
        seconds=run.timings.get(f"segmenter/{name}"),
        scores={cohort: Scores(run.artifact(stage).table("scores")).summary() for cohort, stage in scored.items()},
        effects=tuple(EffectRecord(*row) for row in effects),
    )


def _reason(run: "Run", settings: "StudySettings", name: str) -> str | None:
    from seglens.studies.hookpoints import AUTO, common_hookpoint, hookpoint_of, measured

    stages = [f"effects/{other}" for other in measured(settings, name)]
    if hookpoint_of(settings, name) != AUTO or not all(stage in run for stage in stages):
        return None
    effects = [run.artifact(stage).table("effects") for stage in stages]
    return common_hookpoint(effects, settings.minimum_effect).reason


SEGMENTER = Analysis(
    "segmenter",
    "Train the study's segmenters (or those named), or open them.",
    each_segmenter,
    inputs,
    run,
    after=("slices",),
    reads=reads,
    read=read,
    verb="train",
    summary=summary,
    section=nothing,
    by_default=True,
    together=True,
    kept=True,
    weight=5.0,
)
