"""How a training step grows with the tokens of a batch and with the latents."""

from functools import partial

from benchmarks.framework import Benchmark, Subject
from benchmarks.step import one_product, ours

FACTORS = (1, 2, 4, 8)

BENCHMARK = Benchmark(
    name="step_growth",
    title="the same training step at 1, 2, 4, 8 times the tokens a batch and the latents (d_in 160, k = 32)",
    cases={
        **{f"{1024 * f} tokens": {"d_in": 160, "m": 2560, "batch": 1024 * f, "k": 32, "dead": 0.0} for f in FACTORS},
        **{f"{1280 * f} latents": {"d_in": 160, "m": 1280 * f, "batch": 2048, "k": 32, "dead": 0.0} for f in FACTORS},
    },
    subjects=[
        Subject("floor: one encoder GEMM", "floor", one_product),
        Subject("seglens", "ours", partial(ours, screen="auto")),
    ],
    growth={
        "tokens": [f"{1024 * f} tokens" for f in FACTORS],
        "latents": [f"{1280 * f} latents" for f in FACTORS],
    },
)
