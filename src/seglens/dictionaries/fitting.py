"""Fit a dictionary to a store of activations."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seglens.artifacts import canonical_json
from seglens.dictionaries.batch_topk import BatchTopK
from seglens.dictionaries.checkpoints import FitState, read_checkpoint, write_checkpoint
from seglens.dictionaries.gradients import Weights, backward, project_decoder_gradient
from seglens.dictionaries.sae import CHUNK_ELEMENTS, SparseAutoencoder
from seglens.processes import own_share, rank_and_size, sum_over_ranks
from seglens.progress import Progress, silent
from seglens.shapes import Tokens

LARGEST_LR = 2e-3
"""Measured on d_in 64, m 1024, 400 steps: 4e-3 gains 0.2 to 3 points of explained variance and kills 5 to 10 times as
many latents."""


@runtime_checkable
class TokenSource(Protocol):
    """What a fit needs of a store of activations (an ActivationStore is one)."""

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

    def random_batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tokens]:
        """All tokens once, in random order."""


@dataclass(frozen=True)
class FitSettings:
    """How a dictionary is fitted.

    Attributes:
        k: average number of active latents a token.
        expansion: m / d_in.
        steps: optimiser steps.
        batch_size: tokens a step, over all processes.
        lr: peak learning rate; None: ``LR / sqrt(m / 2^14)`` with LR = 5e-4 up to 1000 steps, falling to the 2e-4 of
            long runs at 6250 steps and beyond (a short run must move further a step), and never above 2e-3.
        warmup: share of the steps over which the rate rises to its peak.
        decay: share of the steps, at the end, over which it falls to 0.
        clip: largest norm of the gradient.
        auxiliary_coefficient: weight of the auxiliary loss for dead latents.
        dead_after: a latent is dead when this share of the training set has been seen since it fired.
        theta_tokens: tokens of the calibration pass, at most.
        checkpoint_every: steps between checkpoints.
    """

    k: int = 32
    expansion: int = 16
    steps: int = 1000
    batch_size: int = 4096
    lr: float | None = None
    warmup: float = 0.05
    decay: float = 0.2
    clip: float = 1.0
    auxiliary_coefficient: float = 1 / 32
    dead_after: float = 0.25
    theta_tokens: int = 200_000
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Refuse what cannot work, all at once."""
        wrong = [
            f"{name} is {value}; {legal}"
            for name, value, legal, good in [
                ("k", self.k, "it must be at least 1", self.k >= 1),
                ("expansion", self.expansion, "it must be at least 1", self.expansion >= 1),
                ("steps", self.steps, "it must be at least 1", self.steps >= 1),
                ("batch_size", self.batch_size, "it must be at least 1", self.batch_size >= 1),
                ("lr", self.lr, "it must be above 0", self.lr is None or 0 < self.lr < math.inf),
                ("warmup", self.warmup, "it must be from 0 to 1", 0 <= self.warmup <= 1),
                ("decay", self.decay, "it must be from 0 to 1", 0 <= self.decay <= 1),
                ("clip", self.clip, "it must be above 0", self.clip > 0),
                ("dead_after", self.dead_after, "it must be above 0", self.dead_after > 0),
                ("theta_tokens", self.theta_tokens, "it must be at least 1", self.theta_tokens >= 1),
                ("checkpoint_every", self.checkpoint_every, "it must be at least 1", self.checkpoint_every >= 1),
            ]
            if not good
        ]
        if wrong:
            raise ValueError("settings of the fit: " + "; ".join(wrong))

    def learning_rate(self, step: int, n_latents: int) -> float:
        """The rate of step 0..steps-1: linear warm-up, constant, linear decay to 0."""
        base = 2e-4 * min(2.5, max(1.0, math.sqrt(6250 / self.steps)))
        peak = self.lr if self.lr is not None else min(LARGEST_LR, base / math.sqrt(n_latents / 2**14))
        rise = (step + 1) / max(self.warmup * self.steps, 1.0)
        fall = (self.steps - step) / max(self.decay * self.steps, 1.0)
        return peak * min(1.0, rise, fall)


