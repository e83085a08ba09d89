"""Archetypal dictionaries: every decoder row is a mixture of real activations, so that seeds have less to differ in.

Fel et al., "Archetypal SAE: Adaptive and Stable Dictionary Learning for Concept Extraction in Large Vision Models"
(arXiv 2502.12892), relaxed: ``D = W C + L`` with W row-stochastic, C points of the data and ``|L_i| <= d |(W C)_i|``.
Here each step of the plain fit is followed by a step back to that set, and rows are brought to length 1 as ever.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.dictionaries.codes import weighted_rows
from seglens.dictionaries.fit_settings import DEFAULT_FIT, FitSettings
from seglens.dictionaries.fitting import FitPlan, fit_dictionaries
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.dictionaries.token_source import TokenSource
from seglens.runtime.progress import Progress, silent

POINTS_SEED = 0
"""Points are drawn with a seed of their own: two fits to the same data look at the same points."""
SAMPLE_PER_POINT = 10
"""Tokens that the k-means of the points looks at, a point."""
ROWS_AT_ONCE = 4096
Points = Float[Tensor, "c d_in"]
Decoder = Float[Tensor, "m d_in"]


class Hull:
    """The relaxed convex hull of points, and where each decoder row stands in it.

    A row is pulled back by one Frank-Wolfe step: its hull point moves towards the one vertex that brings it nearest,
    by the length that brings it nearest. It starts at a vertex, so it is a convex combination of vertices ever after.

    Args:
        points: [c d_in], normalised activations.
        relaxation: how far a row may be from its hull point, in lengths of that point.
    """

    def __init__(self, points: Points, relaxation: float):
        if relaxation < 0 or len(points) < 1:
            raise ValueError(f"{len(points)} points and a relaxation of {relaxation}; need a point and 0 or more")
        self.points = points
        self.relaxation = relaxation
        self.hull_points: Tensor | None = None

    def __call__(self, decoder: Decoder) -> None:
        """Pull the unit rows of a decoder back, in place.

        Raises:
            ValueError: at the first call, where a row begins at its own point, fewer points than rows.
        """
        if self.hull_points is None:
            if len(self.points) < len(decoder):
                raise ValueError(f"{len(decoder)} rows begin at {len(self.points)} points; give as many points")
            self.points = self.points.to(decoder)
            self.hull_points = self.points[: len(decoder)].clone()
        hull_points = self.hull_points
        wanted = decoder * hull_points.norm(dim=1, keepdim=True)
        for start in range(0, len(hull_points), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            slope = hull_points[rows] - wanted[rows]
            nearest = self.points[(slope @ self.points.T).argmin(dim=1)]
            way = nearest - hull_points[rows]
            length = -(slope * way).sum(1, keepdim=True) / way.square().sum(1, keepdim=True).clamp_min(1e-12)
            hull_points[rows] += length.clamp(0, 1) * way
        beside = wanted - hull_points
        allowed = self.relaxation * hull_points.norm(dim=1, keepdim=True)
        rows_now = hull_points + beside * (allowed / beside.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        decoder.copy_(rows_now / rows_now.norm(dim=1, keepdim=True).clamp_min(1e-12))


def archetypal_points(store: TokenSource, n: int, *, seed: int = POINTS_SEED, iterations: int = 10) -> Points:
    """Centroids of the activations, by Lloyd's k-means on a sample.

    Args:
        store: activations.
        n: how many.
        seed: of the sample and of the first centroids, which are tokens of it.
        iterations: of k-means.

    Returns:
        [n d_in], in the dictionary's normalised scale. A centroid without tokens stays where it is.

    Raises:
        ValueError: fewer tokens than points.
    """
    if n < 1 or store.n_tokens < n:
        raise ValueError(f"{n} points of {store.n_tokens} tokens; ask for 1 to as many as there are")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(store.n_tokens, generator=generator)[: n * SAMPLE_PER_POINT]
    tokens = (store.tokens(chosen.sort().values) - store.centre) * store.scale
    points = tokens[torch.randperm(len(tokens), generator=generator)[:n]].clone()
    for _ in range(iterations):
        half = points.square().sum(1) / 2
        owner = torch.cat([(half - part @ points.T).argmin(dim=1) for part in tokens.split(ROWS_AT_ONCE)])
        counts = torch.bincount(owner, minlength=n)
        order = owner.sort(stable=True).indices
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        sums = weighted_rows(tokens, offsets, order, torch.ones(len(tokens)))
        points = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], points)
    return points


def started_at(points: Points, store: TokenSource, settings: FitSettings, seed: int) -> SparseAutoencoder:
    """An untrained dictionary whose decoder rows point to the first points, the encoder their transpose."""
    size = settings.size(store.d_in, store.n_tokens)
    start = SparseAutoencoder(store.d_in, size.n_latents, k=size.k, seed=seed)
    rows = points[: start.n_latents] / points[: start.n_latents].norm(dim=1, keepdim=True).clamp_min(1e-12)
    start.W_dec.data[: len(rows)] = rows
    start.W_enc.data[:, : len(rows)] = rows.T
    return start


def fit_archetypal(
    store: TokenSource,
    *,
    settings: FitSettings = DEFAULT_FIT,
    relaxation: float = 0.3,
    points: Points | None = None,
    seed: int = 0,
    order_seed: int | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> SparseAutoencoder:
    """Fit a relaxed archetypal dictionary by the steps of `fit_dictionary`.

    Rows begin at the points, whatever the seed; what a seed still decides is the order of the tokens. So compare two
    fits with a plain one of other token order as well, and fits to two draws of the points with one of other seed.

    Args:
        store: activations.
        settings: as for a plain fit.
        relaxation: how far a row may be from the hull, in lengths of its hull point, 0 or more.
        points: at least as many as latents, normalised; None takes `archetypal_points`.
        seed: of the fit.
        order_seed: of the token order; None takes ``seed``.
        device: where to compute.
        progress: as `fit_dictionary`'s.

    Returns:
        The fitted dictionary, on the CPU.

    Raises:
        ValueError: as `fit_dictionary`, or too few points.

    Example:
        >>> dictionary = fit_archetypal(store, settings=FitSettings(k=32, expansion=1, steps=10))
    """
    if points is None:
        points = archetypal_points(store, settings.size(store.d_in, store.n_tokens).n_latents)
    plan = FitPlan(
        store,
        settings,
        seed=seed,
        order_seed=order_seed,
        start=started_at(points, store, settings, seed),
        constrain=Hull(points, relaxation),
    )
    return fit_dictionaries([plan], device=device, progress=progress)[0]
