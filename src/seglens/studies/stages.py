"""A study at work: each unit of an analysis is done when its result is asked for and not done before."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from seglens.activations.hooks import activations
from seglens.activations.live import live_activations
from seglens.activations.store import ActivationStore
from seglens.artifacts import Artifact, Draft, new_artifact
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.fit_settings import FitSettings
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.lens_names import segmenter_of
from seglens.runs import Run, Stage
from seglens.runtime.devices import usable_device
from seglens.runtime.progress import Announce, Progress, unseen
from seglens.segmenters.opened import OpenedModel, open_model
from seglens.segmenters.segmenter import Segmenter
from seglens.studies.analysis import Analysis
from seglens.studies.blocks import NoSettings
from seglens.studies.hookpoints import (
    AUTO,
    alike,
    check_hookpoints,
    common_hookpoint,
    hookpoint_of,
    lenses_of,
    measured,
)
from seglens.studies.settings import DictionarySettings, StudySettings
from seglens.studies.variants import PLAIN, alive_latents, variant_store


@dataclass(frozen=True)
class Work:
    """Where an analysis leaves the result of one unit.

    Attributes:
        stage: that is being done.
        path: the artifact's final folder, which must appear whole.
        checkpoint: folder for checkpoints, removed when the stage is finished.
        progress: to be told how far it is.
    """

    stage: Stage
    path: Path
    checkpoint: Path
    progress: Progress

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Write the artifact; it appears when the block ends without an error."""
        with new_artifact(self.path, kind=self.stage.kind, inputs=self.stage.inputs) as draft:
            yield draft