def fit_dictionary(
    store: TokenSource,
    *,
    k: int | None = None,
    expansion: int | None = None,
    settings: FitSettings = FitSettings(),
    seed: int = 0,
    order_seed: int | None = None,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> SparseAutoencoder:
    """Fit a BatchTopK sparse autoencoder (arXiv 2412.06410) and calibrate its threshold.

    Under torch.distributed each process takes its share of every batch; k holds over the global batch, and the result
    is that of one process but for rounding.

    Args:
        store: activations; centred and scaled by its own ``centre`` and ``scale``.
        k: average number of active latents a token; None takes the settings' (32).
        expansion: m / d_in; None takes the settings' (16).
        settings: everything else.
        seed: of the weights.
        order_seed: of the token order; None takes ``seed``.
        device: where to compute.
        checkpoint: a folder for checkpoints; a fit that was stopped goes on from there to the same bits.
        progress: told the step, with ``loss``, ``explained_variance``, ``dead`` and ``l0``.

    Returns:
        The fitted dictionary, on the CPU.

    Raises:
        ValueError: k is not in 1..m, the store is empty or not finite, or the checkpoint is of another fit.
        FloatingPointError: the loss became NaN or infinite; the last good state is kept and named.
    """
    settings = replace(
        settings,
        k=settings.k if k is None else k,
        expansion=settings.expansion if expansion is None else expansion,
    )
    order_seed = seed if order_seed is None else order_seed
    _check_store(store)
    dictionary = SparseAutoencoder(
        store.d_in,
        settings.expansion * store.d_in,
        k=settings.k,
        seed=seed,
        hookpoint=store.hookpoint,
        segmenter_hash=store.segmenter_hash,
        store_hash=store.hash,
    )
    dictionary.centre.copy_(store.centre)
    dictionary.scale.fill_(float(store.scale))
    dictionary.to(device)
    identity = canonical_json(
        {"settings": asdict(settings), "seed": seed, "order_seed": order_seed, "store": store.hash}
    )
    fit = _Fit(dictionary, store, settings, order_seed)
    file = None if checkpoint is None else checkpoint / "fit.safetensors"
    if file is not None and file.is_file():
        fit.restore(read_checkpoint(file, identity, device))
    fit.run(file, identity, progress)
    fit.finish()
    calibrate(dictionary, store, n_tokens=settings.theta_tokens, seed=order_seed + 1)
    return dictionary.to("cpu")


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
    # the largest wanted + 1 so far; the bound rises with the share of the tokens seen, so memory stays near 2 * wanted
    held = torch.zeros(0, device=device)
    bound = 0.0
    for start in range(0, len(rows), chunk):
        tokens = store.tokens(rows[start : start + chunk]).to(device)
        pre = torch.addmm(offset, dictionary.normalise(tokens.to(offset.dtype)), dictionary.W_enc)
        held = torch.cat([held, pre[pre > bound]])
        if len(held) > 2 * wanted + 1:
            held = held.topk(wanted + 1, sorted=False).values
            bound = float(held.min())
    if len(held) <= wanted:
        dictionary.theta.fill_(0.0)
        return
    last_two = held.topk(wanted + 1).values[-2:]
    dictionary.theta.copy_(last_two.mean())


def _check_store(store: TokenSource) -> None:
    if store.n_tokens < 1:
        raise ValueError(f"the store of {store.hookpoint!r} has no tokens; extract at least one slice")
    if not (bool(torch.isfinite(store.centre).all()) and math.isfinite(store.scale) and store.scale > 0):
        raise ValueError(
            f"the store of {store.hookpoint!r} has scale {store.scale} and a centre with "
            f"{int((~torch.isfinite(store.centre)).sum())} non-finite channels; activations must vary and be finite"
        )


class _Fit:
    """The state of a fit: weights, optimiser, where in the data, which latents have not fired."""

    def __init__(self, dictionary: SparseAutoencoder, store: TokenSource, settings: FitSettings, order_seed: int):
        self.dictionary = dictionary
        self.store = store
        self.settings = settings
        self.order_seed = order_seed
        self.weights = Weights(
            encoder=dictionary.W_enc.detach().T.contiguous(),
            b_enc=dictionary.b_enc.detach().clone(),
            decoder=dictionary.W_dec.detach().clone(),
            b_dec=dictionary.b_dec.detach().clone(),
        )
        self.optimiser = torch.optim.Adam(list(self.weights), lr=1.0, fused=True)
        self.top = BatchTopK(settings.k)
        self.unseen = torch.zeros(dictionary.n_latents, dtype=torch.int64, device=self.weights.encoder.device)
        self.step = 0
        self.epoch = 0
        self.batch = 0

    def run(self, file: Path | None, identity: str, progress: Progress) -> None:
        """Train to the last step, writing checkpoints."""
        settings = self.settings
        for batch in self._batches():
            if self.step >= settings.steps:
                break
            figures = self._advance(batch, file, identity)
            progress(self.step, settings.steps, **figures)
            if file is not None and (self.step % settings.checkpoint_every == 0 or self.step == settings.steps):
                self._save(file, identity)

    def finish(self) -> None:
        """Put the weights into the dictionary."""
        self.dictionary.W_enc.data.copy_(self.weights.encoder.T)
        self.dictionary.b_enc.data.copy_(self.weights.b_enc)
        self.dictionary.W_dec.data.copy_(self.weights.decoder)
        self.dictionary.b_dec.data.copy_(self.weights.b_dec)

    def restore(self, state: FitState) -> None:
        """Go back to a checkpoint."""
        for own, saved in zip(self.weights, state.weights, strict=True):
            own.copy_(saved)
        for own, first, second in zip(self.weights, state.first_moments, state.second_moments, strict=True):
            self.optimiser.state[own] = {
                "step": torch.tensor(float(state.step), device=own.device),
                "exp_avg": first.clone(),
                "exp_avg_sq": second.clone(),
            }
        self.unseen.copy_(state.unseen)
        self.step, self.epoch, self.batch = state.step, state.epoch, state.batch
        self.top.threshold = state.threshold

    def _batches(self) -> Iterator[Tensor]:
        """This process's share of each batch from where the fit stands, epoch after epoch."""
        size = min(self.settings.batch_size, self.store.n_tokens)
        while True:
            generator = torch.Generator().manual_seed((self.order_seed * 1_000_003 + self.epoch) % 2**63)
            skip = self.batch
            for number, tokens in enumerate(self.store.random_batches(size, generator)):
                if number < skip:
                    continue
                self.batch = number + 1
                yield self.dictionary.normalise(tokens[own_share(len(tokens))].to(self.weights.encoder))
            self.epoch, self.batch = self.epoch + 1, 0

    def _advance(self, x: Float[Tensor, "n d_in"], file: Path | None, identity: str) -> dict[str, float]:
        settings, weights = self.settings, self.weights
        if self.step == 0:
            self._scale_encoder(x)
        codes = self.top.encode(x - weights.b_dec, weights.encoder, weights.b_enc)
        dead = (self.unseen >= settings.dead_after * self.store.n_tokens).nonzero()[:, 0]
        result = backward(
            x,
            weights,
            codes,
            dead=dead,
            auxiliary_k=max(1, self.dictionary.d_in // 2),
            auxiliary_coefficient=settings.auxiliary_coefficient,
        )
        project_decoder_gradient(result.gradients.decoder, weights.decoder)
        norm = float(torch.stack(torch._foreach_norm(list(result.gradients))).norm())
        if not (math.isfinite(norm) and math.isfinite(result.loss)):
            self._stop(result.loss, norm, file, identity)
        for parameter, gradient in zip(weights, result.gradients, strict=True):
            parameter.grad = gradient.mul_(min(1.0, settings.clip / (norm + 1e-12)))
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate(self.step, self.dictionary.n_latents)
        self.optimiser.step()
        weights.decoder.div_(weights.decoder.norm(dim=1, keepdim=True).clamp_min(1e-12))
        n_seen = torch.tensor([len(x)], device=x.device)
        sum_over_ranks([n_seen])
        self.unseen += n_seen
        self.unseen[result.fired > 0] = 0
        self.step += 1
        return {
            "loss": result.loss,
            "explained_variance": 1 - result.loss,
            "dead": len(dead) / self.dictionary.n_latents,
            "l0": float(result.fired.sum()) / max(int(n_seen), 1),
        }

    def _scale_encoder(self, x: Float[Tensor, "n d_in"]) -> None:
        """Shrink the encoder so that the first reconstruction has the best length.

        k correlated random rows overshoot by several times; undoing that would take a short fit half its steps. One
        number for all latents: directions, and so the cosine floor of two untrained dictionaries, stay as drawn.
        """
        codes = BatchTopK(self.settings.k).encode(x, self.weights.encoder, self.weights.b_enc)
        trial = self.dictionary.decode_difference(codes) * self.dictionary.scale
        sums = torch.stack([(trial * x).sum(), trial.square().sum()])
        sum_over_ranks([sums])
        if bool(sums.isfinite().all()) and bool((sums > 0).all()):
            self.weights.encoder.mul_(sums[0] / sums[1])

    def _save(self, file: Path, identity: str) -> None:
        if rank_and_size()[0] != 0:
            return
        moments = [self.optimiser.state[parameter] for parameter in self.weights]
        zero = [{"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)} for p in self.weights]
        state = FitState(
            weights=self.weights,
            first_moments=Weights(*((m or z)["exp_avg"] for m, z in zip(moments, zero, strict=True))),
            second_moments=Weights(*((m or z)["exp_avg_sq"] for m, z in zip(moments, zero, strict=True))),
            unseen=self.unseen,
            step=self.step,
            epoch=self.epoch,
            batch=self.batch,
            threshold=self.top.threshold,
        )
        write_checkpoint(file, state, identity)

    def _stop(self, loss: float, norm: float, file: Path | None, identity: str) -> NoReturn:
        self.batch -= 1  # the batch that failed has not been used
        if file is not None:
            self._save(file, identity)
        kept = "give a checkpoint folder to keep it" if file is None else f"it is kept in {file}"
        raise FloatingPointError(
            f"step {self.step + 1} of {self.settings.steps}: loss {loss}, gradient norm {norm}; the last good state is "
            f"after step {self.step}, {kept}. Look for non-finite activations in the store, or lower lr"
        )
