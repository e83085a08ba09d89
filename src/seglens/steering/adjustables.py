"""Parts of a network that may be fitted on a few patients: latents, and what they must beat (see `fitted`)."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from seglens.activations.hooks import Change, edit
from seglens.activations.replay import last_layer
from seglens.dictionaries.codes import Codes, weighted_rows
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.segmenter import Hookpoint, Segmenter
from seglens.segmenters.substituted import Substituted
from seglens.shapes import Images, Logits, TokenGrid
from seglens.steering.fitted import Adjustable, Values
from seglens.steering.interventions import CachedBatch
from seglens.steering.shared_codes import active_codes, codes_of

LAST_HIDDEN = "last_hidden"
LATENT_RATES = (0.1, 0.3, 0.03)
CHANNEL_RATES = (0.3, 0.1, 1.0)
LOGIT_RATES = (0.3, 0.1, 1.0)
LAYER_RATES = (0.03, 0.01, 0.1)
SUFFIX_RATES = (1e-3, 3e-4, 3e-3)
"""Three for each kind, the middle one first."""
CHANNEL_STEP = 10
"""A channel's number moves so many times as far as a weight of the last layer, where both have one learning rate."""
PENALTIES = (0.0, 1e-3)


def latents(
    dictionaries: Sequence[SparseAutoencoder],
    chosen: Sequence[Sequence[int]] | None = None,
    *,
    offsets: bool = True,
    gate: int | None = None,
    name: str = "latents",
) -> Adjustable:
    """A scale and an offset of each latent's code where it fires: z_k <- z_k (1 + a_k) + b_k. Decoders stay.

    Args:
        dictionaries: of different hookpoints of one segmenter, from its input to its output.
        chosen: which latents of each; None takes all.
        offsets: False fits scales only.
        gate: a latent of the first dictionary: its tokens keep their codes where this one does not fire.
        name: of the adjustable.
    """
    numbers = [list(own) for own in chosen or [range(dictionary.n_latents) for dictionary in dictionaries]]
    kinds = ("scale", "offset") if offsets else ("scale",)
    start = {
        f"{dictionary.hookpoint} {kind}": torch.zeros(len(own), device=dictionary.W_dec.device)
        for dictionary, own in zip(dictionaries, numbers, strict=True)
        for kind in kinds
    }
    first = dictionaries[0]

    def kept_codes(batch: CachedBatch) -> Codes:
        def computed() -> Codes:
            tokens = batch.activation(first.hookpoint).flatten(0, 3)
            codes = codes_of(first, tokens, numbers[0])
            return Codes.from_dense(codes if gate is None else codes * (codes_of(first, tokens, [gate]) > 0))

        codes: Codes = batch.once(("codes", first.hash, tuple(numbers[0]), gate), computed)
        return codes

    def predict(batch: CachedBatch, values: Values) -> Logits:
        with ExitStack() as stack:
            for dictionary, own in list(zip(dictionaries, numbers, strict=True))[1:]:
                change = _latent_change(dictionary, own, values)
                stack.enter_context(edit(batch.segmenter, dictionary.hookpoint, change))
            return batch.changed(first.hookpoint, _latent_change(first, numbers[0], values, kept_codes(batch)))

    return Adjustable(name, start, predict, LATENT_RATES, PENALTIES)


def _latent_change(
    dictionary: SparseAutoencoder, chosen: Sequence[int], values: Values, codes: Codes | None = None
) -> Change:
    """The change that scales and offsets make; ``codes`` where the activation is known beforehand."""
    rows = dictionary.W_dec.detach()[list(chosen)] / dictionary.scale
    scale, offset = values[f"{dictionary.hookpoint} scale"], values.get(f"{dictionary.hookpoint} offset")

    def change(grid: TokenGrid) -> TokenGrid:
        own = codes or active_codes(dictionary, grid.flatten(0, 3), chosen)
        latents = own.latents.long()
        weights = own.values * scale[latents]
        if offset is not None:
            weights = weights + offset[latents]
        difference = weighted_rows(rows, own.offsets, latents, weights)
        if not own.nnz:
            difference = difference + weights.sum()  # 0, through which gradients of 0 reach the values
        return grid + difference.to(grid.dtype).view(grid.shape)

    return change


