"""Do latents of a crosscoder move the classes of both models at the same places? What they share by use, not by sight.

A latent that decodes into two models says that both see the same thing in the image; an untrained network sees much of
it too. Here a latent counts by what it does to the segmentation in each model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.dictionaries.codes import pair_dots
from seglens.diffing.crosscoder import Crosscoder
from seglens.shapes import Tokens

Gradients = Sequence[Float[Tensor, "n d"]]
"""Of each class, by the raw tokens."""


@dataclass(frozen=True)
class EffectAgreement:
    """Cosines between two models' effects of the same latents on the same classes at the same tokens.

    Attributes:
        signed: of the effects, -1..1; 0 in expectation where a model's gradients know nothing of the classes.
        places: of their sizes, 0..1: whether they act in the same places, in whatever direction. It is above 0 by
            chance, so it counts from what an untrained network gives.
    """

    signed: float | None
    places: float | None


@torch.no_grad()
def effect_agreement(
    crosscoder: Crosscoder, tokens: Mapping[str, Tokens], gradients: Mapping[str, Gradients]
) -> EffectAgreement:
    """Cosine between two models' effects of the same latents on the same classes at the same tokens.

    The effect of ablating latent j at token t on class c of model p is, to first order, ``-z_tj d_pj . g_ptc`` with the
    latent's decoder row d in the model's own scale and the gradient g of the class. The cosine is over all (t, j, c) at
    which a latent fires; a latent counts by what it does in both models. It is 1 where the code moves both models'
    classes alike and 0 in expectation where a model's gradients know nothing of the classes.

    Args:
        crosscoder: of two models.
        tokens: model to raw tokens at the same places.
        gradients: model to the gradients of classes that both have, in one order.

    Returns:
        Both cosines; None where a model's classes depend on no latent.
    """
    codes = crosscoder.encode(tokens)
    rows = crosscoder.dictionary.W_dec / crosscoder.dictionary.scale
    effects = []
    for model in crosscoder.models:
        directions = model.raw(rows[:, crosscoder.columns(model.name)]) - model.centre
        of_classes = [
            codes.values * pair_dots(gradient.float(), directions, codes.offsets, codes.latents)
            for gradient in gradients[model.name]
        ]
        effects.append(torch.cat(of_classes).double())
    one, other = effects
    length = one.norm() * other.norm()
    if not float(length) > 0:
        return EffectAgreement(None, None)
    return EffectAgreement(float(one @ other / length), float(one.abs() @ other.abs() / length))
