"""The paper's tables and figures, and what goes beyond them, each a named experiment on a study's cohorts.

A module of this folder defines one `Experiment` and is listed here, in the order of the page.
"""

from collections.abc import Mapping

from seglens.experiments import (
    adaptation,
    alignment_methods,
    architectures,
    classes,
    crosscoder,
    dictionary_size,
    differential,
    interpretation,
    label_free,
    layers,
    non_medical,
    recovered_failures,
    shared,
    stability,
    swap,
    universal,
)
from seglens.experiments.experiment import Experiment, ExperimentResult, Figure, NotApplicableError, Published, part

EXPERIMENTS: Mapping[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        shared,
        alignment_methods,
        crosscoder,
        differential,
        stability,
        architectures,
        swap,
        universal,
        recovered_failures,
        classes,
        adaptation,
        label_free,
        layers,
        dictionary_size,
        interpretation,
        non_medical,
    )
}

__all__ = ["EXPERIMENTS", "Experiment", "ExperimentResult", "Figure", "NotApplicableError", "Published", "part"]
