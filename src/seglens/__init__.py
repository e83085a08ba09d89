"""Med-SegLens: open a segmentation model, compare two populations inside it, find a failure's latents, change them.

Every public name below is imported when it is first used, so ``import seglens`` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "runtime.distributed": ["launched"],
    "cohorts.case": ["Case", "Cohort", "ImageRef"],
    "cohorts.layouts": ["read_cohort"],
    "cohorts.checks": ["check_cohort"],
    "cohorts.source_options": ["SourceOptions"],
    "cohorts.slice_set": ["SliceSet"],
    "cohorts.preprocessing": ["Preprocessing"],
    "cohorts.slices": ["SliceSampling", "prepare_slices"],
    "cohorts.phantom.cohort": ["write_phantom_cohort"],
    "foreign.tensors": ["read_weights"],
    "segmenters.segmenter": ["Hookpoint", "Segmenter"],
    "segmenters.architectures": ["build_segmenter"],
    "segmenters.training": ["TrainingSettings", "train_segmenter"],
    "segmenters.scoring": ["Scores", "evaluate"],
    "activations.hooks": ["capture", "edit"],
    "activations.store": ["ActivationStore"],
    "activations.extraction": ["extract"],
    "activations.effects": ["choose_hookpoint", "hookpoint_effects"],
    "dictionaries.codes": ["Codes"],
    "dictionaries.sae": ["SparseAutoencoder"],
    "dictionaries.lens": ["Lens", "View", "fit_lens"],
    "dictionaries.latent_table": ["LatentTable", "latent_table"],
    "dictionaries.archetypal": ["fit_archetypal"],
    "dictionaries.fitting": ["FitPlan", "FitSettings", "fit_dictionaries", "fit_dictionary"],
    "dictionaries.quality": ["dictionary_quality", "lens_quality"],
    "semantics.atlas": ["LatentAtlas", "describe"],
    "diffing.alignment": ["Alignment"],
    "diffing.consensus": ["recurring_latents"],
    "diffing.functional": ["functional_alignment"],
    "diffing.crosscoder": ["Crosscoder", "fit_crosscoder"],
    "diffing.crosscoder_sharing": ["evaluate_crosscoder"],
    "diffing.differential": ["Responses", "differential_latents", "patient_responses"],
    "diffing.sharing": ["align"],
    "steering.edits": ["LatentEdit", "steer"],
    "steering.sweep": ["alpha_grid", "sweep"],
    "steering.adaptation": ["steer_between"],
    "steering.automatic": ["choose_intervention"],
    "steering.interventions": ["Intervention", "evaluate_interventions"],
    "steering.policies": ["choose_edit"],
    "studies.settings": ["StudySettings"],
    "studies.study": ["run_study"],
    "studies.report": ["write_report"],
    "explorer.serving": ["explore"],
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the names are known only when the table is read


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'seglens' has no attribute {name!r}")
    return getattr(import_module(f"seglens.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
