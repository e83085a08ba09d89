"""Exact one-to-one matching of two dictionaries' latents, given the cosine of every pair: lapx against scipy.

Both are given the same dense float32 array and return the optimal matching; what a solver needs beside that (negation
to a cost, its own precision, zero rows put aside) is timed with it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.framework import Benchmark, Repeat, Subject

if TYPE_CHECKING:
    import numpy as np

DEAD = 0.2
"""Share of zero rows."""
NOISE = 0.7
"""Of the second dictionary's latents that are shared, relative to their length."""
A_CLUSTER = 20
"""Latents around one centre, on average."""


def seglens(case: Mapping[str, Any]) -> Repeat:
    """`matching.hungarian`: lapx's solver in float64."""
    from seglens.diffing.matching import hungarian

    similarity = made(case)
    return lambda: hungarian(similarity)


def scipy(case: Mapping[str, Any]) -> Repeat:
    """scipy's linear_sum_assignment."""
    from scipy.optimize import linear_sum_assignment

    similarity = made(case)
    return lambda: linear_sum_assignment(similarity, maximize=True)


def one_look(case: Mapping[str, Any]) -> Repeat:
    """The largest similarity of every row: whoever finds the best matching has seen every pair once."""
    similarity = made(case)
    return lambda: similarity.max(axis=1)


def made(case: Mapping[str, Any]) -> "np.ndarray":
    """Cosine [latents others] of two dictionaries that have half of their latents in common, in another order.

    The other half, and so the optimal partners of half of all latents, are unrelated; where the latents are clustered,
    they come from the same clusters.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    m, d = case["latents"], case["d_in"]

    def normal(n: int) -> np.ndarray:
        return rng.standard_normal((n, d), dtype=np.float32)

    def unit(vectors: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(length > 0, length, 1)

    if case["kind"] == "clustered":
        centres = normal(m // A_CLUSTER)

        def latents(n: int) -> np.ndarray:
            return centres[rng.integers(0, len(centres), n)] + 0.5 * normal(n)
    else:
        latents = normal
    a = latents(m)
    b = a + NOISE * normal(m)
    own = rng.permutation(m)[: m // 2]
    b[own] = latents(len(own))
    if case["kind"] == "dead":
        a[rng.permutation(m)[: round(DEAD * m)]] = 0
    return unit(a) @ unit(b[rng.permutation(m)[: case["others"]]]).T


def _case(kind: str, latents: int = 10240, *, others: int | None = None) -> dict[str, Any]:
    d_in = {1280: 80, 2560: 160}.get(latents, 320)
    return {"kind": kind, "latents": latents, "others": others or latents, "d_in": d_in}


HALF_SHARED = {f"half shared, {m}": _case("half shared", m) for m in (1280, 2560, 5120, 10240)}

BENCHMARK = Benchmark(
    name="assignment",
    title="the optimal one-to-one matching of latents, given the cosine of every pair",
    cases={
        **HALF_SHARED,
        "20% dead rows, 10240": _case("dead"),
        "clustered, 10240": _case("clustered"),
        "rectangular, 10240 x 5120": _case("half shared", others=5120),
    },
    subjects=[
        Subject("seglens (lapx)", "ours", seglens),
        Subject("scipy", "peer", scipy),
        Subject("floor: one look at every pair", "floor", one_look),
    ],
    repeats=3,
    growth={"latents": list(HALF_SHARED)},
)
