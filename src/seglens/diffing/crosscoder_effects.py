"""Do latents of a crosscoder move the classes of both models at the same places? What they share by use, not by sight.

A latent that decodes into two models says that both see the same thing in the image; an untrained network sees much of
it too. Here a latent counts by what it does to the segmentation in each model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from seglens.dictionaries.codes import pair_dots
from seglens.diffing.crosscoder import Crosscoder, CrosscoderModel
from seglens.shapes import Tokens

Gradients = Sequence[Float[Tensor, "n d"]]
"""Of each class, by the raw tokens."""
SEED = 0
"""Of the order in which the control deals the rows of the last model to its latents."""


@dataclass(frozen=True)
class EffectAgreement:
    """Cosines between two models' effects of the same latents on the same classes at the same tokens.

    The code is one for both models, and gradients of any two networks are large at the same places (borders of
    lesions), so effects agree in part whatever the latents are. Both cosines count only from their controls up, and
    from what an untrained network gives.

    Attributes:
        signed: of the effects, -1..1.
        places: of their sizes, 0..1: whether they act in the same places, in whatever direction.
        permuted: `signed` where every latent acts in the second model along another latent's decoder row.
        permuted_places: `places` there: what one code and the places of the gradients give whatever the latents do.
        gradients: of the lengths of the gradients over tokens and classes, 0..1, without any latent.
    """

    signed: float | None
    places: float | None
    permuted: float | None
    permuted_places: float | None
    gradients: float | None


@torch.no_grad()
def effect_agreement(
    crosscoder: Crosscoder, tokens: Mapping[str, Tokens], gradients: Mapping[str, Gradients]
) -> EffectAgreement:
    """Cosine between two models' effects of the same latents on the same classes, beside its controls.

    The effect of ablating latent j at token t on class c of model p is, to first order, ``-z_tj d_pj . g_ptc`` with the
    latent's decoder row d in the model's own scale and the gradient g of the class. The cosine is over all (t, j, c) at
    which a latent fires; a latent counts by what it does in both models. It is 1 where the code moves both models'
    classes alike. In the control the second model's decoder rows of the latents that fire are dealt to one another,
    under the same z and g.

    Args:
        crosscoder: of two models.
        tokens: model to raw tokens at the same places.
        gradients: model to the gradients of classes that both have, in one order.

    Returns:
        The cosines; None where a model's classes depend on no latent, or on no token.
    """
    codes = crosscoder.encode(tokens)
    rows = crosscoder.dictionary.W_dec / crosscoder.dictionary.scale
    order = _permuted_order(codes.firing_counts().cpu() > 0).to(rows.device)

    def effects(model: CrosscoderModel, rows_of: Tensor | slice = slice(None)) -> Float64[Tensor, " n"]:
        along = (model.raw(rows[:, crosscoder.columns(model.name)]) - model.centre)[rows_of]
        dots = [pair_dots(one.float(), along, codes.offsets, codes.latents) for one in gradients[model.name]]
        return torch.cat([codes.values * one for one in dots]).double()

    first, second = crosscoder.models
    one, other, moved = effects(first), effects(second), effects(second, order)
    lengths = [
        torch.cat([gradient.float().norm(dim=1) for gradient in gradients[model.name]]).double()
        for model in crosscoder.models
    ]
    return EffectAgreement(
        signed=_cosine(one, other),
        places=_cosine(one.abs(), other.abs()),
        permuted=_cosine(one, moved),
        permuted_places=_cosine(one.abs(), moved.abs()),
        gradients=_cosine(*lengths),
    )


def _permuted_order(firing: Bool[Tensor, " m"]) -> Int64[Tensor, " m"]:
    """For each latent the one whose rows it gets: those that fire change round among themselves."""
    order, known = torch.arange(len(firing)), firing.nonzero()[:, 0]
    order[known] = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(SEED))]
    return order


def _cosine(one: Float64[Tensor, " n"], other: Float64[Tensor, " n"]) -> float | None:
    length = float(one.norm() * other.norm())
    return float(one @ other) / length if length > 0 else None
