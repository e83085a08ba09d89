"""Fit a dictionary to a store of activations."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.artifacts import canonical_json
from seglens.dictionaries.batch_topk import BatchTopK
from seglens.dictionaries.calibration import calibrate
from seglens.dictionaries.checkpoints import FitState, read_checkpoint, write_checkpoint
from seglens.dictionaries.fit_settings import DEFAULT_FIT, Auto, FitSettings
from seglens.dictionaries.gradients import Weights, backward, project_decoder_gradient
from seglens.dictionaries.matryoshka import PrefixErrors
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.dictionaries.token_source import TokenSource, check_source
from seglens.runtime.distributed import barrier, is_main_process, own_share, sum_over_ranks
from seglens.runtime.progress import Progress, silent
from seglens.runtime.resources import require_disk, require_memory
from seglens.runtime.signals import asked_to_stop, by_steps, stop_if_asked
from seglens.shapes import Tokens

__all__ = ["FitPlan", "FitSettings", "fit_dictionaries", "fit_dictionary"]

RECIPE = 3
"""Part of a checkpoint's identity: raise it when the same settings give another fit."""
OVERSHOOT = 4.0
"""While reconstructions are too long, what is active is pushed back and others have their turn. Measured on d_in 64, m
1024, k 16, 400 steps at the largest rate: with 1, 2, 3, 4 and all of it 57, 29, 9, 3 and 1% of the latents are dead,
and .84, .84, .83, .82 and .82 of the variance explained."""


