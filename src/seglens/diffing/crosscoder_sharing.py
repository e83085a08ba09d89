"""Shared and specific latents of a crosscoder, and how much one model tells of another: held out."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import polars as pl
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from seglens.activations.store import ActivationStore
from seglens.cohorts.patients import patient_halves
from seglens.dictionaries.codes import Codes, weighted_rows
from seglens.dictionaries.quality import participation_ratio
from seglens.diffing.crosscoder import Crosscoder, in_models
from seglens.diffing.pooling import on_common_grid
from seglens.shapes import Tokens

LIVE_FROM = 1e-3
"""A latent is live when it fires at more than this share of the held-out tokens."""
Weight = Literal["latents", "mass", "gain"]
Judgement = Literal["norm", "scaled"]
SideBySide = Float[Tensor, "n D"]


@dataclass(frozen=True, eq=False)
class CrosscoderSharing:
    """Findings of a crosscoder in slices that it was not fitted to.

    Attributes:
        models: names, in the order of the columns of the arrays below.
        firing_rate: share of the tokens at which a latent fires [m].
        mass: sum of its codes [m].
        norms: decoder norms [m models], whitened units.
        scaled_norms: the same after latent scaling [m models]: what the decoder row would be if the model's error were
            regressed on the latent, by halves of the patients (only what both halves agree on counts). A latent whose
            row in a model was merely shrunk by the sparsity gets it back; a specific one does not.
        gains: by how much the squared error of each model grows when the latent alone is left out [m models].
        explained: columns ``model``, ``encoded_from`` (a model, or "all"), ``explained_variance`` (whitened, as the
            code was fitted), ``explained_variance_raw`` (in the activation's own scale).
        participation_ratio: model to the effective number of dimensions of its activation: with 2 to 4 of them the raw
            explained variance says little.
        l0: active latents a token.
    """

    models: tuple[str, ...]
    firing_rate: Float[Tensor, " m"]
    mass: Float[Tensor, " m"]
    norms: Float[Tensor, "m models"]
    scaled_norms: Float[Tensor, "m models"]
    gains: Float[Tensor, "m models"]
    explained: pl.DataFrame
    participation_ratio: Mapping[str, float | None]
    l0: float

    @property
    def live(self) -> Bool[Tensor, " m"]:
        """Latents that fire at more than 1 in 1000 tokens; all shares are of these."""
        return self.firing_rate > LIVE_FROM

    def in_models(self, by: Judgement = "norm") -> Bool[Tensor, "m models"]:
        """In which models each latent is (:func:`~seglens.diffing.crosscoder.in_models`).

        Args:
            by: ``"norm"``, the decoder norms; ``"scaled"``, the norms after latent scaling.
        """
        return in_models(self.norms if by == "norm" else self.scaled_norms)

    def shared(self, weight: Weight = "latents", by: Judgement = "norm") -> float | None:
        """Share of the live latents that are in every model, 0..1; None where none is live.

        Args:
            weight: each latent counts once, by its activation mass, or by its ablation gain in all models together
                (where that is above 0).
            by: as in `in_models`.
        """
        return self._share(self.in_models(by).all(1), weight)

    def specific(self, model: str, weight: Weight = "latents", by: Judgement = "norm") -> float | None:
        """Share of the live latents that are in this model alone; arguments as in `shared`."""
        inside = self.in_models(by)
        return self._share(inside[:, self.models.index(model)] & (inside.sum(1) == 1), weight)

    def cross_explained(self, raw: bool = False) -> float:
        """Explained variance of each model by the code of each other one alone: mean over all ordered pairs."""
        column = "explained_variance_raw" if raw else "explained_variance"
        crossed = self.explained.filter((pl.col("encoded_from") != "all") & (pl.col("encoded_from") != pl.col("model")))
        return float(crossed[column].to_numpy().mean())

    def latents(self) -> pl.DataFrame:
        """One row a latent and model: firing_rate, mass, norm, relative_norm, scaled_norm, gain, in_model, shared."""
        m, n_models = self.norms.shape
        inside = self.in_models()
        return pl.DataFrame(
            {
                "latent": torch.arange(m).repeat_interleave(n_models).numpy(),
                "model": list(self.models) * m,
                "live": self.live.repeat_interleave(n_models).numpy(),
                "firing_rate": self.firing_rate.repeat_interleave(n_models).numpy(),
                "mass": self.mass.repeat_interleave(n_models).numpy(),
                "norm": self.norms.flatten().numpy(),
                "relative_norm": (self.norms / self.norms.sum(1, keepdim=True)).flatten().numpy(),
                "scaled_norm": self.scaled_norms.flatten().numpy(),
                "gain": self.gains.flatten().numpy(),
                "in_model": inside.flatten().numpy(),
                "shared": inside.all(1).repeat_interleave(n_models).numpy(),
            }
        )

    def _share(self, chosen: Bool[Tensor, " m"], weight: Weight) -> float | None:
        weights = {
            "latents": torch.ones_like(self.mass),
            "mass": self.mass,
            "gain": self.gains.sum(1).clamp_min(0),
        }[weight].double() * self.live
        total = float(weights.sum())
        return float(weights[chosen].sum()) / total if total > 0 else None


@torch.no_grad()
def evaluate_crosscoder(crosscoder: Crosscoder, stores: Mapping[str, ActivationStore]) -> CrosscoderSharing:
    """Judge a crosscoder on held-out slices, which are held in memory.

    Args:
        crosscoder: what is judged.
        stores: model to its activations of the same slices; their index may name patients.

    Raises:
        ValueError: other models than the dictionary's, or different slices.
    """
    if set(stores) != set(crosscoder.names):
        raise ValueError(f"activations of {', '.join(stores)}; this dictionary is of {', '.join(crosscoder.names)}")
    stores = on_common_grid({name: stores[name] for name in crosscoder.names})
    tokens = {name: store.tokens(torch.arange(store.n_tokens)) for name, store in stores.items()}
    x = torch.cat([model.whitened(tokens[model.name]) for model in crosscoder.models], 1)
    codes = crosscoder.encode(tokens)
    error = x - crosscoder.dictionary.decode(codes)
    halves = _halves(next(iter(stores.values())))
    return CrosscoderSharing(
        models=crosscoder.names,
        firing_rate=codes.firing_counts() / max(codes.n, 1),
        mass=torch.zeros(codes.n_latents).index_add_(0, codes.latents.long(), codes.values),
        norms=crosscoder.decoder_norms(),
        scaled_norms=_scaled_norms(crosscoder, codes, error, halves),
        gains=_ablation_gains(crosscoder, codes, error),
        explained=_explained(crosscoder, tokens, x, error),
        participation_ratio={name: participation_ratio(torch.cov(raw.double().T)) for name, raw in tokens.items()},
        l0=codes.l0,
    )


@torch.no_grad()
def linear_explained(crosscoder: Crosscoder, stores: Mapping[str, ActivationStore]) -> float:
    """`CrosscoderSharing.cross_explained` without the code: the other model predicted linearly, and no more.

    Args:
        crosscoder: whose training slices the prediction comes from.
        stores: as in `evaluate_crosscoder`.

    Returns:
        Explained variance (whitened) of each model by each other one alone: mean over all ordered pairs.
    """
    stores = on_common_grid({name: stores[name] for name in crosscoder.names})
    tokens = {name: store.tokens(torch.arange(store.n_tokens)) for name, store in stores.items()}
    x = torch.cat([model.whitened(tokens[model.name]) for model in crosscoder.models], 1)
    found = []
    for name, given in tokens.items():
        missed = x - crosscoder.predicted({name: given})
        others = [crosscoder.columns(other) for other in crosscoder.names if other != name]
        found += [_explained_variance(x[:, columns], missed[:, columns]) for columns in others]
    return sum(found) / len(found)


def _ablation_gains(crosscoder: Crosscoder, codes: Codes, error: SideBySide) -> Float[Tensor, "m models"]:
    """``sum |e + z d|^2 - |e|^2`` over tokens: 2 d . sum(z e) + |d|^2 sum(z^2)."""
    products, squares = _regression_sums(codes, error)
    rows = crosscoder.dictionary.W_dec / crosscoder.dictionary.scale
    gained = 2 * rows * products + rows.square() * squares[:, None]
    return torch.stack([gained[:, crosscoder.columns(name)].sum(1) for name in crosscoder.names], 1)


def _scaled_norms(
    crosscoder: Crosscoder, codes: Codes, error: SideBySide, halves: tuple[Int64[Tensor, " a"], Int64[Tensor, " b"]]
) -> Float[Tensor, "m models"]:
    """Norm of the decoder row that the error asks for, ``d + sum(z e) / sum(z^2)``, unbiased by two halves.

    Latent scaling (arXiv 2504.02922, section 3.2) regresses the error on the latent along the other model's direction;
    models of different spaces have no common direction, so here the row is free. The length of a free row is inflated
    by noise, the inner product of two independent estimates is not.
    """
    estimates = []
    for rows in halves:
        products, squares = _regression_sums(codes.rows(rows), error[rows])
        fired = squares[:, None] > 0
        refit = torch.where(fired, products / squares[:, None].clamp_min(1e-30), 0)
        estimates.append(crosscoder.dictionary.W_dec + refit * crosscoder.dictionary.scale)
    product = estimates[0] * estimates[1]
    agreed = torch.stack([product[:, crosscoder.columns(name)].sum(1) for name in crosscoder.names], 1)
    return agreed.clamp_min(0).sqrt()


def _regression_sums(codes: Codes, error: SideBySide) -> tuple[Float[Tensor, "m D"], Float[Tensor, " m"]]:
    """``sum(z e)`` and ``sum(z^2)`` over tokens, of each latent."""
    offsets, tokens, values = codes.columns()
    squares = torch.zeros(codes.n_latents).index_add_(0, codes.latents.long(), codes.values.square())
    return weighted_rows(error, offsets, tokens, values), squares


def _halves(store: ActivationStore) -> tuple[Int64[Tensor, " a"], Int64[Tensor, " b"]]:
    """Tokens of every second patient, and of the others; of every second slice where no patients are known."""
    odd = patient_halves(store.index).repeat_interleave(prod(store.grid))
    return (odd == 0).nonzero()[:, 0], (odd == 1).nonzero()[:, 0]


def _explained(crosscoder: Crosscoder, tokens: Mapping[str, Tokens], x: SideBySide, error: SideBySide) -> pl.DataFrame:
    rows = []
    sources: list[tuple[str, SideBySide]] = [("all", error)]
    sources += [
        (name, x - crosscoder.dictionary.decode(crosscoder.encode({name: given}))) for name, given in tokens.items()
    ]
    for encoded_from, left in sources:
        for model in crosscoder.models:
            own, missed = x[:, crosscoder.columns(model.name)], left[:, crosscoder.columns(model.name)]
            raw, missed_raw = tokens[model.name], model.raw(missed) - model.centre
            rows.append(
                {
                    "model": model.name,
                    "encoded_from": encoded_from,
                    "explained_variance": _explained_variance(own, missed),
                    "explained_variance_raw": _explained_variance(raw, missed_raw),
                }
            )
    return pl.DataFrame(rows)


def _explained_variance(values: Tokens, error: Tokens) -> float:
    deviation = (values - values.mean(0)).square().sum()
    return 1 - float(error.square().sum() / deviation) if float(deviation) > 0 else float("nan")
