"""One sparse code for several models that see the same slices (crosscoder, universal sparse autoencoder).

A latent has one code and a decoder row in every model (arXiv 2502.03714, section 3; crosscoders: Lindsey et al.,
transformer-circuits.pub/2024/crosscoders). A crosscoder whose encoder sums over the models is one sparse autoencoder of
their activations side by side, so it is fitted by the same step as any dictionary.

Two things keep it from calling everything shared, and are not options: every model's activations are whitened, so that
a few strong directions do not decide, and at the start each latent decodes into one model only, so that sharing must be
earned (measured: with the usual start 94% of the latents are "shared" between a model and permuted tokens).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seglens.activations.store import ActivationStore
from seglens.artifacts import Artifact, Draft
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.fitting import FitPlan, FitSettings, fit_dictionaries
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.pooling import by_slices, on_common_grid
from seglens.runtime.progress import Progress, silent
from seglens.shapes import TokenGrid, Tokens

KIND = "crosscoder"
CROSSCODER_FIT = FitSettings(k=16, expansion=8, steps=300, batch_size=2048)
"""As measured on two SegFormers of d_in 64; ``expansion`` is m over the widths of all models together. Longer fits
merge more latents of models that are alike (adult / pediatric: 64% shared after 300 steps, 99% after 1000), while the
nulls stay below 2%: compare shares of equal settings only."""
EIGENVALUE_FLOOR = 0.01
"""Of the mean eigenvalue: weaker directions are not blown up to the size of the others."""
RIDGE = 1e-3
"""Of the mean square of a whitened direction, when a model's activation is predicted from another's."""
SHARED_FROM = 0.6
"""A latent is in a model when its relative norm there is at least this over the number of models: of two, 0.3..0.7."""
FILE = "crosscoder"


@dataclass(frozen=True, eq=False)
class CrosscoderModel:
    """One of the models of a crosscoder, and how its activations are whitened.

    Attributes:
        name: such as ``"adult"``.
        hookpoint: where its activations come from.
        segmenter_hash: of its network.
        centre: mean token [d].
        whitening: [d d]; ``(h - centre) @ whitening`` is what the code sees.
    """

    name: str
    hookpoint: str
    segmenter_hash: str
    centre: Float[Tensor, " d"]
    whitening: Float[Tensor, "d d"]

    @property
    def d_in(self) -> int:
        """Width of its activations."""
        return len(self.centre)

    def whitened(self, tokens: Tokens) -> Tokens:
        """Raw tokens as the code sees them."""
        if tokens.shape[1] != self.d_in:
            raise ValueError(f"tokens of {self.name!r} are {tokens.shape[1]} wide; this model's are {self.d_in}")
        return (tokens.float() - self.centre) @ self.whitening

    def raw(self, whitened: Tokens) -> Tokens:
        """Back to the activation's own scale."""
        return whitened @ self._inverse + self.centre

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.linalg.inv(self.whitening.double()).float()


