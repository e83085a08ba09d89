"""Settings of a study: one YAML file, checked before any work."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from seglens.cohorts.foreground import AUTO, check_rule
from seglens.cohorts.label_names import alike
from seglens.cohorts.source_options import Flag, SourceOptions
from seglens.foreign.yaml_text import MAX_CHARACTERS, Parsed, YamlError, parse_yaml
from seglens.runtime.suggestions import did_you_mean
from seglens.studies.blocks import NO_SUCH_NAME, unknown, with_blocks
from seglens.studies.entries import asked_twice, needing_masks, unknown_names
from seglens.studies.segmenter_settings import SegmenterSettings, with_stored_architectures
from seglens.studies.setting_types import Count, CountOrAuto, Hookpoints, Label, Percentile, Rate, Share

_NAME = re.compile(r"[^\W_][\w .+-]{0,59}")
_MAX_NAME_BYTES = 60


class SettingsError(ValueError):
    """A settings file that cannot be used; the message lists every fault with its place."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class SourceSettings(SourceOptions):
    """One folder of images, and how it is to be read.

    Attributes:
        path: the folder; relative paths are taken from the settings file's folder.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    path: Path

    def __post_init__(self) -> None:
        from seglens.cohorts.layouts import require_layout

        super().__post_init__()
        require_layout(self.layout)


class PhantomSettings(_Strict):
    """A cohort that is made, not read.

    Attributes:
        population: whose priors.
        subjects: how many.
        slices: axial slices a subject.
        factors: named differences taken from another population, such as ``{noise: ssa}``.
    """

    population: Literal["adult", "pediatric", "ssa", "healthy"]
    subjects: Count = 56
    slices: Count = 10
    factors: dict[str, str] = {}


class SplitShares(_Strict):
    """Shares of a cohort's patients in each split.

    Segmenters and dictionaries are trained on ``train``, latents and strengths are chosen on ``val``, everything is
    judged on ``test``.
    """

    train: Share = 0.6
    val: Share = 0.15
    test: Share = 0.25

    @model_validator(mode="after")
    def _whole(self) -> "SplitShares":
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"train, val and test add up to {self.train + self.val + self.test:g}; they must make 1")
        return self


class CohortSettings(_Strict):
    """Where a cohort's cases are and how they are cut into slices.

    Attributes:
        sources: folders; several are merged into one cohort.
        phantom: instead of ``sources``, a phantom cohort.
        fractions: shares of the patients in each split.
        slices_per_volume: at most so many lesion slices a volume, evenly spaced; None takes all.
        lesion_free_share: share of the kept slices that show no lesion.
        regions: name to label values that are also scored as one on whole volumes, such as ``{WT: [1, 2, 3]}``.
        labelled: False of a cohort without masks (masks that are there are not read): predictions, dictionaries of
            opened models and their alignment are made of it, what needs masks is left out. ``slices_per_volume`` are
            then evenly spaced over the foreground.
    """

    sources: list[SourceSettings] = []
    phantom: PhantomSettings | None = None
    fractions: SplitShares = SplitShares()
    slices_per_volume: Count | None = None
    lesion_free_share: Share = 0.2
    regions: dict[str, list[Label]] = {}
    labelled: Flag = True

    @model_validator(mode="after")
    def _one_origin(self) -> "CohortSettings":
        if bool(self.sources) == (self.phantom is not None):
            raise ValueError("give either sources or phantom")
        if self.regions and not self.labelled:
            raise ValueError("regions are scored by masks, and labelled: false says that there are none; give one")
        return self


class DictionarySettings(_Strict):
    """How every dictionary of the study is fitted.

    Attributes:
        k: active latents a token, on average; ``auto``: a tenth of the activation's width, at least 4.
        expansion: latents per activation channel; ``auto``: 16, or as much less as leaves each latent 64 tokens.
        steps: optimiser steps.
        batch_size: tokens a step.
        learning_rate: peak; None takes the fitting's default.
        controls: also fit what floors and ceilings need (rotated activations, other token order, other seed, an
            untrained segmenter).
    """

    k: CountOrAuto = "auto"
    expansion: CountOrAuto = "auto"
    steps: Count = 2000
    batch_size: Count = 4096
    learning_rate: Rate | None = None
    controls: Flag = True


class SteeringSettings(_Strict):
    """Adapt one segmenter to another cohort by changing latents of one class, at its first hookpoint or another."""

    segmenter: str
    cohort: str
    label: str
    hookpoint: str | None = None


class FailureSettings(_Strict):
    """Recover a segmenter's worst slices on a cohort by latents of its first hookpoint or another."""

    segmenter: str
    cohort: str
    worst: Count = 60
    hookpoint: str | None = None


