"""Figure 11: dictionaries of 8, 16 and 32 latents an activation channel."""

from dataclasses import dataclass

import polars as pl

from seglens.activations.live import live_activations
from seglens.artifacts import Draft
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.quality import QualityRecord, lens_quality
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, part
from seglens.experiments.segmenters import example_segmenter
from seglens.runtime.progress import Progress
from seglens.studies.stages import Study
from seglens.studies.variants import fit_to_store

EXPANSIONS = (8, 16, 32)
COLUMNS = {
    "explained_variance": "explained variance",
    "dead_share": "dead share",
    "l0": "latents a token",
    "dice_kept": "Dice kept",
}


@dataclass(frozen=True, kw_only=True)
class SizedQuality(QualityRecord):
    """Quality of a dictionary of ``n_latents``."""

    n_latents: int


def run(study: Study, progress: Progress) -> ExperimentResult:
    """One segmenter, everything but the width as the study has it."""
    name = example_segmenter(study, "adult")
    rows = []
    for number, expansion in enumerate(EXPANSIONS):
        found = _quality(study, name, expansion)
        rows.append(
            {"expansion": expansion, "latents": found.n_latents}
            | {new: getattr(found, old) for old, new in COLUMNS.items()}
        )
        progress(number + 1, len(EXPANSIONS))
    table = pl.DataFrame(rows, infer_schema_length=None)
    long = table.unpivot(["explained variance", "dead share", "Dice kept"], index="expansion", variable_name="figure")
    headline = {
        f"{column}, expansion {row['expansion']}": row[column]
        for row in rows
        for column in ("explained variance", "dead share", "Dice kept")
    }
    words = [
        f"The dictionary of {name} with 8, 16 and 32 latents an activation channel, otherwise fitted alike "
        f"({study.settings.dictionaries.steps} steps), judged on slices of patients that were not used for the fit.",
        "Dice kept is the share of the activation's effect on Dice that its reconstruction keeps; the floor is the "
        "activation replaced by its mean. Explained variance alone says little: an untrained segmenter's activations "
        "are explained too (see the demo's report).",
    ]
    return ExperimentResult({"dictionary size": table, "by figure": long}, headline, words)


def _quality(study: Study, name: str, expansion: int) -> SizedQuality:
    segmenter, slices, seed = study.segmenter(name), study.own_slices(name, "test"), study.settings.seed
    own = study.settings.dictionaries.model_copy(update={"expansion": expansion})

    def make(draft: Draft, progress: Progress) -> None:
        dictionary = study.dictionary(name)
        if dictionary.n_latents != expansion * dictionary.d_in:
            dictionary = fit_to_store(
                study.store(name), own, seeds=(seed, seed), device=study.device, checkpoint=None, progress=progress
            )
        store = live_activations(segmenter, slices, dictionary.hookpoint)
        quality = lens_quality(Lens(segmenter, dictionary.to(segmenter.device)), store, slices)
        draft.save_record("quality", SizedQuality(n_latents=dictionary.n_latents, **vars(quality)))

    inputs = {
        "segmenter": segmenter.hash,
        "hookpoint": study.hookpoint(name),
        "slices": [study.own_slices(name, "train").hash, slices.hash],
        "settings": own.model_dump(mode="json", exclude={"controls"}),
        "seed": seed,
    }
    return part(study, f"dictionary-size/{name}-{expansion}", "quality", inputs, make).record("quality", SizedQuality)


EXPERIMENT = Experiment(
    "dictionary_size",
    "Dictionary size",
    "Figure 11",
    run,
    figures=(
        Figure("lines", "by figure", "Quality over the expansion factor", x="expansion", y="value", series="figure"),
    ),
    folded=("by figure",),
)