@dataclass(frozen=True, eq=False)
class Crosscoder:
    """One code that decodes into several models.

    Attributes:
        models: in the order of their columns.
        dictionary: of the whitened activations side by side, width D = sum of the models' widths.
        moments: second moments [D D] of those, from which the activation of a model that is not given is predicted.
    """

    models: tuple[CrosscoderModel, ...]
    dictionary: SparseAutoencoder
    moments: Float[Tensor, "D D"] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models."""
        return tuple(model.name for model in self.models)

    @property
    def n_latents(self) -> int:
        """How many latents, m."""
        return self.dictionary.n_latents

    def columns(self, name: str) -> slice:
        """Where a model's channels are in the whitened activations side by side."""
        if name not in self.names:
            raise ValueError(f"no model {name!r}; this dictionary is of {', '.join(self.names)}")
        number = self.names.index(name)
        start = sum(model.d_in for model in self.models[:number])
        return slice(start, start + self.models[number].d_in)

    def decoder_norms(self) -> Float[Tensor, "m models"]:
        """Length of each latent's decoder row in each model, in whitened units; their squares sum to 1."""
        return torch.stack([self.dictionary.W_dec[:, self.columns(name)].norm(dim=1) for name in self.names], 1)

    def in_models(self) -> Bool[Tensor, "m models"]:
        """In which models each latent is, by its relative decoder norms: see :func:`in_models`."""
        return in_models(self.decoder_norms())

    @torch.no_grad()
    def encode(self, tokens: Mapping[str, Tokens]) -> Codes:
        """Codes of tokens at the same places, by model.

        A model that is not given is replaced by the best linear prediction from those that are (`predicted`); what the
        code then explains of it is the cross-reconstruction.

        Args:
            tokens: model to raw tokens [n d].

        Raises:
            ValueError: no model, an unknown one, another width, or different numbers of tokens.
        """
        return self.dictionary.encode(self.predicted(tokens))

    @torch.no_grad()
    def predicted(self, tokens: Mapping[str, Tokens]) -> Float[Tensor, "n D"]:
        """Whitened activations of all models side by side: those that are given, and what these predict of the others.

        Arguments and errors as `encode`'s.
        """
        if not tokens or len({len(given) for given in tokens.values()}) > 1:
            raise ValueError(
                f"tokens of the same places are needed of one or more of {', '.join(self.names)}; got "
                f"{ ({name: len(given) for name, given in tokens.items()}) }"
            )
        given = torch.cat([torch.arange(self.dictionary.d_in)[self.columns(name)] for name in tokens])
        x = torch.cat([self.models[self.names.index(name)].whitened(part) for name, part in tokens.items()], 1)
        return x @ self._prediction(given)

    def decode(self, codes: Codes) -> dict[str, Tokens]:
        """Model to reconstructed raw tokens [n d]."""
        whitened = self.dictionary.decode(codes)
        return {model.name: model.raw(whitened[:, self.columns(model.name)]) for model in self.models}

    def _prediction(self, given: Tensor) -> Float[Tensor, "given D"]:
        """All channels from some: least squares with a small ridge; those that are given stay as they are."""
        own = self.moments[given][:, given].double()
        ridge = RIDGE * own.diagonal().mean() * torch.eye(len(given), dtype=own.dtype)
        predicted = torch.linalg.solve(own + ridge, self.moments[given].double())
        predicted[:, given] = torch.eye(len(given), dtype=own.dtype)
        return predicted.float()

    def write(self, draft: Draft) -> None:
        """Write it into an artifact of kind ``crosscoder``."""
        self.dictionary.write(draft)
        tensors = {"moments": self.moments}
        for number, model in enumerate(self.models):
            tensors |= {f"centre.{number}": model.centre, f"whitening.{number}": model.whitening}
        draft.save_tensors(FILE, tensors)
        draft.save_document(
            FILE,
            [
                {"name": model.name, "hookpoint": model.hookpoint, "segmenter_hash": model.segmenter_hash}
                for model in self.models
            ],
        )

    @classmethod
    def read(cls, artifact: Artifact) -> "Crosscoder":
        """Read what ``write`` wrote.

        Raises:
            ValueError: the parts do not belong together.
        """
        tensors: dict[str, Tensor] = artifact.tensors(FILE)
        described, dictionary = artifact.document(FILE), SparseAutoencoder.read(artifact)
        numbers = range(len(described))
        needed = {"moments", *(f"{part}.{number}" for part in ("centre", "whitening") for number in numbers)}
        if set(tensors) != needed:
            raise ValueError(f"{artifact.path}: {FILE} holds {sorted(tensors)}; it must hold {sorted(needed)}")
        widths = [tensors[f"whitening.{number}"].shape[0] for number in numbers]
        shapes: dict[str, tuple[int, ...]] = {"moments": (dictionary.d_in, dictionary.d_in)}
        for number, width in zip(numbers, widths, strict=True):
            shapes |= {f"centre.{number}": (width,), f"whitening.{number}": (width, width)}
        got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if (
            got != shapes
            or sum(widths) != dictionary.d_in
            or not all(bool(t.isfinite().all()) for t in tensors.values())
        ):
            raise ValueError(
                f"{artifact.path}: {FILE} holds {got} for a dictionary of width {dictionary.d_in}; it must hold finite "
                f"{shapes}; write it again"
            )
        models = tuple(
            CrosscoderModel(
                name=str(model["name"]),
                hookpoint=str(model["hookpoint"]),
                segmenter_hash=str(model["segmenter_hash"]),
                centre=tensors[f"centre.{number}"],
                whitening=tensors[f"whitening.{number}"],
            )
            for number, model in enumerate(described)
        )
        return cls(models, dictionary, tensors["moments"])


def in_models(norms: Float[Tensor, "m models"]) -> Bool[Tensor, "m models"]:
    """In which models a latent is: those with at least ``0.6 / P`` of the sum of its norms in the P models.

    Of two models that is the usual "shared where the relative decoder norm is 0.3..0.7". A latent without any norm
    (after latent scaling: one on which the halves of the patients disagree everywhere) is in none.
    """
    return (norms > 0) & (norms >= SHARED_FROM / norms.shape[1] * norms.sum(1, keepdim=True))


