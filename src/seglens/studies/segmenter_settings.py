"""Settings of one segmenter of a study: one to train, or one to open."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    field_validator,
    model_serializer,
    model_validator,
)

from seglens.segmenters.pretrained import refuse_unpinned
from seglens.studies.setting_types import Count, Hookpoints, Rate

TRAINING = (
    "steps", "epochs", "batch_size", "learning_rate", "encoder_learning_rate", "init_from", "pretrained",
)  # fmt: skip
"""Settings that say how a network is trained."""
OPENING = ("fold", "checkpoint", "settings")
"""Settings that say how a model of others is opened."""


class SegmenterSettings(BaseModel):
    """One model: to train, or with ``model`` to open.

    Attributes:
        cohort: on whose ``train`` split; of an opened one, the cohort that it comes from. Patients of ``val`` and
            ``test`` should be unseen: that is known where it was trained on the same slices, else the report says so.
        model: folder of a segmenter that is opened and not trained; a relative path is taken from the settings file's
            folder. Either an artifact of kind ``"segmenter"``, as a run holds them under ``artifacts/`` and
            `Segmenter.save` writes them: the study's sequences, size, intensities and foreground must be those that it
            was trained with. Or a model of others, such as an nnU-Net results folder or a MONAI bundle (`open_model`):
            it prepares volumes its own way, and the samples of the study are windows of them. None: it is trained.
        fold: of a model of others, where it has several.
        checkpoint: of a model of others: the file's name.
        settings: of a MONAI bundle: key of its configuration to a value in its place.
        architecture: ``segformer-b0`` to ``segformer-b5``, ``unet``, or one that an installed package adds.
        steps: optimiser steps.
        epochs: passes over the training slices, instead of ``steps``.
        batch_size: slices a step.
        learning_rate: peak; None takes the default of the training.
        encoder_learning_rate: peak for the encoder alone, such as 6e-5 beside 6e-4 for a pretrained one
            (SegFormer, arXiv 2105.15203, section 4.1); None: ``learning_rate``.
        network: parts of the architecture to change, such as ``{features: [32, 32, 64, 128, 256, 32]}`` of a U-Net.
        init_from: another segmenter of the study to start from, so that two cohorts' models share a start.
        pretrained: a folder of pretrained weights, or a model of the Hugging Face hub and its commit, such as
            ``nvidia/mit-b0@<commit>``; where the hub's cache does not have it, this one setting reaches the network.
        hookpoints: where it is opened; None takes the study's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cohort: str
    model: Path | None = None
    fold: int | str | None = None
    checkpoint: str | None = None
    settings: dict[str, Any] = {}
    architecture: str = "segformer-b0"
    steps: Count = 2000
    epochs: Rate | None = None
    batch_size: Count = 16
    learning_rate: Rate | None = None
    encoder_learning_rate: Rate | None = None
    network: dict[str, Any] = {}
    init_from: str | None = None
    pretrained: str | None = None
    hookpoints: Hookpoints | None = None

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        from seglens.segmenters.architectures import architecture_named  # brings torch

        return architecture_named(name).name

    @field_validator("pretrained")
    @classmethod
    def _pinned(cls, name: str | None) -> str | None:
        if name is not None:
            refuse_unpinned(name)
        return name

    @model_validator(mode="after")
    def _fits(self) -> "SegmenterSettings":
        from seglens.segmenters.architectures import architecture_named

        row = architecture_named(self.architecture)
        if self.model is not None:
            given = [name for name in TRAINING if name in self.model_fields_set]
            if given:
                raise ValueError(
                    f"model is given, so nothing is trained, and {', '.join(given)} would change nothing; leave out "
                    "model or these"
                )
            return self
        if given := [name for name in OPENING if getattr(self, name) not in (None, {})]:
            raise ValueError(f"{', '.join(given)}: no model of others is given; give model, or leave this out")
        row.describe(1, 2, self.network)
        if self.epochs is not None and "steps" in self.model_fields_set:
            raise ValueError("steps and epochs are both given; give one")
        if self.network and self.init_from is not None:
            raise ValueError("network is given, but the whole network comes from init_from; leave out one")
        if self.pretrained is not None and self.init_from is not None:
            raise ValueError("pretrained is given, but all weights come from init_from; leave out one")
        if self.encoder_learning_rate is not None and row.encoder is None:
            raise ValueError(f"{row.name} has no encoder of its own rate; leave out encoder_learning_rate")
        return self

    @property
    def of_others(self) -> bool:
        """Whether it is a model of others that prepares volumes its own way."""
        from seglens.segmenters.architectures import architecture_named

        return self.model is not None and bool(architecture_named(self.architecture).required)

    @model_serializer(mode="wrap")
    def _as_given(self, handler: Callable[["SegmenterSettings"], Any]) -> dict[str, Any]:
        """Leave out what ``epochs`` or ``model`` stand for, so that what is written can be read."""
        content: dict[str, Any] = handler(self)
        unused = {"model"} if self.model is None else set(TRAINING)
        unused |= {name for name in OPENING if getattr(self, name) in (None, {})}
        return {
            name: own for name, own in content.items() if name not in unused | ({"steps"} if self.epochs else set())
        }


def with_stored_architectures(segmenters: Any, folder: Path) -> Any:
    """Settings of segmenters as they are given, with what stands in the folders of those that are opened.

    Args:
        segmenters: name to settings, not checked yet; what is no such mapping is handed back.
        folder: that relative paths of models begin at.

    Returns:
        The same with absolute paths, architectures and their parts.

    Raises:
        ValueError: no segmenter is there, or another architecture than the settings say.
    """
    if not isinstance(segmenters, dict):
        return segmenters
    return {name: _with_stored_architecture(name, own, folder) for name, own in segmenters.items()}


def _with_stored_architecture(name: str, own: Any, folder: Path) -> Any:
    if not isinstance(own, dict) or not isinstance(own.get("model"), str):
        return own
    path = (folder / own["model"]).resolve()
    try:
        found = _architecture_of(path, {key: own[key] for key in OPENING if key in own})
    except ValueError as error:
        raise ValueError(f"segmenters.{name}.model: {error}") from None
    stored = {"architecture": found["name"], "network": found["settings"]}
    for key, value in stored.items():
        if key in own and own[key] != value:
            raise ValueError(f"segmenters.{name}.{key}: {own[key]!r}, that of {path} is {value!r}; leave out {key}")
    return own | {"model": str(path), **stored}


def _architecture_of(path: Path, opening: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name and settings of the architecture of a segmenter that this library wrote, or of a model of others."""
    from seglens.artifacts import MANIFEST
    from seglens.segmenters.opened import open_model
    from seglens.segmenters.segmenter import stored_architecture

    if (path / MANIFEST).is_file():
        return stored_architecture(path)
    opened = open_model(path, **opening)
    if opened.of_pictures:
        raise ValueError(
            f"{path} takes colour pictures, and a study shows a model of others windows of volumes; use it with "
            "`seglens open` and `seglens predict --model`"
        )
    architecture = opened.segmenter.architecture
    assert architecture is not None
    return architecture