class Study:
    """The results of one study.

    Args:
        settings: what to do.
        run: where the results are; held for writing.
        analyses: the table, by name.
        announce: shown which stage is worked on, and how far it is.

    Raises:
        ValueError: a device or a hookpoint that there is not.
    """

    def __init__(
        self, settings: StudySettings, run: Run, analyses: Mapping[str, Analysis], announce: Announce = unseen
    ):
        self.settings = settings
        self.run = run
        self.analyses = analyses
        self.announce = announce
        self.device = usable_device(settings.device)
        check_hookpoints(settings)
        self._kept: dict[tuple[object, ...], Any] = {}

    def result(self, name: str, *unit: str | int) -> Any:
        """Result of an analysis for one unit, computed where it is not finished.

        Args:
            name: of the analysis.
            unit: what it is done for, as its row's ``units`` give it.

        Returns:
            What its row's ``read`` gives, by default the artifact; None where the study's data cannot carry the unit.
        """
        row = self.analyses[name]

        def done() -> Any:
            stage = self.stage(name, *unit)
            if stage is None:
                return None

            def make(path: Path, checkpoint: Path, progress: Progress) -> None:
                row.run(self, Work(stage, path, checkpoint, progress), *unit)

            artifact = self._finish(stage, make, together=row.together)
            return artifact if row.read is None else row.read(self, artifact, *unit)

        return self.once(done, name, *unit) if row.kept else done()

    def stage(self, name: str, *unit: str | int) -> Stage | None:
        """Stage of one unit of an analysis, finished or not; None where the study's data cannot carry the unit."""
        row = self.analyses[name]
        inputs = row.inputs(self, *unit)
        return None if inputs is None else Stage(row.stage(unit), row.kind or name, inputs)

    def once(self, compute: Callable[[], Any], *key: object) -> Any:
        """Compute something once in the study's life."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def block(self, name: str) -> BaseModel:
        """Settings of an installed analysis: its block of the study file, or the defaults."""
        given: BaseModel | None = (self.settings.model_extra or {}).get(name)
        return (self.analyses[name].settings or NoSettings)() if given is None else given

    def draft(self, stage: Stage, make: Callable[[Draft, Progress], None]) -> Artifact:
        """Do a stage that is in no table: ``make`` fills its draft."""

        def drafted(path: Path, checkpoint: Path, progress: Progress) -> None:
            with new_artifact(path, kind=stage.kind, inputs=stage.inputs) as draft:
                make(draft, progress)

        return self._finish(stage, drafted)

    # what most analyses begin with; the name of a segmenter is also that of its lens at its first hookpoint

    def slices(self, cohort: str) -> SliceSet:
        """Slices of a cohort, all splits; its cases are checked first, and those that fail are left out."""
        slices: SliceSet = self.result("slices", cohort)
        return slices

    def own_slices(self, name: str, split: str) -> SliceSet:
        """A split of the cohort that a segmenter is trained on."""
        return self.slices(self.settings.segmenters[segmenter_of(name)].cohort).split(split)

    def unseen_slices(self, name: str) -> SliceSet:
        """Val and test slices of a segmenter's own cohort."""
        slices = self.slices(self.settings.segmenters[segmenter_of(name)].cohort)
        return slices.select(unseen_rows(slices))

    def segmenter(self, name: str) -> Segmenter:
        """A trained segmenter, by its name or that of one of its lenses."""
        segmenter: Segmenter = self.result("segmenter", segmenter_of(name))
        return segmenter

    def opened(self, name: str) -> OpenedModel | None:
        """The model of others that a segmenter is; None where it is a segmenter of this library.

        Raises:
            ValueError: it cannot be opened.
        """
        own = self.settings.segmenters[segmenter_of(name)]
        if not own.of_others:
            return None
        assert own.model is not None
        opening = partial(open_model, own.model, fold=own.fold, checkpoint=own.checkpoint, settings=own.settings)
        found: OpenedModel = self.once(opening, "opened", str(own.model), own.fold, own.checkpoint, repr(own.settings))
        return found

    def shown_to(self) -> OpenedModel | None:
        """The model of others whose windows the samples of the study are; None for slices.

        Raises:
            ValueError: two models that are shown other windows.
        """
        opened = {name: model for name in self.settings.segmenters if (model := self.opened(name)) is not None}
        if len({model.preparation for model in opened.values()}) > 1:
            raise ValueError(
                f"segmenters: {', '.join(opened)} prepare volumes in different ways or look through different windows, "
                "so there are no samples for all of them; give each a study of its own"
            )
        return next(iter(opened.values()), None)

    def hookpoint(self, lens: str) -> str:
        """Where a segmenter is opened by a lens; of ``auto``, the choice of `common_hookpoint` for its architecture.

        Those of its segmenters whose cohorts have no masks do not take part.
        """
        hookpoint = hookpoint_of(self.settings, lens)
        if hookpoint != AUTO:
            return hookpoint
        together = measured(self.settings, lens)

        def common() -> str:
            effects = [self.result("effects", other).table("effects") for other in together]
            return common_hookpoint(effects, self.settings.minimum_effect).hookpoint

        chosen: str = self.once(common, "hookpoint", *together)
        return chosen

    def dictionary_settings(self, lens: str) -> DictionarySettings:
        """How a dictionary is fitted, with the sizes that ``auto`` stands for.

        They are the same for all lenses of an architecture and hookpoint, by the one with the fewest training slices:
        latents of dictionaries of one size can be matched one to one.
        """
        own = self.settings.dictionaries
        if "auto" not in (own.k, own.expansion):
            return own
        together = alike(self.settings, lens)

        def sized() -> DictionarySettings:
            n_slices = min(len(self.own_slices(other, "train")) for other in together)
            segmenter, first = self.segmenter(lens), self.own_slices(lens, "train").images([0])
            grid = activations(segmenter, self.hookpoint(lens), first.to(segmenter.device))[0]
            size = FitSettings(k=own.k, expansion=own.expansion).size(grid.shape[-1], n_slices * grid[..., 0].numel())
            return own.model_copy(update={"k": size.k, "expansion": size.n_latents // grid.shape[-1]})

        fitting: DictionarySettings = self.once(sized, "sizes", *together)
        return fitting

    def store(self, lens: str) -> ActivationStore:
        """Activations of a segmenter on its own training slices, from disk or computed whenever they are read."""

        def live() -> ActivationStore:
            segmenter, slices, hookpoint = self.segmenter(lens), self.own_slices(lens, "train"), self.hookpoint(lens)
            with self.announce(f"activations/{lens}") as progress:
                return live_activations(segmenter, slices, hookpoint, progress=progress)

        store: ActivationStore = (
            self.result("store", lens) if self.settings.store else self.once(live, "activations", lens)
        )
        return store

    def dictionary(self, lens: str, variant: str = PLAIN) -> SparseAutoencoder:
        """A segmenter's dictionary, or one of the variants that floors and ceilings need."""
        plain = variant == PLAIN
        fitted: SparseAutoencoder = self.result("dictionary", lens) if plain else self.result("variant", lens, variant)
        return fitted

    def lens(self, lens: str) -> Lens:
        """A segmenter through the dictionary of one of its hookpoints."""
        segmenter = self.segmenter(lens)
        return Lens(segmenter, self.dictionary(lens).to(segmenter.device))

    def lenses(self, name: str) -> list[Lens]:
        """All lenses of a segmenter, that of its first hookpoint first, such as `latent_table` takes them."""
        return [self.lens(lens) for lens in lenses_of(self.settings, name)]

    def with_alive(self, lens: str, variant: str = PLAIN) -> tuple[SparseAutoencoder, Tensor]:
        """A dictionary and which of its latents fire on the activations that it was fitted to."""

        def counted() -> tuple[SparseAutoencoder, Tensor]:
            dictionary = self.dictionary(lens, variant)
            store = variant_store(self.store(lens), variant, self.settings.seed)
            return dictionary, alive_latents(dictionary, store)

        pair: tuple[SparseAutoencoder, Tensor] = self.once(counted, "alive", lens, variant)
        return pair

    def _finish(
        self, stage: Stage, make: Callable[[Path, Path, Progress], None], *, together: bool = False
    ) -> Artifact:
        def announced(path: Path, checkpoint: Path) -> None:
            with self.announce(stage.name) as progress:
                make(path, checkpoint, progress)

        return self.run.finish(stage, announced, together=together, mixed=self.settings.mixed)


def unseen_rows(slices: SliceSet) -> list[int]:
    """Rows of the val and test slices of a cohort."""
    return [row for row, split in enumerate(slices.index["split"]) if split in ("val", "test")]
