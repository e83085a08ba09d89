"""Networks of one's own: built by a row of an installed package, or by a function that the user gives."""

import importlib
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from seglens.foreign.own_models import OwnPlan, Place
from seglens.runtime.suggestions import did_you_mean
from seglens.segmenters.architectures import Architecture, architectures
from seglens.segmenters.segmenter import Hookpoint, Layout
from seglens.segmenters.weights import fit_weights
from seglens.shapes import full_extent

BuildNetwork = Callable[..., nn.Module]
"""From the settings of a description, as keywords, to a module; a class of networks is one."""
_NAMED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def function_named(name: str) -> BuildNetwork:
    """Import a function of an installed package, which the user names: never a name that stands in a file.

    Args:
        name: ``package.module:function``.

    Raises:
        ValueError: another form, a module that cannot be imported, or nothing in it that can be called.
    """
    if not _NAMED.fullmatch(name):
        raise ValueError(f"{name[:200]!r} names no function; write package.module:function, such as mynets.unet:UNet3d")
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the package's own code runs here: whatever it raises
        raise ValueError(
            f"{name} cannot be imported ({error}); install its package where seglens is installed, and check the name"
        ) from error
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}; name a class of networks, or a function that builds one")
    built: BuildNetwork = found
    return built


def row_of(plan: OwnPlan) -> Architecture:
    """The row that a description names, and its dimensions checked.

    Raises:
        ValueError: no installed package has it, it is one of models that are opened from files of their own, or it is
            of other dimensions.
    """
    rows = {name: row for name, row in architectures().items() if not row.required}
    row = rows.get(plan.architecture)
    if row is None:
        raise ValueError(
            f"architecture {plan.architecture!r}: no installed package has such a row; "
            f"{did_you_mean(plan.architecture, rows)}there are {', '.join(rows)}; install the package whose entry "
            "point in seglens.architectures it is, or give the function by --module package.module:function"
        )
    if row.spatial_dims != plan.dimensions:
        raise ValueError(
            f"dimensions is {plan.dimensions}, and the row {row.name} has {row.spatial_dims}; give dimensions: "
            f"{row.spatial_dims}"
        )
    return row


def own_network(build: Callable[[], nn.Module], weights: Mapping[str, Tensor], origin: str) -> nn.Module:
    """Build a network and put weights into it, in evaluation mode.

    It is built without memory first where its constructor allows it, so that a description's sizes are compared with
    the file's before memory is taken.

    Args:
        build: makes the module; it may compute what the file does not hold.
        weights: by name.
        origin: what they are called in a message.

    Raises:
        ValueError: it cannot be built, is no module, or the weights do not fit it.
    """
    real = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    try:
        with torch.device("meta"):
            shape = _built(build)
    except ValueError:
        shape = None  # a constructor that looks at values
    if shape is not None:
        fit_weights(shape, real, origin, assign=True)
        if not any(tensor.is_meta for tensor in (*shape.parameters(), *shape.buffers())):
            return shape.eval()
    network = _built(build)
    fit_weights(network, real, origin)
    return network.eval()


def _built(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        try:
            network = build()
        except Exception as fault:  # constructors fail in as many ways as there are arguments
            reason = (str(fault) or type(fault).__name__).splitlines()[0][:300]
            raise ValueError(
                f"the network cannot be built of the description's settings ({reason}); correct settings"
            ) from fault
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"the network's function gives a {type(network).__name__}; it must give a torch.nn.Module of them"
        )
    return network


def own_places(places: Mapping[str, Place], dimensions: int) -> dict[str, Hookpoint]:
    """Hookpoints as a description names them.

    Args:
        places: name to place.
        dimensions: axes of space of the network.
    """
    first: Layout = "BCHW" if dimensions == 2 else "BCDHW"
    return {
        name: Hookpoint(
            place.module,
            place.layout or first,  # type: ignore[arg-type]
            place.item,
            full_extent(list(place.grid)) if place.grid else None,
        )
        for name, place in places.items()
    }