def fit_dictionary(
    store: TokenSource,
    *,
    k: int | Auto | None = None,
    expansion: int | Auto | None = None,
    settings: FitSettings = DEFAULT_FIT,
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
        k: average number of active latents a token; None takes the settings', which is ``"auto"``.
        expansion: m / d_in; None takes the settings', which is ``"auto"``.
        settings: everything else.
        seed: of the weights.
        order_seed: of the token order; None takes ``seed``.
        device: where to compute.
        checkpoint: a folder for checkpoints; a fit that was stopped goes on from there to the same bits.
        progress: told the step, with ``loss``, ``explained_variance``, ``l0`` and ``dead``: the share of latents that
            fired on none of the latest `FitSettings.dead_tokens` tokens (of all so far, while these are fewer), each
            encoded before the step that learns from it, so that in the first epoch they are held out.

    Returns:
        The fitted dictionary, on the CPU.

    Raises:
        ValueError: k is not in 1..d_in/2, the store is empty or not finite, or the checkpoint is of another fit.
        FloatingPointError: the loss became NaN or infinite; the last good state is kept and named.
    """
    settings = replace(
        settings,
        k=settings.k if k is None else k,
        expansion=settings.expansion if expansion is None else expansion,
    )
    plan = FitPlan(store, settings, seed=seed, order_seed=order_seed, checkpoint=checkpoint)
    return fit_dictionaries([plan], device=device, progress=progress)[0]


@dataclass(frozen=True)
class FitPlan:
    """One of several dictionaries that are fitted together.

    Attributes:
        store: activations.
        settings: how to fit.
        seed: of the weights.
        order_seed: of the token order; None takes ``seed``.
        checkpoint: a folder for this fit's checkpoints.
        start: weights to begin with, of the store's width and ``expansion`` times as many latents; None draws them.
        constrain: changes the unit decoder rows in place after every step (`archetypal.Hull`). It may have a state that
            no checkpoint holds, so such a fit keeps none.
    """

    store: TokenSource
    settings: FitSettings = DEFAULT_FIT
    seed: int = 0
    order_seed: int | None = None
    checkpoint: Path | None = None
    start: SparseAutoencoder | None = None
    constrain: Callable[[Tensor], None] | None = None


def fit_dictionaries(
    plans: Sequence[FitPlan], *, device: torch.device | str = "cpu", progress: Progress = silent
) -> list[SparseAutoencoder]:
    """Fit several dictionaries; those that want the same batches share a pass over the activations.

    The same batches come from the same store, order seed and batch size; k, expansion, steps and weights may differ.
    Every dictionary is the one that `fit_dictionary` would give, bit for bit.

    Args:
        plans: what to fit.
        device: where to compute; all weights and optimisers of a shared pass are held there at once.
        progress: told the steps of all fits, with the figures of the latest.

    Returns:
        The dictionaries in the order of their plans, on the CPU.

    Raises:
        ValueError: as `fit_dictionary`, or a checkpoint folder beside a constraint, before anything is fitted.
        FloatingPointError: as `fit_dictionary`; the other fits' checkpoints stay.

    Example:
        >>> plans = [FitPlan(store, FitSettings(k=k, steps=10), order_seed=0) for k in (16, 32, 64)]
        >>> narrow, middle, wide = fit_dictionaries(plans)
    """
    for plan in plans:
        check_source(plan.store)
    _require_resources(plans, torch.device(device))
    fits = [_Fit(plan, device) for plan in plans]
    passes: dict[tuple[int | str, ...], list[_Fit]] = {}
    for fit in fits:
        passes.setdefault(fit.wants(), []).append(fit)
    total = sum(fit.settings.steps for fit in fits)
    for together in passes.values():
        with by_steps():
            for epoch, batch, tokens in together[0].batches():
                going = [fit for fit in together if fit.step < fit.settings.steps]
                if not going:
                    break
                x = together[0].normalised(tokens)
                for fit in going:
                    fit.epoch, fit.batch = epoch, batch
                    figures = fit.advance(x)
                    progress(sum(fit.step for fit in fits), total, **figures)
                if is_main_process() and asked_to_stop() is not None:  # the first ends the others
                    for fit in going:
                        fit.save()
                    stop_if_asked()
    return [fit.finished() for fit in fits]


def _require_resources(plans: Sequence[FitPlan], device: torch.device) -> None:
    """Refuse what does not fit: weights, their copy, gradients and two moments; a checkpoint beside the one before."""
    sizes = [(plan.settings.size(plan.store.d_in, plan.store.n_tokens).n_latents, plan.store.d_in) for plan in plans]
    weights = [8 * m * d_in for m, d_in in sizes]  # bytes of encoder and decoder
    m, d_in = max(sizes)
    wide = f"d_in {d_in} and expansion {m // d_in} (a smaller expansion takes less)"
    if device.type == "cpu":
        require_memory(5 * sum(weights), f"fitting {len(plans)} dictionaries of up to {wide}")
    for plan, n_bytes in zip(plans, weights, strict=True):
        if plan.checkpoint is not None and is_main_process():
            require_disk(plan.checkpoint, 2 * 3 * n_bytes, f"the checkpoints of a dictionary of {wide}")


class _Fit:
    """The state of a fit: weights, optimiser, where in the data, which latents have not fired."""

    def __init__(self, plan: FitPlan, device: torch.device | str):
        self.store = store = plan.store
        self.settings = settings = plan.settings
        self.constrain = plan.constrain
        self.through = PrefixErrors(settings.prefixes) if settings.prefixes else None
        if plan.constrain is not None and plan.checkpoint is not None:
            raise ValueError("a fit with a constraint keeps no checkpoints; leave the checkpoint folder out")
        self.order_seed = plan.seed if plan.order_seed is None else plan.order_seed
        size = settings.size(store.d_in, store.n_tokens)
        self.dictionary = dictionary = SparseAutoencoder(
            store.d_in,
            size.n_latents,
            k=size.k,
            seed=plan.seed,
            hookpoint=store.hookpoint,
            segmenter_hash=store.segmenter_hash,
            store_hash=store.hash,
        )
        if plan.start is not None:
            start, needed = tuple(plan.start.W_enc.shape), tuple(dictionary.W_enc.shape)
            if start != needed:
                raise ValueError(f"the start is {start} (d_in, m); this store and expansion need {needed}")
            dictionary.load_state_dict(plan.start.state_dict())
        dictionary.centre.copy_(store.centre)
        dictionary.scale.fill_(float(store.scale))
        dictionary.to(device)
        self.weights = Weights(
            encoder=dictionary.W_enc.detach().T.contiguous(),
            b_enc=dictionary.b_enc.detach().clone(),
            decoder=dictionary.W_dec.detach().clone(),
            b_dec=dictionary.b_dec.detach().clone(),
        )
        self.optimiser = torch.optim.Adam(list(self.weights), lr=1.0, fused=True)
        self.top = BatchTopK(size.k)
        self.unseen = torch.zeros(dictionary.n_latents, dtype=torch.int64, device=self.weights.encoder.device)
        self.dead_tokens = settings.dead_tokens(store.n_tokens)
        self.step = 0
        self.epoch = 0
        self.batch = 0
        self.identity = canonical_json(
            {
                "settings": asdict(settings),
                "seed": plan.seed,
                "order_seed": self.order_seed,
                "store": store.hash,
                "recipe": RECIPE,
            }
            | ({} if plan.start is None else {"start": plan.start.hash})
        )
        self.file = None if plan.checkpoint is None else plan.checkpoint / "fit.safetensors"
        if self.file is not None and self.file.is_file():
            self.restore(read_checkpoint(self.file, self.identity, device))

    @property
    def batch_size(self) -> int:
        """Tokens a step, over all processes."""
        return min(self.settings.batch_size, self.store.n_tokens)

    def wants(self) -> tuple[int | str, ...]:
        """Identity of the batches that come next."""
        return self.store.hash, self.order_seed, self.batch_size, self.epoch, self.batch

    def batches(self) -> Iterator[tuple[int, int, Tokens]]:
        """Epoch, number of the next batch, and tokens of all batches from where the fit stands, epoch after epoch."""
        epoch, done = self.epoch, self.batch
        while True:
            generator = torch.Generator().manual_seed((self.order_seed * 1_000_003 + epoch) % 2**63)
            left = self.store.random_batches(self.batch_size, generator, first=done)
            for number, tokens in enumerate(left, start=done + 1):
                yield epoch, number, tokens
            epoch, done = epoch + 1, 0

    def normalised(self, batch: Tokens) -> Float[Tensor, "n_own d_in"]:
        """This process's share of a batch as the weights see it."""
        return self.dictionary.normalise(batch[own_share(len(batch))].to(self.weights.encoder))

    def advance(self, x: Float[Tensor, "n d_in"]) -> dict[str, float]:
        """One step; a checkpoint where one is due."""
        figures = self._step(x)
        if self.step % self.settings.checkpoint_every == 0 or self.step == self.settings.steps:
            self.save()
        return figures

    def finished(self) -> SparseAutoencoder:
        """The dictionary with the fitted weights and its threshold, on the CPU."""
        dictionary = self.dictionary
        dictionary.W_enc.data.copy_(self.weights.encoder.T)
        dictionary.b_enc.data.copy_(self.weights.b_enc)
        dictionary.W_dec.data.copy_(self.weights.decoder)
        dictionary.b_dec.data.copy_(self.weights.b_dec)
        calibrate(dictionary, self.store, n_tokens=self.settings.theta_tokens, seed=self.order_seed + 1)
        return dictionary.to("cpu")

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

    def _step(self, x: Float[Tensor, "n d_in"]) -> dict[str, float]:
        settings, weights = self.settings, self.weights
        if self.step == 0:
            self._scale_encoder(x)
        codes = self.top.encode(x - weights.b_dec, weights.encoder, weights.b_enc)
        dead = (self.unseen >= self.dead_tokens).nonzero()[:, 0]
        result = backward(
            x,
            weights,
            codes,
            dead=dead,
            auxiliary_k=max(1, self.dictionary.d_in // 2),
            auxiliary_coefficient=settings.auxiliary_coefficient,
            through=self.through,
        )
        project_decoder_gradient(result.gradients.decoder, weights.decoder)
        norm = float(torch.stack(torch._foreach_norm(list(result.gradients))).norm())
        if not (math.isfinite(norm) and math.isfinite(result.loss)):
            self._stop(result.loss, norm)
        for parameter, gradient in zip(weights, result.gradients, strict=True):
            parameter.grad = gradient.mul_(min(1.0, settings.clip / self.dictionary.d_in / (norm + 1e-12)))
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate_at(self.step, self.dictionary.n_latents)
        self.optimiser.step()
        self.optimiser.zero_grad()  # the gradients' memory is for those of the next step
        weights.decoder.div_(weights.decoder.norm(dim=1, keepdim=True).clamp_min(1e-12))
        if self.constrain is not None:
            self.constrain(weights.decoder)
        n_seen = torch.tensor([len(x)], device=x.device)
        sum_over_ranks([n_seen])
        self.unseen += n_seen
        self.unseen[result.fired > 0] = 0
        self.step += 1
        return {
            "loss": result.loss,
            "explained_variance": 1 - result.loss,
            "dead": float((self.unseen >= min(self.dead_tokens, self._n_seen())).float().mean()),
            "l0": float(result.fired.sum()) / max(int(n_seen), 1),
        }

    def _n_seen(self) -> int:
        """Tokens of all steps so far, over all processes."""
        return self.epoch * self.store.n_tokens + min(self.batch * self.batch_size, self.store.n_tokens)

    def _scale_encoder(self, x: Float[Tensor, "n d_in"]) -> None:
        """Shrink the encoder so that the first reconstruction is `OVERSHOOT` times too long, if it is longer.

        k correlated random rows overshoot by several times; undoing all of that would take a short fit half its steps.
        One number for all latents: directions, and so the cosine floor of two untrained dictionaries, stay as drawn.
        """
        codes = BatchTopK(self.dictionary.k).encode(x, self.weights.encoder, self.weights.b_enc)
        trial = self.dictionary.decode_difference(codes) * self.dictionary.scale
        sums = torch.stack([(trial * x).sum(), trial.square().sum()])
        sum_over_ranks([sums])
        if bool(sums.isfinite().all()) and bool((sums > 0).all()):
            self.weights.encoder.mul_((OVERSHOOT * sums[0] / sums[1]).clamp_max(1.0))

    def save(self) -> None:
        """Write a checkpoint, where there is a place for it."""
        if self.file is None or not is_main_process():
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
        write_checkpoint(self.file, state, self.identity)

    def _stop(self, loss: float, norm: float) -> NoReturn:
        self.batch -= 1  # the batch that failed has not been used
        if self.step:
            self.save()
        barrier()
        kept = "give a checkpoint folder to keep it" if self.file is None else f"it is kept in {self.file}"
        good = f"the last good state is after step {self.step}, {kept}" if self.step else "no step was done before"
        raise FloatingPointError(
            f"step {self.step + 1} of {self.settings.steps}: loss {loss}, gradient norm {norm}; {good}. "
            "Look for non-finite activations in the store, or lower learning_rate"
        )
