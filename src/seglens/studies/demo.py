"""The study that ``seglens demo`` runs: phantom cohorts, every stage."""

from seglens.studies.segmenter_settings import SegmenterSettings
from seglens.studies.settings import (
    CohortSettings,
    DictionarySettings,
    FailureSettings,
    PhantomSettings,
    SplitShares,
    SteeringSettings,
    StudySettings,
)

FRACTIONS = SplitShares(train=0.65, val=0.15, test=0.2)

REGIONS = {"whole tumour": [1, 2, 3], "tumour core": [1, 3]}
"""Of BraTS' label values, as its challenges score them."""


def demo_settings(seed: int = 0, *, quick: bool = False) -> StudySettings:
    """Settings of the demo.

    Args:
        seed: everything random follows from it.
        quick: two cohorts and little training: the same stages in under two minutes; figures mean nothing.
    """
    return _quick(seed) if quick else _full(seed)


def _full(seed: int) -> StudySettings:
    return StudySettings(
        name="phantom cohorts",
        seed=seed,
        sequences=["T1c", "FLAIR"],
        size=128,
        cohorts={name: _phantom(name, 56) for name in ("healthy", "adult", "pediatric", "ssa")},
        segmenters={
            "healthy": SegmenterSettings(cohort="healthy", steps=250),
            "adult": SegmenterSettings(cohort="adult", steps=220, init_from="healthy"),
            "pediatric": SegmenterSettings(cohort="pediatric", steps=220, init_from="healthy"),
            "ssa": SegmenterSettings(cohort="ssa", steps=220, init_from="healthy"),
            "adult-unet": SegmenterSettings(cohort="adult", architecture="unet", steps=150, learning_rate=3e-3),
        },
        dictionaries=DictionarySettings(steps=300, batch_size=2048),
        steering=[
            SteeringSettings(segmenter="adult", cohort="pediatric", label="edema"),
            SteeringSettings(segmenter="pediatric", cohort="adult", label="edema"),
        ],
        failures=[FailureSettings(segmenter="adult", cohort="adult", worst=60)],
    )


def _quick(seed: int) -> StudySettings:
    return StudySettings(
        name="phantom cohorts, quick",
        seed=seed,
        sequences=["T1c", "FLAIR"],
        size=64,
        cohorts={name: _phantom(name, 10, slices=6) for name in ("adult", "pediatric")},
        segmenters={
            "adult": SegmenterSettings(cohort="adult", steps=40, batch_size=8),
            "pediatric": SegmenterSettings(cohort="pediatric", steps=20, batch_size=8, init_from="adult"),
        },
        minimum_effect=0.0,
        dictionaries=DictionarySettings(steps=60, batch_size=512),
        steering=[SteeringSettings(segmenter="adult", cohort="pediatric", label="edema")],
        failures=[FailureSettings(segmenter="adult", cohort="adult", worst=10)],
        atlas_top_k=4,
    )


def _phantom(population: str, subjects: int, slices: int = 10) -> CohortSettings:
    return CohortSettings(
        phantom=PhantomSettings(population=population, subjects=subjects, slices=slices),  # type: ignore[arg-type]
        fractions=FRACTIONS,
        regions=REGIONS,
    )
