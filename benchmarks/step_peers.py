"""One training step as other libraries do it: forward, loss, backward and optimiser on one batch.

Each is called as its own training loop calls it, at the same k, batch size and precision (fp32), with Adam. Where a
case has dead latents, their encoder biases are far below zero, the library's own counters say that they are dead, and
its own auxiliary loss is on. Imported in the peers' environments: torch is there, seglens is not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

from benchmarks.framework import Repeat, Subject, Unavailable

if TYPE_CHECKING:
    from torch import Tensor

CASES: dict[str, dict[str, Any]] = {
    "d320 m5120": {"d_in": 320, "m": 5120, "batch": 4096, "k": 32, "dead": 0.0},
    "d160 m2560": {"d_in": 160, "m": 2560, "batch": 4096, "k": 32, "dead": 0.0},
    "d320 m5120 10% dead": {"d_in": 320, "m": 5120, "batch": 4096, "k": 32, "dead": 0.1},
}
LR = 2e-4
AUXILIARY = 1 / 32
WARM_UP_STEPS = 2
FAR_BELOW = -1e3
"""Encoder bias of a latent that shall never fire."""
LONG_AGO = 10_000_000
"""Tokens without firing after which dictionary-learning, sparsify and saev call a latent dead by themselves."""
MID_TRAINING = 2000
"""Past every library's warm-up and first-step initialisation."""


def tokens(d_in: int, n: int, *, seed: int = 0, active: int = 8, noise: float = 0.1) -> Tensor:
    """Activations [n d_in]: sparse mixtures of 4 d_in random directions with noise, centred, E||x||^2 = d_in."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(4 * d_in, d_in, generator=torch.Generator().manual_seed(1_000_003))
    directions /= directions.norm(dim=1, keepdim=True)
    used = torch.randint(len(directions), (n, active), generator=generator)
    amounts = torch.empty(n, active).exponential_(generator=generator)
    x = torch.nn.functional.embedding_bag(used, directions, per_sample_weights=amounts, mode="sum")
    x += noise * torch.randn(n, d_in, generator=generator)
    x -= x.mean(0)
    return x * (d_in / x.square().sum(1).mean()).sqrt()


def batches(case: Mapping[str, Any]) -> Callable[[], Tensor]:
    """Gives the next of two batches, over and over."""
    both = cycle([tokens(case["d_in"], case["batch"], seed=seed) for seed in (0, 1)])
    return lambda: next(both)


def n_dead(case: Mapping[str, Any]) -> int:
    """How many latents of the case, the first ones, are dead."""
    return round(case["dead"] * case["m"])


def warmed(step: Repeat) -> Repeat:
    """The step after a few that fill the optimiser's state."""
    for _ in range(WARM_UP_STEPS):
        step()
    return step


