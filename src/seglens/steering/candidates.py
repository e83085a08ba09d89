"""Scales of latents that move one class, or one class against another: what a policy without masks may pick from.

All come from the source cohort: its atlas, and effects on its own labelled slices.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.steering.attribution import MIN_FIRING, LatentAttribution

N_ASSOCIATED = 60
FACTORS = (0.5, 1.25, 1.5, 2.0)
CONTRAST_STRENGTHS = (-1.0, -0.5, 0.5, 1.0)

Scale = Float[Tensor, " m"]
"""Factor on the code of each latent."""


def class_attribution(effects: LatentAttribution, *, n_latents: int = N_ASSOCIATED) -> Float[Tensor, " m"]:
    """Effect of each latent's scale on a class where the network is right about it, the largest being 1 or -1.

    Args:
        effects: on slices of the source cohort.
        n_latents: the strongest so many; the others are 0.
    """
    effect = torch.where(effects.firing >= MIN_FIRING, effects.scale["hit"], 0.0)
    strongest = effect.abs().topk(min(n_latents, len(effect))).indices
    attribution = torch.zeros_like(effect)
    attribution[strongest] = effect[strongest] / effect.abs().max().clamp_min(1e-12)
    return attribution


def candidate_scales(
    n_latents: int, associated: Mapping[str, Sequence[int]], effects: Mapping[str, LatentAttribution]
) -> dict[str, Scale]:
    """Edits by name: associated latents times a factor, and the difference of two class attributions.

    Args:
        n_latents: m of the dictionary.
        associated: latents by association with each class, best first.
        effects: of each class, on slices of the source cohort.
    """
    scales: dict[str, Scale] = {}
    for name, latents in associated.items():
        for factor in FACTORS if latents else ():
            scale = torch.ones(n_latents)
            scale[list(latents)[:N_ASSOCIATED]] = factor
            scales[f"{name} latents x {factor:g}"] = scale
    attributions = {name: class_attribution(effect) for name, effect in effects.items()}
    for one, other in combinations(attributions, 2):
        for strength in CONTRAST_STRENGTHS:
            scales[f"{one} against {other} {strength:+g}"] = 1 + strength * (attributions[one] - attributions[other])
    return scales