def channels(lens: Lens, name: str = "channel_affine") -> Adjustable:
    """A scale and an offset of each channel of the raw activation: what a dictionary's own edit must beat."""
    width = lens.dictionary.W_dec.shape[1]
    start = {
        "scale": torch.zeros(width, device=lens.segmenter.device),
        "offset": torch.zeros(width, device=lens.segmenter.device),
    }

    def predict(batch: CachedBatch, values: Values) -> Logits:
        return batch.changed(lens.hookpoint, _affine_change(lens.dictionary, values))

    return Adjustable(name, start, predict, CHANNEL_RATES, PENALTIES)


def _affine_change(dictionary: SparseAutoencoder, values: Values) -> Change:
    """The change that a scale and an offset of each channel make; offsets in the dictionary's units."""
    unit = 1 / float(dictionary.scale)

    def change(grid: TokenGrid) -> TokenGrid:
        return grid * (1 + values["scale"]) + values["offset"] * unit

    return change


def logits(segmenter: Segmenter, name: str = "logit_affine") -> Adjustable:
    """A scale and a bias of each class's logit."""
    start = {
        "scale": torch.zeros(segmenter.n_classes, device=segmenter.device),
        "bias": torch.zeros(segmenter.n_classes, device=segmenter.device),
    }

    def predict(batch: CachedBatch, values: Values) -> Logits:
        return batch.logits * (1 + values["scale"]).view(1, -1, 1, 1, 1) + values["bias"].view(1, -1, 1, 1, 1)

    return Adjustable(name, start, predict, LOGIT_RATES)


def layer(segmenter: Segmenter, images: Images, name: str = "last_layer") -> Adjustable:
    """The last layer, fitted again from its own weights; the strongest baseline with few parameters.

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
    network = Substituted(segmenter.network)

    def predict(batch: CachedBatch, values: Values) -> Logits:
        return network.logits(batch.behind(giver).logits, values)

    return Adjustable(name, start, predict, LAYER_RATES, PENALTIES)


def channels_and_layer(lens: Lens, images: Images, name: str = "channels_and_layer") -> Adjustable:
    """`channels` and `layer` at once: what latents at two depths must beat, for they act at the same two.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        images: any slice, to find the layer.
        name: of the adjustable.
    """
    first, last = channels(lens), layer(lens.segmenter, images)
    network = Substituted(lens.segmenter.network)

    def predict(batch: CachedBatch, values: Values) -> Logits:
        change = _affine_change(lens.dictionary, {kind: CHANNEL_STEP * values[kind] for kind in first.start})
        replay = batch.replay(lens.hookpoint)
        return network.logits(lambda: replay.logits(change), {path: values[path] for path in last.start})

    return Adjustable(name, {**first.start, **last.start}, predict, LAYER_RATES, PENALTIES)


def with_last_hidden(segmenter: Segmenter, images: Images) -> Segmenter:
    """The same network with one more hookpoint, ``last_hidden``: what its last layer reads, channels first.

    Args:
        segmenter: any whose last layer is a convolution.
        images: any slice, to find the layer.
    """
    _, giver = last_layer(segmenter, images[:1])
    return replace(
        segmenter,
        hookpoints={**segmenter.hookpoints, LAST_HIDDEN: Hookpoint(giver, segmenter.channels_first)},
    )


def suffix(segmenter: Segmenter, hookpoint: str, images: Images, name: str = "whole_suffix") -> Adjustable:
    """All weights of the network that act behind a hookpoint: the ceiling, with no care for parameters.

    Args:
        segmenter: the network.
        hookpoint: weights in front of it stay.
        images: any slice, to find them.
        name: of the adjustable.
    """
    replay = CachedBatch(segmenter, images[:1]).replay(hookpoint)
    named = dict(segmenter.network.named_parameters())
    network = Substituted(segmenter.network)
    with torch.enable_grad():
        leaves = {name: value.detach().clone().requires_grad_() for name, value in named.items()}
        given = torch.autograd.grad(
            network.logits(replay.logits, leaves).sum(), list(leaves.values()), allow_unused=True
        )
    start = {
        name: value.detach()
        for (name, value), gradient in zip(leaves.items(), given, strict=True)
        if gradient is not None
    }

    def predict(batch: CachedBatch, values: Values) -> Logits:
        return network.logits(batch.replay(hookpoint).logits, values)

    return Adjustable(name, start, predict, SUFFIX_RATES)
