"""Weights put into a network, or all that does not fit said at once."""

from collections.abc import Mapping

from torch import Tensor, nn

from seglens.foreign.tensors import refuse_non_finite


def fit_weights(network: nn.Module, weights: Mapping[str, Tensor], origin: str, *, assign: bool = False) -> None:
    """Load ``weights`` into ``network``, or say everything that does not fit.

    Args:
        network: whose weights are replaced.
        weights: by name.
        origin: what they are called in a message.
        assign: put the tensors themselves in the network's place instead of copying them, as for one without memory.

    Raises:
        ValueError: missing or unknown names, other shapes, or values that are not finite.
    """
    own = network.state_dict()
    faults = [f"{name} is missing" for name in own if name not in weights]
    faults += [f"{name} is unknown" for name in weights if name not in own]
    faults += [
        f"{name} is {tuple(weights[name].shape)}, the network needs {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ValueError(f"{origin}: these weights are not of this network: {shown}")
    refuse_non_finite(weights, origin)
    network.load_state_dict(dict(weights), assign=assign)
