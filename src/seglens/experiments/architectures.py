"""Figure 3: on what the latents of two architectures spend their activation, trained and described on one cohort."""

from collections.abc import Mapping

import polars as pl

from seglens.dictionaries.quality import QualityRecord
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, Published
from seglens.runtime.progress import Progress
from seglens.semantics.atlas import LatentAtlas
from seglens.semantics.describing import category_mass
from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.stages import Study


def run(study: Study, progress: Progress) -> ExperimentResult:
    """Every cohort on which two architectures were trained."""
    names = comparable(study.settings.segmenters)
    if not names:
        raise NotApplicableError("needs two architectures trained on one cohort")
    rows, facts = [], []
    for number, name in enumerate(names):
        own = study.settings.segmenters[name]
        atlas = LatentAtlas.read(study.result("atlas", name))
        quality = study.result("quality", name).record("quality", QualityRecord)
        for category, share in category_mass(atlas.table, atlas.labels).items():
            rows.append((own.cohort, name, own.architecture, category, share))
        tumour = sum(rate for label, rate in atlas.base_rates.items() if label != atlas.labels[0])
        facts.append(
            {
                "segmenter": name,
                "architecture": own.architecture,
                "hookpoint": study.hookpoint(name),
                "live latents": int((~atlas.table["dead"]).sum()),
                "foreground share of pixels": tumour,
                "explained variance": quality.explained_variance,
                "the same, untrained segmenter": quality.control_explained_variance,
            }
        )
        progress(number + 1, len(names))
    columns = ("cohort", "segmenter", "architecture", "category", "share of activation mass")
    table = pl.DataFrame(rows, schema=columns, orient="row")
    return ExperimentResult(
        {"activation mass": table, "segmenters": pl.DataFrame(facts, infer_schema_length=None)},
        headlines(table),
        [
            "Each latent belongs to the category that its rule-based name gives it (tumour classes, boundary, "
            "background, or mixed where no class stands out); the bars are the share of all activation that lies in "
            "the latents of each category, on slices that the segmenter was not trained on.",
            "The share depends on the hookpoint as much as on the architecture: the two are opened at the stages named "
            "in the table, whose width and resolution differ. One segmenter an architecture is no sample of either.",
        ],
    )


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
    """Share of activation on tumour latents of each segmenter."""
    rows = table.filter(pl.col("category") == "foreground").iter_rows(named=True)
    return {f"tumour share, {row['segmenter']} ({row['architecture']})": row[table.columns[-1]] for row in rows}


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
            series="architecture",
            panel="segmenter",
        ),
    ),
    published={
        "tumour share, adult (segformer-b0)": Published(0.288, "section 4.2, SegFormer-B4, 100 BraTS adults"),
        "tumour share, adult-unet (unet)": Published(0.028, "section 4.2, U-Net, 100 BraTS adults"),
    },
)
