"""Figure 3: on what the latents of two architectures spend their activation, trained and described on one cohort.

Both are opened at the middle stage of their encoders, as the paper opens its networks, with a k that fits the width.
The share of tumour latents is far from a middle stage at the first layer of a network with skip connections, and far
from 0 in a network that has learnt nothing: the same with random weights stands beside each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from seglens.activations.live import live_activations
from seglens.artifacts import Draft
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, Published, part
from seglens.runtime.progress import Progress
from seglens.semantics.atlas import LatentAtlas, describe
from seglens.semantics.describing import category_mass
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.stages import Study
from seglens.studies.untrained import untrained_segmenter
from seglens.studies.variants import fit_to_store

TRAINED, UNTRAINED = "trained", "untrained"


def run(study: Study, progress: Progress) -> ExperimentResult:
    """Every cohort on which two architectures were trained."""
    names = comparable(study.settings.segmenters)
    if not names:
        raise NotApplicableError("needs two architectures trained on one cohort")
    rows, facts = [], []
    for number, name in enumerate(names):
        own, trained = study.settings.segmenters[name], study.segmenter(name)
        effects = study.result("effects", name).table("effects")
        hookpoint = middle_stage(list(trained.hookpoints), dict(effects.select("hookpoint", "tokens").iter_rows()))
        for weights in (TRAINED, UNTRAINED):
            atlas, dictionary = _opened(study, name, hookpoint, weights)
            for category, share in category_mass(atlas.table, atlas.labels).items():
                rows.append((own.cohort, name, own.architecture, weights, category, share))
            facts.append(
                {
                    "segmenter": name,
                    "architecture": own.architecture,
                    "weights": weights,
                    "hookpoint": hookpoint,
                    "width": dictionary.d_in,
                    "k": dictionary.k,
                    "latents": dictionary.n_latents,
                    "dead share": float(atlas.table["dead"].sum()) / atlas.table.height,
                    "foreground share of pixels": sum(
                        rate for label, rate in atlas.base_rates.items() if label != atlas.labels[0]
                    ),
                }
            )
        progress(number + 1, len(names))
    columns = ("cohort", "segmenter", "architecture", "weights", "category", "share of activation mass")
    table = pl.DataFrame(rows, schema=columns, orient="row")
    return ExperimentResult(
        {"activation mass": table, "segmenters": pl.DataFrame(facts, infer_schema_length=None)},
        headlines(table),
        [
            "Each latent belongs to the category that its rule-based name gives it (tumour classes, boundary, "
            "background, mixed where no class stands out, unreplicated where the class does not come back in both "
            "halves of the patients); the bars are the share of all activation that lies in "
            "the latents of each category, on slices that the segmenter was not trained on.",
            "Both architectures are opened at the middle stage of their encoders. The share depends on the stage as "
            "much as on the architecture; and a network of the same architecture that has learnt nothing, with a "
            "dictionary of its own, has one too: only what lies above that floor is learnt.",
            *floor_words(table),
            "One segmenter an architecture is no sample of either.",
        ],
    )


def middle_stage(hookpoints: Sequence[str], tokens: Mapping[str, int]) -> str:
    """The middle one of the stages down to the coarsest grid.

    Args:
        hookpoints: in the order in which a forward pass reaches them.
        tokens: of a sample at each.
    """
    coarsest = min(range(len(hookpoints)), key=lambda place: (tokens[hookpoints[place]], place))
    return hookpoints[(coarsest + 1) // 2]


def comparable(segmenters: Mapping[str, SegmenterSettings]) -> list[str]:
    """Segmenters of cohorts on which more than one architecture was trained, cohort by cohort."""
    of_cohort: dict[str, list[str]] = {}
    for name, own in segmenters.items():
        of_cohort.setdefault(own.cohort, []).append(name)
    return [
        name
        for names in of_cohort.values()
        if len({segmenters[name].architecture for name in names}) > 1
        for name in names
    ]


def headlines(table: pl.DataFrame) -> dict[str, float | None]:
    """Share of activation on tumour latents of each segmenter, and of the same with random weights."""
    found: dict[str, float | None] = {}
    for row in table.filter(pl.col("category") == "foreground").iter_rows(named=True):
        name = f"tumour share, {row['segmenter']} ({row['architecture']})"
        found[name if row["weights"] == TRAINED else f"{name}, untrained"] = row["share of activation mass"]
    return found


def floor_words(table: pl.DataFrame) -> list[str]:
    """One sentence a segmenter: its tumour share beside that of one untrained network; two numbers are no verdict."""
    shares = table.filter(pl.col("category") == "foreground").pivot(
        "weights", index=["segmenter", "architecture"], values="share of activation mass"
    )
    return [
        f"{row['segmenter']} ({row['architecture']}): {row[TRAINED]:.1%} of the activation lies in tumour latents, "
        f"{row[UNTRAINED]:.1%} in one draw of random weights."
        for row in shares.iter_rows(named=True)
    ]


def _opened(study: Study, name: str, hookpoint: str, weights: str) -> tuple[LatentAtlas, SparseAutoencoder]:
    """Atlas and dictionary of a stage, of the trained segmenter or of one with random weights."""
    segmenter, seed = study.segmenter(name), study.settings.seed
    if weights == UNTRAINED:
        segmenter = untrained_segmenter(study, name)
    slices, unseen = study.own_slices(name, "train"), study.unseen_slices(name)
    settings = study.settings.dictionaries.model_copy(update={"k": "auto", "expansion": "auto"})

    def fit(draft: Draft, progress: Progress) -> None:
        store = live_activations(segmenter, slices, hookpoint)
        fitted = fit_to_store(
            store, settings, seeds=(seed, seed), device=study.device, checkpoint=None, progress=progress
        )
        fitted.write(draft)

    inputs: dict[str, Any] = {
        "segmenter": segmenter.hash,
        "slices": slices.hash,
        "hookpoint": hookpoint,
        "settings": settings.model_dump(mode="json", exclude={"controls"}),
        "seed": seed,
    }
    stage = f"{name}-{hookpoint}-{weights}"
    dictionary = SparseAutoencoder.read(part(study, f"architecture-dictionary/{stage}", "dictionary", inputs, fit))

    def make(draft: Draft, progress: Progress) -> None:
        describe(Lens(segmenter, dictionary), unseen, top_k=study.settings.atlas_top_k, progress=progress).write(draft)

    inputs = {"dictionary": dictionary.hash, "slices": unseen.hash, "top_k": study.settings.atlas_top_k}
    return LatentAtlas.read(part(study, f"architecture-atlas/{stage}", "atlas", inputs, make)), dictionary


EXPERIMENT = Experiment(
    "architectures",
    "What two architectures spend their activation on",
    "Figure 3",
    run,
    figures=(
        Figure(
            "bars",
            "activation mass",
            "Share of activation by category of latents",
            x="category",
            y="share of activation mass",
            series="weights",
            panel="segmenter",
            caption="Untrained: the same architecture with random weights, a dictionary of its own.",
        ),
    ),
    published={
        "tumour share, adult (segformer-b0)": Published(0.288, "section 4.2, SegFormer-B4, 100 BraTS adults"),
        "tumour share, adult-unet (unet)": Published(0.028, "section 4.2, U-Net, 100 BraTS adults"),
    },
    version=2,
)
