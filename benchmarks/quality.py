"""Is a dictionary that is fitted fast as good? seglens beside dictionary-learning, on generated activations.

    python -m benchmarks.quality [--json FILE] [--markdown FILE.md]

Same tokens, steps, batch size, k, learning rate and its course, gradient clip and auxiliary coefficient; both are
judged by the same code, on tokens that neither has seen.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.framework import Unavailable
from benchmarks.step_peers import AUXILIARY, load_torchvision, tokens

if TYPE_CHECKING:
    from torch import Tensor

D_IN, M, K, STEPS, BATCH = 64, 1024, 16, 400, 1024
N_TOKENS, HELD_OUT = 100_000, 20_000
WARM_UP, DECAY, DEAD_AFTER = 0.05, 0.2, 0.25
RATES = (8e-4, 2e-3)
"""dictionary-learning's own choice for 1024 latents, and seglens' for so short a fit."""
SEEDS = (0, 1)
ALLOWED = 0.005
"""How far the explained variance may lie below dictionary-learning's."""


@dataclass(frozen=True)
class Weights:
    """A fitted dictionary in the names of the field: W_enc [d_in m], b_enc [m], W_dec [m d_in], b_dec [d_in]."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor


@dataclass(frozen=True)
class Quality:
    """Of one fit, on held-out tokens: explained variance, and the share of latents that fire at none of them."""

    subject: str
    learning_rate: float
    seed: int
    explained_variance: float
    dead: float


@dataclass(frozen=True)
class TokensInMemory:
    """A source of tokens as `seglens.fit_dictionary` wants it."""

    all_tokens: Tensor
    hookpoint: str = "generated"
    segmenter_hash: str = "none"
    hash: str = "generated"
    d_in: int = D_IN
    n_tokens: int = N_TOKENS
    scale: float = 1.0

    @property
    def centre(self) -> Tensor:
        """They are centred."""
        return self.all_tokens.new_zeros(self.d_in)

    def tokens(self, rows: Tensor) -> Tensor:
        """The tokens of these rows."""
        return self.all_tokens[rows]

    def random_batches(self, batch_size: int, generator: object, *, first: int = 0) -> Iterator[Tensor]:
        """All tokens once; in the order in which they were drawn, which is random and the same for every subject."""
        return iter(self.all_tokens.split(batch_size)[first:])


def fit_ours(x: Tensor, learning_rate: float, seed: int) -> Weights:
    """seglens."""
    from seglens.dictionaries.fitting import FitSettings, fit_dictionary

    settings = FitSettings(
        k=K, expansion=M // D_IN, steps=STEPS, batch_size=BATCH, learning_rate=learning_rate, warmup=WARM_UP,
        decay=DECAY, clip=1.0, auxiliary_coefficient=AUXILIARY, dead_after=DEAD_AFTER,
    )  # fmt: skip
    fitted = fit_dictionary(TokensInMemory(x), settings=settings, seed=seed)
    return Weights(fitted.W_enc, fitted.b_enc, fitted.W_dec, fitted.b_dec)


def fit_dictionary_learning(x: Tensor, learning_rate: float, seed: int) -> Weights:
    """dictionary-learning as it comes: a latent is dead after ten million tokens, more than there are."""
    return _fit_dictionary_learning(x, learning_rate, seed, dead_after=None)


def fit_with_auxiliary(x: Tensor, learning_rate: float, seed: int) -> Weights:
    """dictionary-learning with the auxiliary loss beginning as early as in seglens."""
    return _fit_dictionary_learning(x, learning_rate, seed, dead_after=round(DEAD_AFTER * N_TOKENS))


def _fit_dictionary_learning(x: Tensor, learning_rate: float, seed: int, *, dead_after: int | None) -> Weights:
    load_torchvision()
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=STEPS,
        activation_dim=D_IN,
        dict_size=M,
        k=K,
        layer=0,
        lm_name="",
        lr=learning_rate,
        auxk_alpha=AUXILIARY,
        warmup_steps=round(WARM_UP * STEPS),
        decay_start=round((1 - DECAY) * STEPS),
        seed=seed,
        device="cpu",
    )
    if dead_after is not None:
        trainer.dead_feature_threshold = dead_after
    parts = x.split(BATCH)
    for step in range(STEPS):
        trainer.update(step, parts[step % len(parts)])
    ae = trainer.ae
    return Weights(ae.encoder.weight.data.T, ae.encoder.bias.data, ae.decoder.weight.data.T, ae.b_dec.data)


SUBJECTS: dict[str, tuple[str, Callable[[Tensor, float, int], Weights]]] = {
    "seglens": ("own", fit_ours),
    "dictionary-learning": ("dictionary-learning", fit_dictionary_learning),
    "dictionary-learning, latents dead as early as ours": ("dictionary-learning", fit_with_auxiliary),
}
"""Name -> its environment, and how it fits."""


def judge(weights: Weights, x: Tensor) -> tuple[float, float]:
    """Explained variance and share of dead latents with BatchTopK over all of these tokens."""
    import torch

    pre = torch.relu((x - weights.b_dec) @ weights.W_enc + weights.b_enc)
    kth = pre.flatten().kthvalue(pre.numel() - K * len(x) + 1).values
    z = pre * (pre >= kth)
    error = x - z @ weights.W_dec - weights.b_dec
    explained = 1 - error.square().sum() / (x - x.mean(0)).square().sum()
    return float(explained), float(((z > 0).sum(0) == 0).float().mean())


def worker(subject: str) -> list[Quality]:
    """All fits of one subject, in the process of its environment."""
    import torch

    x, held_out = tokens(D_IN, N_TOKENS, seed=0), tokens(D_IN, HELD_OUT, seed=1)
    found = []
    for learning_rate in RATES:
        for seed in SEEDS:
            weights = SUBJECTS[subject][1](x, learning_rate, seed)
            with torch.no_grad():
                found.append(Quality(subject, learning_rate, seed, *judge(weights, held_out)))
    return found


def measure(subject: str) -> list[Quality]:
    """All fits of one subject, in a process of their own.

    Raises:
        Unavailable: its environment cannot be made here.
    """
    from benchmarks.environments import PROJECT, python_of
    from benchmarks.runner import variables

    python = python_of(SUBJECTS[subject][0])
    done = subprocess.run(
        [python, "-m", "benchmarks.quality", "--worker", subject],
        cwd=PROJECT,
        env=variables(python, threads=1),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [Quality(**one) for one in json.loads(done.stdout.splitlines()[-1])]


def verdicts(found: Sequence[Quality]) -> list[str]:
    """Per learning rate: is seglens' mean within what is allowed of the better of the others, and not more dead?"""

    def mean(subject: str, learning_rate: float, what: str) -> float:
        values = [getattr(one, what) for one in found if (one.subject, one.learning_rate) == (subject, learning_rate)]
        return sum(values) / len(values)

    ours, *others = dict.fromkeys(one.subject for one in found)
    lines = []
    for rate in dict.fromkeys(one.learning_rate for one in found) if others else []:
        behind = max(mean(name, rate, "explained_variance") for name in others) - mean(ours, rate, "explained_variance")
        more_dead = mean(ours, rate, "dead") - min(mean(name, rate, "dead") for name in others)
        good = behind <= ALLOWED and more_dead <= 0
        lines.append(
            f"learning rate {rate:g}: {'met' if good else 'MISSED'}: explained variance {-behind:+.4f} beside "
            f"the better of the others (at least {-ALLOWED:+.3f} is wanted), dead latents "
            f"{more_dead:+.4f} (at most 0 is wanted)"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, judge, print, and write what is asked for."""
    from dataclasses import asdict

    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--worker", choices=list(SUBJECTS), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the fits")
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="put the table between the page's markers")
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps([asdict(one) for one in worker(options.worker)]))
        return 0
    from benchmarks.table import aligned, piped, update_page

    found: list[Quality] = []
    notes: list[str] = []
    for subject in SUBJECTS:
        try:
            found += measure(subject)
        except Unavailable as error:
            notes.append(f"left out: {subject}: {error}")
    notes += verdicts(found)
    cells = [("subject", "learning rate", "seed", "explained variance", "dead latents")]
    cells += [
        (one.subject, f"{one.learning_rate:g}", str(one.seed), f"{one.explained_variance:.4f}", f"{one.dead:.4f}")
        for one in found
    ]
    print("\n".join([aligned(cells), *notes]))
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        title = (
            f"Quality at equal steps and learning rate: d_in {D_IN}, m {M}, k {K}, {STEPS} steps of {BATCH} generated "
            f"tokens, judged on {HELD_OUT:,} others."
        )
        update_page(options.markdown, {"quality": "\n\n".join(["### quality", title, piped(cells), *notes])})
    return 0


if __name__ == "__main__":
    sys.exit(main())
