"""One training step of a BatchTopK dictionary."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks.framework import Benchmark, Repeat, Subject, Unavailable
from benchmarks.step_peers import CASES, FAR_BELOW, LONG_AGO, PEERS, batches, n_dead, tokens, warmed


class _Tokens:
    """A batch's worth of activations: all that a fit asks for before its first step."""

    hookpoint, segmenter_hash, hash = "none", "none", "none"
    scale = 1.0

    def __init__(self, case: Mapping[str, Any]):
        import torch

        self.d_in, self.n_tokens = case["d_in"], 100 * case["batch"]
        self.centre = torch.zeros(self.d_in)
        self._case = case

    def tokens(self, rows: Any) -> Any:
        return tokens(self._case["d_in"], len(rows))

    def random_batches(self, batch_size: int, generator: Any, *, first: int = 0) -> Iterator[Any]:
        raise NotImplementedError("the benchmark gives the batches")


def ours(case: Mapping[str, Any], *, screen: str) -> Repeat:
    """`fit_dictionary`'s step: codes, loss, gradients, clipping, Adam, unit decoder rows."""

    from seglens.dictionaries.fitting import FitPlan, FitSettings, _Fit
    from seglens.runtime.devices import bf16_saves

    if screen == "bf16" and not bf16_saves():
        raise Unavailable("a bfloat16 product costs this processor no less")
    settings = FitSettings(
        k=case["k"], expansion=case["m"] // case["d_in"], batch_size=case["batch"], steps=20_000, dead_after=1.0
    )
    fit = _Fit(FitPlan(_Tokens(case), settings), "cpu")
    fit.top.screen = screen
    batch = batches(case)
    fit.advance(batch())
    fit.weights.b_enc[: n_dead(case)] = FAR_BELOW
    fit.unseen[: n_dead(case)] = LONG_AGO
    assert int((fit.unseen >= fit.store.n_tokens).sum()) == n_dead(case)
    return warmed(lambda: fit.advance(batch()))


def one_product(case: Mapping[str, Any]) -> Repeat:
    """Every latent's score at every token, into a buffer that is reused: no exact float32 step can be faster."""
    import torch

    x = tokens(case["d_in"], case["batch"])
    encoder = torch.randn(case["d_in"], case["m"], generator=torch.Generator().manual_seed(0))
    out = torch.empty(case["batch"], case["m"])
    return warmed(lambda: torch.mm(x, encoder, out=out))


BENCHMARK = Benchmark(
    name="step",
    title="one training step of a BatchTopK dictionary (codes, loss, gradients, Adam), k = 32, fp32, one thread",
    cases=CASES,
    subjects=[
        Subject("floor: one encoder GEMM", "floor", one_product),
        Subject("seglens, bf16 screen", "ours", partial(ours, screen="bf16")),
        Subject("seglens", "ours", partial(ours, screen="fp32")),
        *PEERS,
    ],
    repeats=9,
)
