"""Matryoshka dictionaries: the first latents alone reconstruct too, so that general ones come before special ones.

Bussmann et al., "Learning Multi-Level Features with Matryoshka Sparse Autoencoders" (arXiv 2503.17547), on BatchTopK.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seglens.dictionaries.codes import Codes, pair_dots, weighted_rows
from seglens.dictionaries.gradients import Weights
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.dictionaries.token_source import TokenSource

BATCH = 16384


def halved_prefixes(n_latents: int, *, levels: int = 4) -> tuple[int, ...]:
    """Prefixes of m/2^levels, ..., m/4 and m/2 latents (those of at least one), without the whole."""
    return tuple(size for level in range(levels, 0, -1) if (size := n_latents >> level) >= 1)


@dataclass(frozen=True)
class PrefixErrors:
    """The loss of a Matryoshka dictionary: the mean, over the prefixes and the whole, of their squared errors.

    Latents are selected once, over the whole; a prefix has those of the selected that lie in it. A latent feels the
    errors of every prefix that it lies in, so the gradients are those of a plain dictionary with that sum in place of
    the error.

    Attributes:
        sizes: of the prefixes, ascending, each below the number of latents.
    """

    sizes: tuple[int, ...]

    def __call__(self, centred: Tensor, weights: Weights, codes: Codes, factor: float) -> tuple[Tensor, Weights]:
        """The whole's error [n d_in], and the gradients of the loss; a way through the pairs for `backward`.

        Args:
            centred: normalised tokens less ``b_dec`` [n d_in].
            weights: the dictionary.
            codes: active pairs.
            factor: gradient of a squared error by that error, over the error.

        Raises:
            ValueError: a prefix is as large as the dictionary or larger.
        """
        m = codes.n_latents
        if self.sizes[-1] >= m:
            raise ValueError(f"prefixes {self.sizes} of {m} latents; each must be below {m}")
        bounds = list(zip((0, *self.sizes), (*self.sizes, m), strict=True))
        groups = [codes.select_latents(range(low, high)) for low, high in bounds]
        errors, so_far = [], -centred
        for (low, high), group in zip(bounds, groups, strict=True):
            decoded = weighted_rows(weights.decoder[low:high], group.offsets, group.latents, group.values)
            so_far = so_far + decoded
            errors.append(so_far)
        factor /= len(bounds)
        gradients = Weights(*(torch.zeros_like(part) for part in weights))
        felt = torch.zeros_like(centred)
        for (low, high), group, error in zip(bounds[::-1], groups[::-1], errors[::-1], strict=True):
            felt = felt + error
            slopes = pair_dots(felt, weights.decoder[low:high], group.offsets, group.latents) * factor
            columns, by_latent = group.columns(), group.with_values(slopes).columns()
            gradients.encoder[low:high] = weighted_rows(centred, by_latent.offsets, by_latent.tokens, by_latent.values)
            gradients.decoder[low:high] = weighted_rows(felt, columns.offsets, columns.tokens, columns.values * factor)
            gradients.b_enc[low:high] = torch.bincount(group.latents, weights=slopes.double(), minlength=high - low).to(
                slopes.dtype
            )
        gradients.b_dec.copy_(felt.sum(0) * factor)
        return errors[-1], gradients


@torch.no_grad()
def prefix_quality(dictionary: SparseAutoencoder, store: TokenSource, prefixes: Sequence[int]) -> dict[int, float]:
    """Explained variance of the first latents alone.

    Args:
        dictionary: what is judged; a plain one may be asked too.
        store: activations.
        prefixes: numbers of latents, 1..m.

    Returns:
        Prefix to 1 - squared error / squared deviation from the store's centre.
    """
    errors = dict.fromkeys(prefixes, 0.0)
    deviation = 0.0
    for start in range(0, store.n_tokens, BATCH):
        tokens = store.tokens(torch.arange(start, min(start + BATCH, store.n_tokens)))
        deviation += float((tokens - store.centre).double().square().sum())
        codes = dictionary.encode(tokens)
        for prefix in prefixes:
            kept = codes.with_values(codes.values * (codes.latents < prefix))
            errors[prefix] += float((dictionary.decode(kept) - tokens).double().square().sum())
    return {prefix: 1 - error / deviation for prefix, error in errors.items()}
