"""The threshold of inference, which does not depend on a batch."""

import numpy as np
import torch
from torch import Tensor

from seglens.dictionaries.sae import CHUNK_ELEMENTS, SparseAutoencoder
from seglens.dictionaries.token_source import TokenSource
from seglens.runtime.distributed import gather_over_ranks, own_share


@torch.no_grad()
def calibrate(dictionary: SparseAutoencoder, store: TokenSource, *, n_tokens: int = 200_000, seed: int = 0) -> None:
    """Set ``theta`` so that a random sample of tokens has k active latents on average.

    One pass over the pre-activations of the sample; theta lies halfway between the (n*k)-th and the next largest.
    Where fewer than n*k are positive, theta is 0. An average of batch thresholds during the fit would lag behind in
    short runs.

    Args:
        dictionary: changed in place.
        store: activations of the same hookpoint.
        n_tokens: how many to use, at most.
        seed: which tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(store.n_tokens, generator=generator)[:n_tokens].sort().values
    wanted = len(rows) * dictionary.k
    device = dictionary.W_enc.device
    offset = dictionary.encoder_offset()
    chunk = max(1, CHUNK_ELEMENTS // dictionary.n_latents)

    def above(bound: float, rows: Tensor) -> Tensor:
        """The sample's pre-activations above a bound."""
        values = [torch.zeros(0, device=device)]
        for part in rows.split(chunk):
            tokens = store.tokens(part).to(device)
            pre = torch.addmm(offset, dictionary.normalise(tokens.to(offset.dtype)), dictionary.W_enc)
            values.append(pre[pre > bound])
        return torch.cat(values)

    # a bound from some of the tokens keeps what is held near n*k values; each process holds those of its own tokens
    some = rows[:: max(1, len(rows) // chunk)][:chunk]
    positive = above(0.0, some)
    count = len(some) * dictionary.k
    near = 0.8 * _largest(positive, count)[:1] if len(positive) > count else torch.zeros(1, device=device)
    bound = float(torch.cat(gather_over_ranks(near)).min())
    own = rows[own_share(len(rows))]
    values = torch.cat(gather_over_ranks(above(bound, own)))
    if len(values) <= wanted and bound > 0:
        values = torch.cat(gather_over_ranks(above(0.0, own)))
    if len(values) <= wanted:
        dictionary.theta.fill_(0.0)
        return
    dictionary.theta.copy_(_largest(values, wanted).mean())


def _largest(values: Tensor, count: int) -> Tensor:
    """The ``count``-th largest of more values than that, and the next one."""
    if values.device.type == "cpu":
        place = len(values) - count
        return torch.from_numpy(np.partition(values.numpy(), [place - 1, place])[place - 1 : place + 1]).flip(0)
    return values.topk(count + 1).values[-2:]