def fit_crosscoder(
    stores: Mapping[str, ActivationStore],
    *,
    settings: FitSettings = CROSSCODER_FIT,
    seed: int = 0,
    order_seed: int | None = None,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Crosscoder:
    """Fit one BatchTopK code to the activations of two or more models on the same slices.

    Token grids of different sizes are averaged to the finest that all have in common. The activations side by side are
    held in memory: n tokens times the sum of the widths, 4 bytes each.

    Args:
        stores: model to its activations; the same slices in the same order.
        settings: of the fit; ``expansion`` is m over the widths of all models together.
        seed: of the weights.
        order_seed: of the token order; None takes ``seed``.
        device: where to compute.
        checkpoint: a folder for checkpoints, as in `fit_dictionary`.
        progress: as in `fit_dictionary`.

    Returns:
        The crosscoder, on the CPU.

    Raises:
        ValueError: fewer than two models, other slices, activations that do not vary, or fewer latents than models.

    Example:
        >>> stores = {"adult": adult_store, "pediatric": pediatric_store}
        >>> crosscoder = fit_crosscoder(stores, settings=FitSettings(k=32, expansion=1, steps=10))
        >>> share = float(crosscoder.in_models().all(1).float().mean())  # of latents in both
    """
    stores = on_common_grid(stores)
    width = sum(store.d_in for store in stores.values())
    models = tuple(_whitening_model(name, store, width / len(stores)) for name, store in stores.items())
    tokens = ActivationStore.from_grids(
        torch.cat(list(_whitened_side_by_side(stores, models))),
        hookpoint="+".join(model.hookpoint for model in models),
        segmenter_hash="+".join(model.segmenter_hash for model in models),
        slices_hash=next(iter(stores.values())).slices_hash,
    )
    size = settings.size(width, tokens.n_tokens)
    start = split_start([model.d_in for model in models], size.n_latents, k=size.k, seed=seed)
    plan = FitPlan(tokens, settings, seed=seed, order_seed=order_seed, checkpoint=checkpoint, start=start)
    dictionary = fit_dictionaries([plan], device=device, progress=progress)[0]
    return Crosscoder(models, dictionary, _second_moments(tokens, torch.zeros(width)).float())


def split_start(widths: Sequence[int], n_latents: int, *, k: int, seed: int) -> SparseAutoencoder:
    """Random weights with which each latent reads from and decodes into one model only, in equal parts.

    Args:
        widths: of the models.
        n_latents: m.
        k: of the dictionary.
        seed: of the weights.

    Raises:
        ValueError: fewer latents than models.
    """
    if n_latents < len(widths):
        raise ValueError(f"{n_latents} latents for {len(widths)} models; give each model at least one")
    start = SparseAutoencoder(sum(widths), n_latents, k=k, seed=seed)
    owners = torch.arange(n_latents) * len(widths) // n_latents
    channels = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    rows = start.W_dec * (owners[:, None] == channels)
    start.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12))
    start.W_enc.copy_(start.W_dec.T)
    return start


def _whitened_side_by_side(
    stores: Mapping[str, ActivationStore], models: Sequence[CrosscoderModel]
) -> Iterator[TokenGrid]:
    for parts in zip(*(by_slices(store) for store in stores.values()), strict=True):
        yield torch.cat(
            [model.whitened(part.flatten(0, 3)).view(part.shape) for model, part in zip(models, parts, strict=True)],
            -1,
        )


def _whitening_model(name: str, store: ActivationStore, energy: float) -> CrosscoderModel:
    """PCA whitening with a floor under the eigenvalues, scaled so that every model has the same energy."""
    values, vectors = torch.linalg.eigh(_second_moments(store, store.centre))
    if not float(values.sum()) > 0:
        raise ValueError(f"the activations of {name!r} do not vary; nothing can be shared with them")
    floored = values.clamp_min(EIGENVALUE_FLOOR * values.mean())
    whitening = vectors * floored.rsqrt()
    whitening *= (energy / (values / floored).sum()).sqrt()
    return CrosscoderModel(name, store.hookpoint, store.segmenter_hash, store.centre.clone(), whitening.float())


def _second_moments(store: ActivationStore, centre: Tensor) -> Float[Tensor, "d d"]:
    products = torch.zeros(store.d_in, store.d_in, dtype=torch.float64)
    for grids in by_slices(store):
        deviation = (grids.flatten(0, 3) - centre).double()
        products += deviation.T @ deviation
    return products / store.n_tokens
