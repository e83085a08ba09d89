"""Appendix F: the same steps on faces (CelebAMask-HQ layout, 19 classes, RGB), a check that nothing is tied to brains.

Without a folder the faces are drawn by the project itself: simple shapes, so the figures say that the steps run, not
what a face segmenter learns.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from seglens.activations.effects import choose_hookpoint, hookpoint_effects
from seglens.activations.live import live_activations
from seglens.artifacts import Draft
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.quality import lens_quality
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.experiments.celeba import draw_faces, folder_hash, read_faces
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, part
from seglens.experiments.interpretation import best_latents, latents_by_class
from seglens.runtime.progress import Progress
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Segmenter
from seglens.segmenters.training import TrainingSettings, train_segmenter
from seglens.semantics.atlas import LatentAtlas, describe
from seglens.studies.stages import Study
from seglens.studies.variants import fit_to_store

SIZE = 64
STEPS = 250
DRAWN_FACES = 240
MAX_IMAGES = 2000
"""Images that are read of a folder."""


def run(study: Study, progress: Progress, *, folder: Path | None = None) -> ExperimentResult:
    """Train, fit and describe on one set of images; ``folder`` None draws them."""
    slices = _slices(study, folder)
    progress(1, 4)
    segmenter = _segmenter(study, slices)
    progress(2, 4)
    test = slices.split("test")
    effects = hookpoint_effects(segmenter, slices.split("val"))
    hookpoint = choose_hookpoint(effects, minimum_drop=study.settings.minimum_effect).hookpoint
    lens = Lens(segmenter, _dictionary(study, segmenter, slices.split("train"), hookpoint).to(segmenter.device))
    progress(3, 4)
    atlas = _atlas(study, lens, test)
    labels = [label for _, label in sorted(atlas.labels.items())]
    scores = evaluate(segmenter, test).summary().dice_pooled
    quality = lens_quality(lens, live_activations(segmenter, test, hookpoint), test)
    counts = pl.DataFrame(latents_by_class("faces", atlas.table, labels)).with_columns(
        pl.Series("Dice (pooled)", [scores.get(label) for label in [*labels, "mixed"]], dtype=pl.Float64)
    )
    named = counts.filter((pl.col("latents") > 0) & ~pl.col("class").is_in(["mixed", labels[0]]))
    best = pl.DataFrame(best_latents("faces", atlas.table, labels[1:]), infer_schema_length=None)
    headline = {
        "parts with a latent of their own (of 18)": float(named.height),
        "foreground Dice (pooled)": scores["foreground"],
        "explained variance": quality.explained_variance,
        "Dice kept": quality.dice_kept,
    }
    origin = "images that this project draws itself (ellipses, no photographs)" if folder is None else "your folder"
    words = [
        f"{len(slices)} images of {origin}, with 18 parts and the background, at {SIZE} x {SIZE}; a SegFormer-b0 "
        f"trained for {STEPS} steps, opened at {hookpoint}; a dictionary by the study's settings; latents described on "
        f"the {len(test)} test images.",
        f"{named.height} of 18 parts have a latent that is named after them. Several for one part differ in place, "
        "extent or border, as in the paper; small parts are smaller than a token here.",
    ]
    left_out = [] if folder else ["CelebAMask-HQ itself: give its folder with --faces; it is not ours to ship."]
    return ExperimentResult({"parts": counts, "best latents of parts": best}, headline, words, left_out)


def on_folder(folder: Path) -> Experiment:
    """The experiment on a folder in the CelebAMask-HQ layout.

    Raises:
        ValueError: no such images there.
    """
    return replace(EXPERIMENT, run=partial(run, folder=folder), inputs={"folder": folder_hash(folder, MAX_IMAGES)})


def _slices(study: Study, folder: Path | None) -> SliceSet:
    def make(draft: Draft, progress: Progress) -> None:
        if folder is not None:
            read_faces(folder, SIZE, MAX_IMAGES).write(draft)
            return
        with TemporaryDirectory() as drawn:
            draw_faces(Path(drawn), DRAWN_FACES, study.settings.seed)
            read_faces(Path(drawn), SIZE, MAX_IMAGES).write(draft)

    origin = {"drawn": DRAWN_FACES, "seed": study.settings.seed}
    inputs = {"size": SIZE} | (origin if folder is None else {"folder": folder_hash(folder, MAX_IMAGES)})
    return SliceSet.read(part(study, "faces/slices", "slices", inputs, make))


def _segmenter(study: Study, slices: SliceSet) -> Segmenter:
    train = slices.split("train")

    def make(draft: Draft, progress: Progress) -> None:
        train_segmenter(
            train,
            architecture="segformer-b0",
            settings=TrainingSettings(steps=STEPS, batch_size=16),
            seed=study.settings.seed,
            device=study.device,
            progress=progress,
        ).write(draft)

    inputs = {"slices": train.hash, "steps": STEPS, "seed": study.settings.seed}
    return Segmenter.read(part(study, "faces/segmenter", "segmenter", inputs, make)).to(study.device)


def _dictionary(study: Study, segmenter: Segmenter, train: SliceSet, hookpoint: str) -> SparseAutoencoder:
    own, seed = study.settings.dictionaries, study.settings.seed

    def make(draft: Draft, progress: Progress) -> None:
        store = live_activations(segmenter, train, hookpoint)
        fitted = fit_to_store(store, own, seeds=(seed, seed), device=study.device, checkpoint=None, progress=progress)
        fitted.write(draft)

    inputs = {
        "segmenter": segmenter.hash,
        "slices": train.hash,
        "hookpoint": hookpoint,
        "settings": own.model_dump(mode="json", exclude={"controls"}),
        "seed": seed,
    }
    return SparseAutoencoder.read(part(study, "faces/dictionary", "dictionary", inputs, make))


def _atlas(study: Study, lens: Lens, test: SliceSet) -> LatentAtlas:
    def make(draft: Draft, progress: Progress) -> None:
        describe(lens, test, top_k=study.settings.atlas_top_k, progress=progress).write(draft)

    inputs = {"dictionary": lens.dictionary_hash, "slices": test.hash, "top_k": study.settings.atlas_top_k}
    return LatentAtlas.read(part(study, "faces/atlas", "atlas", inputs, make))


EXPERIMENT = Experiment(
    "non_medical",
    "The same steps on faces",
    "Appendix F",
    run,
    figures=(Figure("bars", "parts", "Live latents by part", x="class", y="latents"),),
    folded=("parts", "best latents of parts"),
)
