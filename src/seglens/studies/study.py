"""A study from its settings to a summary: the order of the stages, and what each is made from."""

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch

from seglens.artifacts import Artifact, Draft, canonical_json, new_artifact, write_text_whole
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.progress import Progress, silent
from seglens.segmenters.segmenter import Segmenter
from seglens.studies import stages
from seglens.studies.run import Run, Stage
from seglens.studies.settings import StudySettings
from seglens.studies.summary import summarise

Announce = Callable[[str], AbstractContextManager[Progress]]
"""Told a stage's name when it starts; the context lasts as long as the stage and gives its progress callback."""


def _unseen(stage: str) -> AbstractContextManager[Progress]:
    return nullcontext(silent)


def run_study(settings: StudySettings, out: Path, *, announce: Announce = _unseen) -> Run:
    """Do what a study asks for; finished stages are taken as they are.

    Args:
        settings: what to do.
        out: the run's folder.
        announce: shown which stage is worked on, and how far it is.

    Returns:
        The run, with summary.json written.

    Raises:
        ValueError: settings or data that cannot be used.
        ArtifactError: another process holds ``out``.
    """
    run = Run(out)
    with run.writing(settings.model_dump(mode="json")):
        started = time.perf_counter()
        study = Study(settings, run, announce)
        study.run_all()
        summary = summarise(run, settings)
        summary["seconds"] = round(time.perf_counter() - started, 1)
        summary["peak_rss_mib"] = peak_rss_mib()
        write_text_whole(out / "summary.json", canonical_json(summary) + "\n")
    return run


