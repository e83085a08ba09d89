"""A network of one's own, opened: weights, a description beside them, and the class of an installed package."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seglens.artifacts import hash_of
from seglens.cohorts.bundle_preprocessing import BundlePreprocessing
from seglens.documents import to_document
from seglens.foreign.own_models import OwnPlan, read_own
from seglens.foreign.tensors import read_weights
from seglens.segmenters.architectures import architecture_named
from seglens.segmenters.opened_bundle import OpenedBundle, decision_of, labels_of, sequences_of, usual_window
from seglens.segmenters.own_networks import BuildNetwork, own_network, own_places, row_of
from seglens.segmenters.segmenter import Segmenter


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenedOwn(OpenedBundle):
    """A network of one's own; its images are prepared, and its masks brought back, as a bundle's are.

    Attributes:
        own: contents of its description.
    """

    own: OwnPlan

    def facts(self) -> dict[str, str]:
        """Description for people: a heading to a line."""
        built = f"the row {self.own.architecture}" if self.own.architecture else "a function that you gave"
        model = f"{self.plan.name} (own network, {built}, {self.plan.spatial_dims}-D)"
        return super().facts() | {"model": model}


def open_own(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    checkpoint: str | None = None,
    network: BuildNetwork | None = None,
) -> OpenedOwn:
    """Open a network of one's own; no name of code is taken from its files.

    Args:
        folder: with a description, ``seglens.json`` or ``seglens.yaml``, and weights.
        settings: key of the description to a value in its place.
        checkpoint: the file of weights in the folder; None: the description's ``weights``, ``model.safetensors``.
        network: class or function that the description's ``settings`` are given to as keywords, in the place of a row;
            such a model cannot be used in a study, whose processes build it anew.

    Raises:
        ValueError: a description that cannot be used, a row that is not installed, or weights that do not fit.
    """
    own = read_own(folder, settings)
    plan = own.steps
    path = folder / (checkpoint or own.weights)
    if not path.is_file():
        raise ValueError(
            f"{path} is not a file; save the weights beside the description, or name their file by weights"
        )
    extent = usual_window(plan)
    names, labels, given = sequences_of(plan), labels_of(plan), own_places(own.places, own.dimensions)
    if network is None:
        if not own.architecture:
            raise ValueError(
                f"{folder}: nothing says which network it is; name a row of seglens.architectures by architecture, or "
                "give its function: --module package.module:function (in Python open_model(folder, network=function))"
            )
        row = row_of(own)
        described = row.describe(len(names), len(plan.heads), own.settings)
        places = given or row.hookpoints(described["settings"])
        stored = {
            "network": described,
            "hookpoints": {name: to_document(place) for name, place in places.items()},
            "window": list(extent),
        }
        build = partial(row.build, len(names), len(plan.heads), described["settings"])
        architecture = architecture_named("own").describe(len(names), len(labels), stored)
    else:
        build = partial(network, **own.settings)
        places, architecture = given, None
    module = own_network(build, read_weights(path), str(path))
    if not places:
        inside = ", ".join(name for name, _ in module.named_modules() if name)[:300]
        raise ValueError(
            f"{folder}: hookpoints are missing; name modules such as hookpoints: {{first: MODULE}}: {inside}"
        )
    segmenter = Segmenter(
        module,
        architecture,
        names,
        labels,
        places,
        extent,
        decision=decision_of(plan),
        identity=hash_of(to_document(plan)),
    )
    preprocessing = BundlePreprocessing(plan)
    assert len(preprocessing.steps) == len(plan.transforms)  # built now, so that what cannot be is refused now
    return OpenedOwn(folder, {"model": segmenter}, plan=plan, own=own, _preprocessing=preprocessing)
