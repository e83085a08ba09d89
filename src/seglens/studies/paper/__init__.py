"""The paper's tables and figures, and what goes beyond them, each a named experiment on a study's cohorts.

A module of this folder defines one `Experiment` and is listed here, in the order of the page.
"""

from collections.abc import Mapping

from seglens.studies.paper import (
    alignment,
    architectures,
    classes,
    dictionary_size,
    failures,
    interpretation,
    joint,
    layers,
    non_medical,
    shared,
    swap,
    universal,
)
from seglens.studies.paper.experiment import CannotCarryError, Experiment, Figure, Finding, Published, part

EXPERIMENTS: Mapping[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        shared,
        alignment,
        architectures,
        swap,
        universal,
        failures,
        classes,
        layers,
        dictionary_size,
        interpretation,
        joint,
        non_medical,
    )
}

__all__ = ["EXPERIMENTS", "CannotCarryError", "Experiment", "Figure", "Finding", "Published", "part"]