def dictionary_learning(case: Mapping[str, Any]) -> Repeat:
    """dictionary-learning: its BatchTopKTrainer."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=10 * MID_TRAINING,
        activation_dim=case["d_in"],
        dict_size=case["m"],
        k=case["k"],
        layer=0,
        lm_name="",
        lr=LR,
        auxk_alpha=AUXILIARY,
        seed=0,
        device="cpu",
    )
    trainer.ae.encoder.bias.data[: n_dead(case)] = FAR_BELOW
    trainer.num_tokens_since_fired[: n_dead(case)] = LONG_AGO
    batch = batches(case)
    return warmed(lambda: trainer.update(MID_TRAINING, batch()))


def sae_lens(case: Mapping[str, Any]) -> Repeat:
    """sae-lens: its SAETrainer on a BatchTopKTrainingSAE."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=case["d_in"], d_sae=case["m"], k=case["k"]))
    batch = batches(case)
    settings = SAETrainerConfig(
        total_training_samples=10 * MID_TRAINING * case["batch"],
        train_batch_size_samples=case["batch"],
        lr=LR,
        lr_end=LR,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(settings, sae, data_provider=iter(batch, None))
    sae.b_enc.data[: n_dead(case)] = FAR_BELOW
    trainer.n_forward_passes_since_fired[: n_dead(case)] = LONG_AGO

    def step() -> None:
        trainer.step(batch())
        trainer.n_training_steps += 1

    return warmed(step)


def overcomplete(case: Mapping[str, Any]) -> Repeat:
    """overcomplete: its train_sae on a BatchTopKSAE, one batch an epoch, no monitoring.

    It has no dead latents: its auxiliary loss is for the larger half of what was not chosen.
    """
    import torch
    from overcomplete.sae import BatchTopKSAE, train_sae
    from overcomplete.sae.losses import mse_l1, top_k_auxiliary_loss

    model = BatchTopKSAE(case["d_in"], case["m"], top_k=case["k"] * case["batch"])
    optimiser = torch.optim.Adam(model.parameters(), lr=LR)
    with_auxiliary = n_dead(case) > 0

    def loss(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
        if with_auxiliary:
            return top_k_auxiliary_loss(x, x_hat, pre_codes, codes, dictionary, penalty=AUXILIARY)
        return mse_l1(x, x_hat, pre_codes, codes, dictionary, penalty=0.0)

    batch = batches(case)
    return warmed(lambda: train_sae(model, [batch()], loss, optimiser, nb_epochs=1, clip_grad=1.0, monitoring=0))


def sparsify(case: Mapping[str, Any]) -> Repeat:
    """eai-sparsify: TopK per token, not BatchTopK. Its Trainer wants a language model; this is that trainer's step."""
    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(case["d_in"], SparseCoderConfig(num_latents=case["m"], k=case["k"]), dtype=torch.float32)
    optimiser = torch.optim.Adam(coder.parameters(), lr=LR)
    since_fired = torch.zeros(case["m"], dtype=torch.long)
    coder.encoder.bias.data[: n_dead(case)] = FAR_BELOW
    since_fired[: n_dead(case)] = LONG_AGO + 1
    alpha = AUXILIARY if n_dead(case) else 0.0
    batch = batches(case)

    def step() -> None:
        x = batch()
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, dead_mask=since_fired > LONG_AGO if alpha else None)
        (out.fvu + alpha * out.auxk_loss).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()
        optimiser.zero_grad()
        fired = torch.zeros(case["m"], dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        since_fired.add_(len(x))
        since_fired[fired] = 0
        since_fired[: n_dead(case)] = LONG_AGO + 1  # of a token's k largest some may be zeros: those have not fired

    return warmed(step)


def saev(case: Mapping[str, Any]) -> Repeat:
    """saev: its training loop's step, with its Matryoshka objective at one prefix, which is the plain one."""
    import torch
    from saev import nn

    activation = nn.modeling.BatchTopK(top_k=case["k"], aux=nn.modeling.AuxK(k_aux=case["d_in"] // 2, alpha=AUXILIARY))
    sae = nn.SparseAutoencoder(nn.SparseAutoencoderConfig(d_model=case["d_in"], d_sae=case["m"], activation=activation))
    objective = nn.get_objective(nn.objectives.Matryoshka(n_prefixes=1))
    objective.toks_since_active = torch.zeros(case["m"], dtype=torch.int64)
    sae.b_enc.data[: n_dead(case)] = FAR_BELOW
    objective.toks_since_active[: n_dead(case)] = LONG_AGO
    optimiser = torch.optim.Adam(sae.parameters(), lr=LR, fused=True)
    sae.train()
    objective.train()
    batch = batches(case)

    def step() -> None:
        sae.normalize_w_dec()
        loss, _ = objective(sae, batch())
        loss.loss.backward()
        sae.remove_parallel_grads()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), max_norm=1.0)
        optimiser.step()
        optimiser.zero_grad()

    return warmed(step)


def dense_autograd(case: Mapping[str, Any], *, compiled: bool = False) -> Repeat:
    """What one would write first: dense arrays, torch's own gradients."""
    import torch

    d_in, m, k = case["d_in"], case["m"], case["k"]
    decoder = torch.randn(m, d_in, generator=torch.Generator().manual_seed(0))
    decoder /= decoder.norm(dim=1, keepdim=True)
    b_enc = torch.zeros(m)
    b_enc[: n_dead(case)] = FAR_BELOW
    W_enc, b_enc, W_dec, b_dec = (
        torch.nn.Parameter(start) for start in (decoder.T.contiguous(), b_enc, decoder, torch.zeros(d_in))
    )
    dead = torch.zeros(m, dtype=torch.bool)
    dead[: n_dead(case)] = True
    auxiliary_k = min(d_in // 2, n_dead(case))

    def loss_of(x: Tensor) -> Tensor:
        pre = torch.relu((x - b_dec) @ W_enc + b_enc)
        flat = pre.flatten()
        top = flat.topk(k * len(x), sorted=False)
        z = torch.zeros_like(flat).scatter(0, top.indices, top.values).view_as(pre)
        error = z @ W_dec + b_dec - x
        loss = error.square().mean()
        if auxiliary_k:
            largest = torch.where(dead, pre, -torch.inf).topk(auxiliary_k, dim=1, sorted=False)
            z = torch.zeros_like(pre).scatter(1, largest.indices, largest.values)
            target = error.detach()
            loss = loss + AUXILIARY * (z @ W_dec + target).square().sum() / target.square().sum()
        return loss

    weights = [W_enc, b_enc, W_dec, b_dec]
    optimiser = torch.optim.Adam(weights, lr=LR, fused=True)
    forward = torch.compile(loss_of) if compiled else loss_of
    batch = batches(case)

    def step() -> None:
        forward(batch()).backward()
        with torch.no_grad():
            W_dec.grad.addcmul_((W_dec.grad * W_dec).sum(1, keepdim=True), W_dec, value=-1)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))

    return warmed(step)


def compiled_autograd(case: Mapping[str, Any]) -> Repeat:
    """The same through torch.compile."""
    import torch

    try:
        return dense_autograd(case, compiled=True)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        raise Unavailable(f"torch.compile does not work here: {str(error).splitlines()[0]}") from None


def load_torchvision() -> None:
    """Import torchvision even where its compiled part was built for another torch.

    Some peers import it, none of these steps calls it. Next to a CPU build of torch, PyPI's torchvision stops at import
    for want of two operators of its compiled part; here they are declared instead.
    """
    import torch

    try:
        import torchvision
    except ImportError:
        return
    except RuntimeError:
        declared = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        _KEPT.append(declared)  # what it declared would go with it


_KEPT: list[object] = []


def load_dictionary_learning() -> None:
    """Its libraries."""
    load_torchvision()
    import dictionary_learning.trainers.batch_top_k  # noqa: F401


def load_sae_lens() -> None:
    """Its libraries."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import sae_lens  # noqa: F401


def load_overcomplete() -> None:
    """Its libraries."""
    load_torchvision()
    import overcomplete.sae  # noqa: F401


def load_sparsify() -> None:
    """Its libraries."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import sparsify  # noqa: F401


def load_saev() -> None:
    """Its libraries."""
    import saev.nn  # noqa: F401


def load_compiler() -> None:
    """What torch.compile imports when it is first used."""
    import torch._inductor.compile_fx  # noqa: F401


PEERS = (
    Subject("dictionary-learning", "peer", dictionary_learning, "dictionary-learning", load=load_dictionary_learning),
    Subject("sae-lens", "peer", sae_lens, "sae-lens", load=load_sae_lens),
    Subject("overcomplete", "peer", overcomplete, "overcomplete", load=load_overcomplete),
    Subject("saev", "peer", saev, "saev", load=load_saev),
    Subject("eai-sparsify (TopK, not BatchTopK)", "other", sparsify, "eai-sparsify", load=load_sparsify),
    Subject("dense autograd", "peer", dense_autograd),
    Subject("dense autograd, torch.compile", "peer", compiled_autograd, load=load_compiler),
)
"""For `benchmarks.step`."""
