"""The paper's tables and figures, and what goes beyond them, each a named experiment on a study's cohorts.

A module of this folder defines one `Experiment` and is listed here, in the order of the page.
"""

from collections.abc import Mapping

from seglens.studies.paper import (
    adaptation,
    alignment,
    architectures,
    classes,
    dictionary_size,
    failures,
    interpretation,
    joint,
    label_free,
    layers,
    non_medical,
    planted,
    shared,
    stability,
    swap,
    universal,
)
from seglens.studies.paper.experiment import CannotCarryError, Experiment, Figure, Finding, Published, part

EXPERIMENTS: Mapping[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        shared,
        alignment,
        joint,
        planted,
        stability,
        architectures,
        swap,
        universal,
        failures,
        classes,
        adaptation,
        label_free,
        layers,
        dictionary_size,
        interpretation,
        non_medical,
    )
}

__all__ = ["EXPERIMENTS", "CannotCarryError", "Experiment", "Figure", "Finding", "Published", "part"]
