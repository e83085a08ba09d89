"""Interface of activations to a fit, wherever they come from."""

import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from seglens.shapes import Tokens


@runtime_checkable
class TokenSource(Protocol):
    """Interface of a store of activations to a fit (an ActivationStore has it)."""

    @property
    def hookpoint(self) -> str:
        """Where the activations come from."""

    @property
    def segmenter_hash(self) -> str:
        """Hash of the network they come from."""

    @property
    def hash(self) -> str:
        """Identity of the activations."""

    @property
    def d_in(self) -> int:
        """Width."""

    @property
    def n_tokens(self) -> int:
        """How many tokens."""

    @property
    def centre(self) -> Tensor:
        """Mean activation [d_in]."""

    @property
    def scale(self) -> float:
        """Factor after centring."""

    def tokens(self, rows: Int[Tensor, " n"]) -> Tokens:
        """Raw activations of these tokens."""

    def random_batches(self, batch_size: int, generator: torch.Generator, *, first: int = 0) -> Iterator[Tokens]:
        """All tokens once, in random order; without the batches before number ``first``, which need not be read."""


def check_source(store: TokenSource) -> None:
    """Refuse activations that nothing can be fitted to.

    Raises:
        ValueError: no tokens, or a centre or scale that is not finite.
    """
    if store.n_tokens < 1:
        raise ValueError(f"the store of {store.hookpoint!r} has no tokens; extract at least one slice")
    if not (bool(torch.isfinite(store.centre).all()) and math.isfinite(store.scale) and store.scale > 0):
        raise ValueError(
            f"the store of {store.hookpoint!r} has scale {store.scale} and a centre with "
            f"{int((~torch.isfinite(store.centre)).sum())} non-finite channels; activations must vary and be finite"
        )