class Study:
    """The stages of one study, each done when it is asked for and not done before."""

    def __init__(self, settings: StudySettings, run: Run, announce: Announce = _unseen):
        self.settings = settings
        self.run = run
        self.announce = announce
        wanted = settings.device
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
        self._slices: dict[str, SliceSet] = {}
        self._segmenters: dict[str, Segmenter] = {}
        self._hookpoints: dict[str, str] = {}

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
        for source, target in itertools.combinations(self.settings.segmenters, 2):
            self.alignment(source, target)
        for entry in self.settings.steering:
            self.steering(entry.segmenter, entry.cohort, entry.label)
        for failure in self.settings.failures:
            self.failures(failure.segmenter, failure.cohort, failure.worst)

    # one method a stage

    def slices(self, cohort: str) -> SliceSet:
        """Slices of a cohort, all splits; its cases are checked first, and those that fail are left out."""
        if cohort not in self._slices:
            self._slices[cohort] = SliceSet.read(stages.prepare(self._do, self.settings, cohort))
        return self._slices[cohort]

    def segmenter(self, name: str) -> Segmenter:
        """A trained segmenter."""
        if name not in self._segmenters:
            own = self.settings.segmenters[name]
            start = self.segmenter(own.init_from) if own.init_from else None
            slices = self.slices(own.cohort).split("train")
            inputs = {
                "slices": slices.hash,
                "settings": own.model_dump(mode="json"),
                "init_from": start.hash if start else None,
                "seed": self.settings.seed,
            }
            artifact = self._do(
                Stage(f"segmenter/{name}", "segmenter", inputs),
                lambda path, checkpoint, progress, stage: stages.train(
                    path, stage, slices, own, start, self.settings, self.device, checkpoint, progress
                ),
            )
            self._segmenters[name] = Segmenter.read(artifact)
            self._segmenters[name].network.to(self.device)
        return self._segmenters[name]

    def scores(self, name: str) -> None:
        """Scores of a segmenter on the test split of every cohort with its labels."""
        segmenter = self.segmenter(name)
        for cohort in self.settings.cohorts:
            slices = self.slices(cohort)
            if dict(slices.labels) == dict(segmenter.labels):
                judged = slices.split("test")
                self._draft(
                    Stage(f"scores/{name}@{cohort}", "scores", {"segmenter": segmenter.hash, "slices": judged.hash}),
                    lambda draft, progress, judged=judged: stages.score(draft, segmenter, judged, progress),
                )

    def effects(self, name: str) -> Artifact:
        """What mean ablation at each hookpoint does; measured on the val split of the segmenter's own cohort."""
        segmenter, slices = self.segmenter(name), self.own_slices(name, "val")
        return self._draft(
            Stage(f"effects/{name}", "effects", {"segmenter": segmenter.hash, "slices": slices.hash}),
            lambda draft, progress: stages.measure_effects(draft, segmenter, slices, progress),
        )

    def hookpoint(self, name: str) -> str:
        """Where a segmenter is opened: one hookpoint for all segmenters of an architecture."""
        architecture = self.settings.segmenters[name].architecture
        if architecture not in self._hookpoints:
            alike = [n for n, own in self.settings.segmenters.items() if own.architecture == architecture]
            self._hookpoints[architecture] = stages.common_hookpoint(
                {n: self.effects(n).table("effects") for n in alike},
                self.segmenter(name),
                self.settings.hookpoint,
                self.settings.minimum_effect,
            )
        return self._hookpoints[architecture]

    def store(self, name: str) -> Artifact:
        """Activations of a segmenter on its own training slices."""
        segmenter, slices, hookpoint = self.segmenter(name), self.own_slices(name, "train"), self.hookpoint(name)
        inputs = {"segmenter": segmenter.hash, "slices": slices.hash, "hookpoint": hookpoint}
        return self._do(
            Stage(f"store/{name}", "store", inputs),
            lambda path, checkpoint, progress, stage: stages.store_activations(
                path, segmenter, slices, hookpoint, progress
            ),
        )

    def dictionary(self, name: str, variant: str = "plain") -> SparseAutoencoder:
        """A segmenter's dictionary, or one of the variants that floors and ceilings need (`stages.VARIANTS`)."""
        store = self.store(name)
        own = self.settings.dictionaries
        inputs = {
            "store": store.hash,
            "settings": own.model_dump(mode="json", exclude={"controls"}),
            "seed": self.settings.seed,
            "variant": variant,
        }
        stage_name = f"dictionary/{name}" if variant == "plain" else f"variant/{name}-{variant}"
        artifact = self._do(
            Stage(stage_name, "dictionary", inputs),
            lambda path, checkpoint, progress, stage: stages.fit(
                path, stage, store, own, self.settings.seed, variant, self.device, checkpoint, progress
            ),
        )
        return SparseAutoencoder.read(artifact)

    def quality(self, name: str) -> Artifact:
        """How well a dictionary stands for the activation, on the test split, and how well one of an untrained
        segmenter does (the control)."""
        segmenter, dictionary, slices = self.segmenter(name), self.dictionary(name), self.own_slices(name, "test")
        inputs = {"dictionary": dictionary.hash, "slices": slices.hash, "controls": self.settings.dictionaries.controls}
        return self._draft(
            Stage(f"quality/{name}", "quality", inputs),
            lambda draft, progress: stages.measure_quality(
                draft,
                segmenter,
                dictionary,
                slices,
                self.own_slices(name, "train"),
                self.settings,
                self.settings.segmenters[name],
                progress,
            ),
        )

    def atlas(self, name: str) -> Artifact:
        """What each latent means, on slices that neither the segmenter nor the dictionary was trained on."""
        segmenter, dictionary, slices = self.segmenter(name), self.dictionary(name), self.unseen_slices(name)
        inputs = {"dictionary": dictionary.hash, "slices": slices.hash, "top_k": self.settings.atlas_top_k}
        return self._draft(
            Stage(f"atlas/{name}", "atlas", inputs),
            lambda draft, progress: stages.describe_latents(
                draft, segmenter, dictionary, slices, self.settings.atlas_top_k, progress
            ),
        )

    def alignment(self, source: str, target: str) -> Artifact:
        """Which latents two dictionaries share, between floor and ceiling."""
        own = self.settings.segmenters
        comparable = (
            own[source].architecture == own[target].architecture
            and self.hookpoint(source) == self.hookpoint(target)
            and self.settings.dictionaries.controls
        )
        variants = stages.needed_variants(comparable)
        inputs = {
            "source": self.dictionary(source).hash,
            "target": self.dictionary(target).hash,
            "atlases": [self.atlas(source).hash, self.atlas(target).hash],
            "variants": {
                f"{role}-{variant}": self.dictionary(source if role == "source" else target, variant).hash
                for role, variant in variants
            },
            "tau": self.settings.tau,
            "probe": [self.own_slices(source, "test").hash, self.own_slices(target, "test").hash],
        }
        return self._draft(
            Stage(f"alignment/{source}~{target}", "alignment", inputs),
            lambda draft, progress: stages.align_pair(draft, self, source, target, comparable, progress),
        )

    def steering(self, name: str, cohort: str, label: str) -> Artifact:
        """Adapt a segmenter to a cohort: chosen on its val patients, judged on its test patients."""
        segmenter, dictionary, atlas = self.segmenter(name), self.dictionary(name), self.atlas(name)
        selection, judged = self.slices(cohort).split("val"), self.slices(cohort).split("test")
        inputs = {
            "dictionary": dictionary.hash,
            "atlas": atlas.hash,
            "selection": selection.hash,
            "evaluation": judged.hash,
            "label": label,
            "seed": self.settings.seed,
        }
        return self._draft(
            Stage(f"steering/{name}-{cohort}-{label}", "steering", inputs),
            lambda draft, progress: stages.steer_class(
                draft, segmenter, dictionary, atlas, selection, judged, label, name, self.settings.seed, progress
            ),
        )

    def failures(self, name: str, cohort: str, worst: int) -> Artifact:
        """Recover the worst slices: chosen on val patients, judged on test patients."""
        segmenter, dictionary, atlas = self.segmenter(name), self.dictionary(name), self.atlas(name)
        selection, judged = self.slices(cohort).split("val"), self.slices(cohort).split("test")
        inputs = {
            "dictionary": dictionary.hash,
            "atlas": atlas.hash,
            "selection": selection.hash,
            "evaluation": judged.hash,
            "worst": worst,
            "seed": self.settings.seed,
        }
        return self._draft(
            Stage(f"failures/{name}-{cohort}", "failures", inputs),
            lambda draft, progress: stages.recover_failures(
                draft, segmenter, dictionary, atlas, selection, judged, worst, self.settings.seed, progress
            ),
        )

    # helpers

    def own_slices(self, name: str, split: str) -> SliceSet:
        """A split of the cohort that a segmenter is trained on."""
        return self.slices(self.settings.segmenters[name].cohort).split(split)

    def unseen_slices(self, name: str) -> SliceSet:
        """Val and test slices of a segmenter's own cohort."""
        slices = self.slices(self.settings.segmenters[name].cohort)
        rows = [row for row, split in enumerate(slices.index["split"]) if split in ("val", "test")]
        return slices.select(rows)

    def _do(self, stage: Stage, make: Callable[[Path, Path, Progress, Stage], None]) -> Artifact:
        def announced(path: Path, checkpoint: Path) -> None:
            with self.announce(stage.name) as progress:
                make(path, checkpoint, progress, stage)

        return self.run.finish(stage, announced)

    def _draft(self, stage: Stage, make: Callable[[Draft, Progress], None]) -> Artifact:
        def drafted(path: Path, checkpoint: Path, progress: Progress, stage: Stage) -> None:
            with new_artifact(path, kind=stage.kind, inputs=stage.inputs) as draft:
                make(draft, progress)

        return self._do(stage, drafted)


def peak_rss_mib() -> int:
    """The most memory that this process has held, in MiB."""
    memory: Mapping[str, Any] = psutil.Process().memory_info()._asdict()
    try:
        import resource
    except ImportError:  # Windows has no resource module; psutil keeps the peak there
        return round(memory["peak_wset"] / 2**20)
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
