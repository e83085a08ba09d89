"""The stages of a study: the order they come in, and what each is made from."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from seglens.activations.effects import hookpoint_effects
from seglens.activations.extraction import extract
from seglens.activations.live import live_activations
from seglens.activations.store import ActivationStore
from seglens.artifacts import Artifact, Draft, new_artifact
from seglens.cohorts.foreground import AUTO
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runs import Run, Stage
from seglens.runtime.devices import usable_device
from seglens.runtime.distributed import broadcast_from_main
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import describe
from seglens.steering.adaptation import SteeringResult, steer_between
from seglens.steering.failure_recovery import FailureResult, recover
from seglens.studies.cohort_stages import CheckedCohort, checked, prepare, preprocessing_of
from seglens.studies.dictionary_stages import (
    PLAIN,
    REORDERED,
    RESEEDED,
    ROTATED,
    alive_latents,
    fit_to_store,
    quality_beside_control,
    variant_seeds,
    variant_store,
)
from seglens.studies.pair_stages import Compared, compare, probe_of, same_start
from seglens.studies.segmenter_stages import check_hookpoint, common_hookpoint, train
from seglens.studies.settings import StudySettings

Announce = Callable[[str], AbstractContextManager[Progress]]
"""Told a stage's name when it starts; the context lasts as long as the stage and gives its progress callback."""


def unseen(stage: str) -> AbstractContextManager[Progress]:
    """Announce nothing."""
    return nullcontext(silent)


