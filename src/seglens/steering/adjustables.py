"""What of a network may be fitted on a few patients: latents, and what they must beat (see `fitted`)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seglens.activations.replay import Replay, last_layer
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images, Logits, TokenGrid
from seglens.steering.corrections import Seen
from seglens.steering.fitted import Adjustable, Values
from seglens.steering.shared_codes import codes_of

LATENT_RATES = (0.3, 0.1)
CHANNEL_RATES = (0.3, 0.1)
LOGIT_RATES = (0.1, 0.3)
LAYER_RATES = (0.01, 0.03)
SUFFIX_RATES = (1e-3, 3e-4)
LATENT_PENALTIES = (0.0, 1e-4)


def latents(
    dictionary: SparseAutoencoder,
    chosen: Sequence[int],
    *,
    offsets: bool = True,
    gate: int | None = None,
    name: str = "latents",
) -> Adjustable:
    """A scale and an offset of each latent's code where it fires: z_k <- z_k (1 + a_k) + b_k. The decoder stays.

    Args:
        dictionary: whose latents.
        chosen: which.
        offsets: False fits scales only.
        gate: tokens where this latent does not fire keep their codes; None acts everywhere.
        name: of the adjustable.
    """
    numbers = list(chosen)
    device = dictionary.W_dec.device
    rows = (dictionary.W_dec[torch.tensor(numbers, device=device)] / dictionary.scale).detach()
    start = {"scale": torch.zeros(len(numbers), device=device)}
    if offsets:
        start["offset"] = torch.zeros(len(numbers), device=device)
    hookpoint = dictionary.hookpoint

    def codes(seen: Seen) -> Tensor:
        def computed() -> Tensor:
            with torch.no_grad():
                grid = seen.activation(hookpoint)
                found = codes_of(dictionary, grid.reshape(-1, grid.shape[-1]), numbers)
                if gate is None:
                    return found
                return found * (codes_of(dictionary, grid.reshape(-1, grid.shape[-1]), [gate]) > 0)

        found: Tensor = seen.once(("codes", dictionary.hash, tuple(numbers), gate), computed)
        return found

    def predict(seen: Seen, values: Values) -> Logits:
        own = codes(seen)
        difference = own * values["scale"]
        if offsets:
            difference = difference + (own > 0) * values["offset"]

        def change(grid: TokenGrid) -> TokenGrid:
            return grid + (difference @ rows).to(grid.dtype).view(grid.shape)

        return seen.changed(hookpoint, change)

    return Adjustable(name, start, predict, LATENT_RATES, LATENT_PENALTIES)


def channels(segmenter: Segmenter, dictionary: SparseAutoencoder, name: str = "channel_affine") -> Adjustable:
    """A scale and an offset of each channel of the raw activation: what a dictionary's own edit must beat."""
    width, unit = dictionary.W_dec.shape[1], 1 / float(dictionary.scale)
    start = {
        "scale": torch.zeros(width, device=segmenter.device),
        "offset": torch.zeros(width, device=segmenter.device),
    }

    def predict(seen: Seen, values: Values) -> Logits:
        def change(grid: TokenGrid) -> TokenGrid:
            return grid * (1 + values["scale"]) + values["offset"] * unit

        return seen.changed(dictionary.hookpoint, change)

    return Adjustable(name, start, predict, CHANNEL_RATES)


def logits(segmenter: Segmenter, name: str = "logit_affine") -> Adjustable:
    """A scale and a bias of each class's logit."""
    start = {
        "scale": torch.zeros(segmenter.n_classes, device=segmenter.device),
        "bias": torch.zeros(segmenter.n_classes, device=segmenter.device),
    }

    def predict(seen: Seen, values: Values) -> Logits:
        return seen.logits * (1 + values["scale"]).view(1, -1, 1, 1) + values["bias"].view(1, -1, 1, 1)

    return Adjustable(name, start, predict, LOGIT_RATES)


def layer(segmenter: Segmenter, images: Images, name: str = "last_layer") -> Adjustable:
    """The last layer, fitted again from its own weights; the strongest rival with few parameters.

    Args:
        segmenter: the network.
        images: any slice, to find the layer.
        name: of the adjustable.
    """
    path, giver = last_layer(segmenter, images[:1])
    start = {
        f"{path}.{own}": value.detach().clone()
        for own, value in segmenter.network.get_submodule(path).named_parameters()
    }
    whole = _Whole(segmenter.network)

    def predict(seen: Seen, values: Values) -> Logits:
        return whole.logits(seen.behind(giver), values)

    return Adjustable(name, start, predict, LAYER_RATES)


def suffix(segmenter: Segmenter, hookpoint: str, images: Images, name: str = "whole_suffix") -> Adjustable:
    """All weights of the network that act behind a hookpoint: the ceiling, with no care for parameters.

    Args:
        segmenter: the network.
        hookpoint: weights in front of it stay.
        images: any slice, to find them.
        name: of the adjustable.
    """
    replay = Seen(segmenter, images[:1]).replay(hookpoint)
    named = dict(segmenter.network.named_parameters())
    whole = _Whole(segmenter.network)
    with torch.enable_grad():
        leaves = {name: value.detach().clone().requires_grad_() for name, value in named.items()}
        given = torch.autograd.grad(whole.logits(replay, leaves).sum(), list(leaves.values()), allow_unused=True)
    start = {
        name: value.detach()
        for (name, value), gradient in zip(leaves.items(), given, strict=True)
        if gradient is not None
    }

    def predict(seen: Seen, values: Values) -> Logits:
        return whole.logits(seen.replay(hookpoint), values)

    return Adjustable(name, start, predict, SUFFIX_RATES)


class _Whole(nn.Module):
    """A network whose forward pass is a replay, so that some of its weights can be others for the length of a call."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, replay: Replay) -> Logits:
        return replay.logits()

    def logits(self, replay: Replay, values: Values) -> Logits:
        """Logits with these weights in place of the network's own."""
        renamed = {f"network.{name}": value for name, value in values.items()}
        replaced: Logits = torch.func.functional_call(self, renamed, (replay,))
        return replaced