class AlignmentSettings(_Strict):
    """Align all pairs of some segmenters at a hookpoint; without an entry they are aligned at their first ones.

    Attributes:
        hookpoint: at which at least two of them are opened.
        segmenters: their names; none takes all.
    """

    hookpoint: str
    segmenters: list[str] = []


class StudySettings(_Strict):
    """A whole study; ``seglens run --example`` prints a commented file.

    Attributes:
        name: shown in the report.
        seed: everything random follows from it.
        sequences: input channels, in order.
        size: rows and columns of a slice.
        clip_percentiles: low and high, 0..100: intensities are clipped to these of the foreground's, volume by volume.
        foreground: which pixels are normalised and shown, for all cohorts alike: ``brain``, ``nonzero``, ``none`` (all
            of them); ``auto`` is ``brain`` where every volume of every cohort is a stripped brain, else ``none``.
        cohorts: by name, of letters, digits, spaces and ``. _ + -``.
        segmenters: by name, as those; each also gets a dictionary of its own, fitted on its own cohort.
        hookpoints: where segmenters are opened, one name or a list; each takes those that it has. Each hookpoint gets
            a dictionary, its quality and an atlas; all else is done at a segmenter's first one unless an entry names
            another. ``auto``, also for a segmenter that has none of them: the deepest place whose mean ablation lowers
            foreground Dice by ``minimum_effect`` in every segmenter of that architecture.
        minimum_effect: see ``hookpoints``.
        dictionaries: how they are fitted.
        store: keep activations on disk; False computes them whenever they are read, for cohorts whose activations no
            disk holds.
        tau: cosine above which a matched pair of latents counts as shared.
        alignment: pairs to compare at further hookpoints.
        steering: adaptations to try.
        failures: recoveries to try.
        atlas_top_k: exemplar slices a latent.
        device: ``auto`` takes a GPU where there is one.
        strict: stop where a case would be quarantined. Changes no result, so it is no part of the study's record.
        mixed: go on with results of other versions or of another kind of processor. No part of the record either.

    A block by the name of an installed analysis holds its settings, and has the study do it.
    """

    model_config = ConfigDict(extra="allow")

    name: str = "study"
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    sequences: Annotated[list[str], Field(min_length=1)]
    size: Annotated[int, Field(strict=True, ge=32, multiple_of=32)] = 256
    clip_percentiles: tuple[Percentile, Percentile] = (0.5, 99.5)
    foreground: str = AUTO
    cohorts: Annotated[dict[str, CohortSettings], Field(min_length=1)]
    segmenters: Annotated[dict[str, SegmenterSettings], Field(min_length=1)]
    hookpoints: Hookpoints = "auto"
    minimum_effect: Share = 0.2
    dictionaries: DictionarySettings = DictionarySettings()
    store: Flag = True
    tau: Share = 0.8
    alignment: list[AlignmentSettings] = []
    steering: list[SteeringSettings] = []
    failures: list[FailureSettings] = []
    atlas_top_k: Count = 8
    device: str = "auto"
    strict: Annotated[Flag, Field(exclude=True)] = False
    mixed: Annotated[Flag, Field(exclude=True)] = False

    @model_validator(mode="wrap")
    @classmethod
    def _with_blocks(cls, content: Any, handler: Callable[[Any], "StudySettings"]) -> "StudySettings":
        return with_blocks(cls, content, handler)

    @field_validator("clip_percentiles")
    @classmethod
    def _rising(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if pair[0] >= pair[1]:
            raise ValueError(f"{list(pair)} must rise, such as [0.5, 99.5]")
        return pair

    @field_validator("foreground")
    @classmethod
    def _known_rule(cls, name: str) -> str:
        check_rule(name)
        return name

    @field_validator("cohorts", "segmenters")
    @classmethod
    def _plain_names(cls, named: dict[str, Any]) -> dict[str, Any]:
        strange = [name for name in named if not _NAME.fullmatch(name) or len(name.encode()) > _MAX_NAME_BYTES]
        if strange:
            raise ValueError(
                f"the names {', '.join(repr(name[:80]) for name in strange)}: they stand in names of stages, folders "
                "and addresses; take up to 60 letters, digits, spaces and . _ + -, a letter or digit first (a letter "
                "that is not in ASCII counts as two to four)"
            )
        if pairs := alike(named):
            listed = ", ".join(" and ".join(map(ascii, pair)) for pair in pairs)
            raise ValueError(f"the names {listed} differ only by capitals, Unicode form or blanks; rename one")
        return named

    @model_validator(mode="after")
    def _names_exist(self) -> "StudySettings":
        faults = []
        for name, segmenter in self.segmenters.items():
            if segmenter.cohort not in self.cohorts:
                faults.append(f"segmenters.{name}.cohort: no cohort {segmenter.cohort!r}")
            if segmenter.init_from is not None and segmenter.init_from not in self.segmenters:
                faults.append(f"segmenters.{name}.init_from: no segmenter {segmenter.init_from!r}")
            elif self._starts_in_a_circle(name):
                faults.append(f"segmenters.{name}.init_from: leads back to {name!r}; one must start from nothing")
            elif (
                segmenter.init_from
                and (first := self.segmenters[segmenter.init_from].architecture) != segmenter.architecture
            ):
                faults.append(
                    f"segmenters.{name}.architecture: {segmenter.architecture}, but it goes on from "
                    f"{segmenter.init_from!r}, a {first}; give architecture: {first}"
                )
        others = [name for name, own in self.segmenters.items() if own.of_others]
        if others and len(others) < len(self.segmenters):
            own_slices = ", ".join(name for name in self.segmenters if name not in others)
            faults.append(
                f"segmenters: {', '.join(others)} is shown windows of volumes as its own software prepares them, "
                f"{own_slices} slices that the study cuts; give them studies of their own"
            )
        faults = [*faults, *unknown_names(self)] or [*needing_masks(self), *asked_twice(self)]
        if faults:
            known = f"cohorts are {', '.join(self.cohorts)}; segmenters are {', '.join(self.segmenters)}"
            raise ValueError("; ".join([*faults, known]))
        return self

    def check_steered(self, cohort: str, labels: Sequence[str]) -> None:
        """Refuse a class that is steered on a cohort and is none of its labels.

        Raises:
            ValueError: with the nearest labels, and all there are.
        """
        for number, entry in enumerate(self.steering):
            if entry.cohort == cohort and entry.label not in labels:
                raise ValueError(
                    f"steering[{number}].label: {cohort} has no label {entry.label!r}; "
                    f"{did_you_mean(entry.label, labels)}there are {', '.join(labels)}"
                )

    def _starts_in_a_circle(self, name: str) -> bool:
        seen, above = {name}, self.segmenters[name].init_from
        while above in self.segmenters:
            if above in seen:
                return True
            seen.add(above)
            above = self.segmenters[above].init_from
        return False

    @classmethod
    def parse(cls, content: Any, origin: str, parsed: Parsed | None = None) -> "StudySettings":
        """Check a mapping.

        Args:
            content: names to values.
            origin: what it is called in a message.
            parsed: where its lines are known.

        Raises:
            SettingsError: every fault, with its place and line; for an unknown name also the nearest legal ones.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            faults = []
            for fault in error.errors():
                place = fault["loc"]
                line = f"line {parsed.line(place)}: " if parsed and place else ""
                what = unknown(cls, place) if fault["type"] in NO_SUCH_NAME else fault["msg"]
                faults.append(f"  {line}{'.'.join(str(part) for part in place) or 'the file'}: {what}")
            raise SettingsError(f"{origin} cannot be used:\n" + "\n".join(faults)) from None

    @classmethod
    def read(cls, path: Path) -> "StudySettings":
        """Read a YAML file; relative paths of sources and models become relative to its folder.

        Raises:
            SettingsError: no file, no YAML, or settings that are wrong.
        """
        try:
            with path.open(encoding="utf-8") as file:
                parsed = parse_yaml(file.read(MAX_CHARACTERS + 1))
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}; give a study file") from None
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is not UTF-8 text ({error.reason}); save it so") from None
        except YamlError as error:
            raise SettingsError(f"{path} is not YAML that can be used: {error}") from None
        content = parsed.content
        if isinstance(content, dict) and "segmenters" in content:
            try:
                content = content | {"segmenters": with_stored_architectures(content["segmenters"], path.parent)}
            except ValueError as error:
                raise SettingsError(f"{path} cannot be used:\n  {error}") from None
        settings = cls.parse(content, str(path), parsed)
        cohorts = {
            name: cohort.model_copy(
                update={
                    "sources": [
                        replace(source, path=(path.parent / source.path).resolve()) for source in cohort.sources
                    ]
                }
            )
            for name, cohort in settings.cohorts.items()
        }
        return settings.model_copy(update={"cohorts": cohorts})