class Study:
    """The stages of one study, each done when it is asked for and not done before.

    Raises:
        ValueError: a device or a hookpoint that there is not.
    """

    def __init__(self, settings: StudySettings, run: Run, announce: Announce = unseen):
        self.settings = settings
        self.run = run
        self.announce = announce
        self.device = usable_device(settings.device)
        check_hookpoint(settings)
        self._checked: dict[str, CheckedCohort] = {}
        self._slices: dict[str, SliceSet] = {}
        self._segmenters: dict[str, Segmenter] = {}
        self._hookpoints: dict[str, str] = {}
        self._live: dict[str, ActivationStore] = {}
        self._alive: dict[tuple[str, str], tuple[SparseAutoencoder, Tensor]] = {}

    def run_all(self) -> None:
        """Every stage, in the order in which a reader wants the results."""
        for cohort in self.settings.cohorts:
            self.slices(cohort)
        for segmenter in self.settings.segmenters:
            self.segmenter(segmenter)
            self.scores(segmenter)
        for segmenter in self.settings.segmenters:
            self.effects(segmenter)
        for segmenter in self.settings.segmenters:
            self.dictionary(segmenter)
            self.quality(segmenter)
            self.atlas(segmenter)
        self.alignments()
        self.steerings()
        self.recoveries()

    def alignments(self) -> None:
        """Every pair of segmenters."""
        for source, target in itertools.combinations(self.settings.segmenters, 2):
            self.alignment(source, target)

    def steerings(self) -> None:
        """Every adaptation that the study asks for."""
        for entry in self.settings.steering:
            self.steering(entry.segmenter, entry.cohort, entry.label)

    def recoveries(self) -> None:
        """Every failure recovery that the study asks for."""
        for entry in self.settings.failures:
            self.failures(entry.segmenter, entry.cohort, entry.worst)

    # one method a stage

    def slices(self, cohort: str) -> SliceSet:
        """Slices of a cohort, all splits; its cases are checked first, and those that fail are left out."""
        if cohort not in self._slices:
            made = prepare(self._do, self.settings, cohort, self.checked(cohort), self.preprocessing())
            self._slices[cohort] = SliceSet.read(made)
        return self._slices[cohort]

    def checked(self, cohort: str) -> CheckedCohort:
        """A cohort, read or made, and what is wrong with its files."""
        if cohort not in self._checked:
            self._checked[cohort] = checked(self._do, self.settings, cohort, self.run.path)
        return self._checked[cohort]

    def preprocessing(self) -> Preprocessing:
        """What every network of the study is shown; ``foreground: auto`` looks at all cohorts."""
        automatic = self.settings.foreground == AUTO
        reports = [self.checked(cohort).report for cohort in self.settings.cohorts] if automatic else []
        return preprocessing_of(self.settings, reports)

    def segmenter(self, name: str) -> Segmenter:
        """A trained segmenter."""
        if name not in self._segmenters:
            own = self.settings.segmenters[name]
            start = self.segmenter(own.init_from) if own.init_from else None
            slices = self.own_slices(name, "train")
            inputs = {
                "slices": slices.hash,
                "settings": own.model_dump(mode="json"),
                "init_from": start.hash if start else None,
                "seed": self.settings.seed,
            }
            stage = Stage(f"segmenter/{name}", "segmenter", inputs)

            def make(path: Path, checkpoint: Path, progress: Progress) -> None:
                trained = train(
                    slices,
                    own,
                    start=start,
                    size=self.settings.size,
                    seed=self.settings.seed,
                    device=self.device,
                    checkpoint=checkpoint,
                    progress=progress,
                )
                with new_artifact(path, kind=stage.kind, inputs=inputs) as draft:
                    trained.write(draft)

            self._segmenters[name] = Segmenter.read(self._do(stage, make, together=True)).to(self.device)
        return self._segmenters[name]

    def scores(self, name: str) -> None:
        """Scores of a segmenter on the test split of every cohort with its labels."""
        segmenter = self.segmenter(name)
        for cohort in self.settings.cohorts:
            slices = self.slices(cohort)
            if dict(slices.labels) == dict(segmenter.labels):
                self._score(name, cohort, slices.split("test"))

    def _score(self, name: str, cohort: str, slices: SliceSet) -> None:
        segmenter = self.segmenter(name)

        def make(draft: Draft, progress: Progress) -> None:
            draft.save_table("scores", evaluate(segmenter, slices, hd95=True, progress=progress).table)

        inputs = {"segmenter": segmenter.hash, "slices": slices.hash}
        self.draft(Stage(f"scores/{name}@{cohort}", "scores", inputs), make, together=True)

    def effects(self, name: str) -> Artifact:
        """What mean ablation at each hookpoint does; measured on the val split of the segmenter's own cohort."""
        segmenter, slices = self.segmenter(name), self.own_slices(name, "val")

        def make(draft: Draft, progress: Progress) -> None:
            draft.save_table("effects", hookpoint_effects(segmenter, slices, progress=progress))

        inputs = {"segmenter": segmenter.hash, "slices": slices.hash}
        return self.draft(Stage(f"effects/{name}", "effects", inputs), make)

    def hookpoint(self, name: str) -> str:
        """Where a segmenter is opened: one hookpoint for all segmenters of an architecture.

        ``auto`` takes what `common_hookpoint` chooses for all of them.
        """
        architecture = self.settings.segmenters[name].architecture
        wanted, own = self.settings.hookpoint, self.segmenter(name)
        if wanted != "auto" and wanted in own.hookpoints:
            return wanted
        if architecture not in self._hookpoints:
            alike = [other for other, its in self.settings.segmenters.items() if its.architecture == architecture]
            effects = [self.effects(other).table("effects") for other in alike]
            self._hookpoints[architecture] = common_hookpoint(effects, self.settings.minimum_effect).hookpoint
        return self._hookpoints[architecture]

    def store(self, name: str) -> ActivationStore:
        """Activations of a segmenter on its own training slices."""
        segmenter, slices, hookpoint = self.segmenter(name), self.own_slices(name, "train"), self.hookpoint(name)
        if not self.settings.store:
            if name not in self._live:
                with self.announce(f"activations/{name}") as progress:
                    self._live[name] = live_activations(segmenter, slices, hookpoint, progress=progress)
            return self._live[name]

        def make(path: Path, checkpoint: Path, progress: Progress) -> None:
            extract(segmenter, slices, hookpoint, folder=path, progress=progress)

        inputs = {"segmenter": segmenter.hash, "slices": slices.hash, "hookpoint": hookpoint}
        return ActivationStore.read(self._do(Stage(f"store/{name}", "activations", inputs), make, together=True))

    def dictionary(self, name: str, variant: str = PLAIN) -> SparseAutoencoder:
        """A segmenter's dictionary, or one of the variants that floors and ceilings need."""
        # what is not stored is computed in `make`: nobody needs it where the dictionary is finished
        store, seed = self.store(name) if self.settings.store else None, self.settings.seed
        origin = self.segmenter(name).hash, self.own_slices(name, "train").hash, self.hookpoint(name)
        inputs = {
            "store": " ".join(origin) if store is None else store.hash,
            "settings": self.settings.dictionaries.model_dump(mode="json", exclude={"controls"}),
            "seed": seed,
            "variant": variant,
        }
        stage = Stage(f"dictionary/{name}" if variant == PLAIN else f"variant/{name}-{variant}", "dictionary", inputs)

        def make(path: Path, checkpoint: Path, progress: Progress) -> None:
            fitted = fit_to_store(
                variant_store(self.store(name) if store is None else store, variant, seed),
                self.settings.dictionaries,
                seeds=variant_seeds(variant, seed),
                device=self.device,
                checkpoint=checkpoint,
                progress=progress,
            )
            with new_artifact(path, kind=stage.kind, inputs=inputs) as draft:
                fitted.write(draft)

        return SparseAutoencoder.read(self._do(stage, make, together=True))

    def lens(self, name: str) -> Lens:
        """A segmenter through its dictionary."""
        segmenter = self.segmenter(name)
        return Lens(segmenter, self.dictionary(name).to(segmenter.device))

    def quality(self, name: str) -> Artifact:
        """How well a dictionary stands for the activation on the test split, and the untrained segmenter's control."""
        segmenter, dictionary, slices = self.segmenter(name), self.dictionary(name), self.own_slices(name, "test")
        settings = self.settings

        def make(path: Path, checkpoint: Path, progress: Progress) -> None:
            quality = quality_beside_control(
                dictionary,
                segmenter,
                architecture=settings.segmenters[name].architecture,
                training=self.own_slices(name, "train"),
                test=slices,
                own=settings.dictionaries,
                seed=settings.seed,
                scratch=checkpoint if settings.store else None,
                progress=progress,
            )
            with new_artifact(path, kind="quality", inputs=inputs) as draft:
                draft.save_document("quality", quality)

        inputs = {
            "dictionary": dictionary.hash,
            "slices": slices.hash,
            "settings": settings.dictionaries.model_dump(mode="json"),
        }
        return self._do(Stage(f"quality/{name}", "quality", inputs), make, together=True)

    def atlas(self, name: str) -> Artifact:
        """What each latent means, on slices that neither the segmenter nor the dictionary was trained on."""
        lens, slices = self.lens(name), self.unseen_slices(name)
        top_k = self.settings.atlas_top_k

        def make(draft: Draft, progress: Progress) -> None:
            describe(lens, slices, top_k=top_k, progress=progress).write(draft)

        inputs = {"dictionary": lens.dictionary_hash, "slices": slices.hash, "top_k": top_k}
        return self.draft(Stage(f"atlas/{name}", "atlas", inputs), make)

    def alignment(self, source: str, target: str) -> Artifact:
        """Which latents two dictionaries share, between floor and ceiling."""
        own = self.settings.segmenters
        comparable = own[source].architecture == own[target].architecture and self.settings.dictionaries.controls
        variants = (ROTATED, REORDERED, RESEEDED) if comparable else ()
        notes = {"same_segmenter_start": same_start(own, source, target), "same_sae_seed": True}

        def make(draft: Draft, progress: Progress) -> None:
            sides = [self._side(name, variants) for name in (source, target)]
            seed, tau = self.settings.seed, self.settings.tau
            compare(*sides, tau=tau, seed=seed, notes=notes, draft=draft, progress=progress)

        inputs = {
            "dictionaries": [self.dictionary(name).hash for name in (source, target)],
            "probes": [self._probe(name).hash for name in (source, target)],
            "variants": [
                {variant: self.dictionary(name, variant).hash for variant in variants} for name in (source, target)
            ],
            "tau": self.settings.tau,
            "seed": self.settings.seed,
            "notes": notes,
        }
        return self.draft(Stage(f"alignment/{source}~{target}", "alignment", inputs), make)

    def steering(self, name: str, cohort: str, label: str) -> Artifact:
        """Adapt a segmenter to a cohort by changing latents of one class."""
        correct = partial(steer_between, target=label, source=name)
        return self._corrected(f"steering/{name}-{cohort}-{label}", name, cohort, correct, {"label": label})

    def failures(self, name: str, cohort: str, worst: int) -> Artifact:
        """Recover a segmenter's worst slices of a cohort."""
        return self._corrected(
            f"failures/{name}-{cohort}", name, cohort, partial(recover, worst=worst, source=name), {"worst": worst}
        )

    def _corrected(
        self,
        stage_name: str,
        name: str,
        cohort: str,
        correct: Callable[..., SteeringResult | FailureResult],
        asked: dict[str, Any],
    ) -> Artifact:
        """Whatever is corrected is chosen on the val patients of a cohort and judged on its test patients.

        So the latents' meanings are measured on the val patients too: an atlas of the test slices would let their masks
        rank the latents.
        """
        lens = self.lens(name)
        selection, evaluated = self.slices(cohort).split("val"), self.slices(cohort).split("test")
        seed = self.settings.seed

        def make(draft: Draft, progress: Progress) -> None:
            meanings = broadcast_from_main(lambda: describe(lens, selection, top_k=1))
            correct(lens, meanings, selection, evaluated, seed=seed, progress=progress).write(draft)

        inputs = asked | {
            "dictionary": lens.dictionary_hash,
            "selection": selection.hash,
            "evaluation": evaluated.hash,
            "seed": seed,
        }
        return self.draft(Stage(stage_name, stage_name.split("/", maxsplit=1)[0], inputs), make, together=True)

    # helpers

    def own_slices(self, name: str, split: str) -> SliceSet:
        """A split of the cohort that a segmenter is trained on."""
        return self.slices(self.settings.segmenters[name].cohort).split(split)

    def unseen_slices(self, name: str) -> SliceSet:
        """Val and test slices of a segmenter's own cohort."""
        slices = self.slices(self.settings.segmenters[name].cohort)
        return slices.select(unseen_rows(slices))

    def with_alive(self, name: str, variant: str = PLAIN) -> tuple[SparseAutoencoder, Tensor]:
        """A dictionary and which of its latents fire on the activations that it was fitted to."""
        if (name, variant) not in self._alive:
            dictionary = self.dictionary(name, variant)
            store = variant_store(self.store(name), variant, self.settings.seed)
            self._alive[name, variant] = dictionary, alive_latents(dictionary, store)
        return self._alive[name, variant]

    def draft(self, stage: Stage, make: Callable[[Draft, Progress], None], *, together: bool = False) -> Artifact:
        """Do a stage that needs no checkpoints: ``make`` fills its draft; ``together`` as in `Run.finish`."""

        def drafted(path: Path, checkpoint: Path, progress: Progress) -> None:
            with new_artifact(path, kind=stage.kind, inputs=stage.inputs) as draft:
                make(draft, progress)

        return self._do(stage, drafted, together=together)

    def _side(self, name: str, variants: Sequence[str]) -> Compared:
        dictionary, alive = self.with_alive(name, PLAIN)
        bounds = {variant: self.with_alive(name, variant) for variant in variants}
        return Compared(name, Lens(self.segmenter(name), dictionary), alive, self._probe(name), bounds)

    def _probe(self, name: str) -> SliceSet:
        return probe_of(self.own_slices(name, "test"))

    def _do(self, stage: Stage, make: Callable[[Path, Path, Progress], None], *, together: bool = False) -> Artifact:
        def announced(path: Path, checkpoint: Path) -> None:
            with self.announce(stage.name) as progress:
                make(path, checkpoint, progress)

        return self.run.finish(stage, announced, together=together)


def unseen_rows(slices: SliceSet) -> list[int]:
    """Rows of the val and test slices of a cohort."""
    return [row for row, split in enumerate(slices.index["split"]) if split in ("val", "test")]
