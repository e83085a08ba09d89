"""How a dictionary is fitted."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Auto = Literal["auto"]
MIN_K = 4
CHANNELS_A_LATENT = 10
"""``auto`` lets one latent be active at a token for so many channels."""
EXPANSIONS = (16, 8, 4, 2)
TOKENS_A_LATENT = 64
"""``auto`` takes the largest of `EXPANSIONS` that leaves each latent so many tokens."""

MAX_LEARNING_RATE = 2e-3
"""Measured on d_in 64, m 1024, 400 steps: 4e-3 gains 0.2 to 3 points of explained variance and kills 5 to 10 times as
many latents."""
MAX_DEAD_TOKENS = 10_000_000
"""A latent that has not fired for so many tokens is dead in any store (the window of arXiv 2406.04093)."""


@dataclass(frozen=True)
class FitSettings:
    """How a dictionary is fitted.

    Attributes:
        k: average number of active latents a token, at most half of d_in; ``"auto"``: a tenth of d_in, at least 4.
        expansion: m / d_in; ``"auto"``: 16, or as much less (8, 4, 2) as leaves each latent 64 tokens.
        steps: optimiser steps.
        batch_size: tokens a step, over all processes.
        learning_rate: peak; None: ``LR / sqrt(m / 2^14)`` with LR = 5e-4 up to 1000 steps, falling to the 2e-4 of
            long runs at 6250 steps and beyond (a short run must move further a step), and never above 2e-3.
        warmup: share of the steps over which the rate rises to its peak.
        decay: share of the steps, at the end, over which it falls to 0.
        clip: largest norm of the gradient of the squared error, summed over channels and averaged over tokens.
        auxiliary_coefficient: weight of the auxiliary loss for dead latents.
        dead_after: a latent is dead when it has not fired for this share of the training set, or of the tokens that the
            fit takes where those are fewer (`dead_tokens`).
        theta_tokens: tokens of the calibration pass, at most.
        checkpoint_every: steps between checkpoints.
        prefixes: of a Matryoshka dictionary: so many of the first latents reconstruct alone too, each number as
            important as the whole; ascending, below m.
    """

    k: int | Auto = "auto"
    expansion: int | Auto = "auto"
    steps: int = 1000
    batch_size: int = 4096
    learning_rate: float | None = None
    warmup: float = 0.05
    decay: float = 0.2
    clip: float = 1.0
    auxiliary_coefficient: float = 1 / 32
    dead_after: float = 0.25
    theta_tokens: int = 200_000
    checkpoint_every: int = 200
    prefixes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot work, all at once."""
        rate = self.learning_rate
        wrong = [
            f"{name} is {value}; {legal}"
            for name, value, legal, good in [
                ("k", self.k, "it must be at least 1", self.k == "auto" or self.k >= 1),
                ("expansion", self.expansion, "it must be at least 1", self.expansion == "auto" or self.expansion >= 1),
                ("steps", self.steps, "it must be at least 1", self.steps >= 1),
                ("batch_size", self.batch_size, "it must be at least 1", self.batch_size >= 1),
                ("learning_rate", rate, "it must be above 0", rate is None or 0 < rate < math.inf),
                ("warmup", self.warmup, "it must be from 0 to 1", 0 <= self.warmup <= 1),
                ("decay", self.decay, "it must be from 0 to 1", 0 <= self.decay <= 1),
                ("clip", self.clip, "it must be above 0", self.clip > 0),
                ("dead_after", self.dead_after, "it must be above 0", self.dead_after > 0),
                ("theta_tokens", self.theta_tokens, "it must be at least 1", self.theta_tokens >= 1),
                ("checkpoint_every", self.checkpoint_every, "it must be at least 1", self.checkpoint_every >= 1),
                (
                    "prefixes",
                    self.prefixes,
                    "they must rise from at least 1",
                    all(low < high for low, high in pairwise((0, *self.prefixes))),
                ),
            ]
            if not good
        ]
        if wrong:
            raise ValueError("settings of the fit: " + "; ".join(wrong))

    def size(self, d_in: int, n_tokens: int) -> "DictionarySize":
        """Size of the dictionary that these settings give.

        Args:
            d_in: width of the activations.
            n_tokens: at hand to fit it to.

        Raises:
            ValueError: k exceeds half of ``d_in``: codes would not be sparse, and any dictionary, an untrained one too,
                would reconstruct well.
        """
        k = max(MIN_K, round(d_in / CHANNELS_A_LATENT)) if self.k == "auto" else self.k
        if 2 * k > d_in:
            raise ValueError(
                f"k is {k}; it must be at most {d_in // 2}, half of the activation's {d_in} channels: of more, codes "
                "are not sparse and any dictionary reconstructs well. Give a smaller k, or open the network where it "
                "is wider"
            )
        expansion = self.expansion
        if expansion == "auto":
            fitting = [factor for factor in EXPANSIONS if n_tokens >= TOKENS_A_LATENT * factor * d_in]
            expansion = fitting[0] if fitting else EXPANSIONS[-1]
        return DictionarySize(k, expansion * d_in)

    def dead_tokens(self, n_tokens: int) -> int:
        """Tokens without firing after which a latent is dead: never more than a fit can count.

        A share of a store of which a fit sees a part may exceed all that it sees; no latent would ever be dead, and the
        auxiliary loss would never act.

        Args:
            n_tokens: of the training set.

        Returns:
            At least 1.
        """
        within = min(n_tokens, self.steps * min(self.batch_size, n_tokens))
        return max(1, min(math.ceil(self.dead_after * within), MAX_DEAD_TOKENS))

    def rate_at(self, step: int, n_latents: int) -> float:
        """The rate of step 0..steps-1: linear warm-up, constant, linear decay to 0."""
        base = 2e-4 * min(2.5, max(1.0, math.sqrt(6250 / self.steps)))
        peak = self.learning_rate
        if peak is None:
            peak = min(MAX_LEARNING_RATE, base / math.sqrt(n_latents / 2**14))
        rise = (step + 1) / max(self.warmup * self.steps, 1.0)
        fall = (self.steps - step) / max(self.decay * self.steps, 1.0)
        return peak * min(1.0, rise, fall)


@dataclass(frozen=True)
class DictionarySize:
    """Size of a dictionary.

    Attributes:
        k: average number of active latents a token.
        n_latents: m.
    """

    k: int
    n_latents: int


DEFAULT_FIT = FitSettings()
