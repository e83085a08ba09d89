"""Reconstructions of an activation, to be put in its place: a dictionary, principal components, an untrained one.

How far a prediction is distorted by them is a score of failure (Lambert et al., MICCAI 2023). A dictionary's score is
worth something only beside that of principal components which explain as much variance, and of an untrained dictionary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.store import ActivationStore
from seglens.audit.volume_features import Probe
from seglens.dictionaries.controls import untrained_dictionary
from seglens.dictionaries.fit_settings import MIN_K, FitSettings
from seglens.dictionaries.fitting import fit_dictionary
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.shapes import Tokens

FIT = FitSettings(expansion=4, steps=200, batch_size=1024)
"""Of a dictionary that is fitted within the audit: small, for it is fitted once a fold."""
MIN_CHANNELS = 2 * MIN_K
"""Of an activation that has a dictionary: codes of fewer are not sparse."""
DICTIONARY, COMPONENTS, UNTRAINED = "dictionary", "components", "untrained"


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """Reconstructions of an activation, fitted to the tokens of some volumes.

    Attributes:
        dictionary: of the hookpoint.
        probes: of the dictionary, of principal components that explain as much variance, of an untrained dictionary.
        explained: share of the variance that the dictionary explains on the tokens that it was fitted to.
        n_components: how many components explain as much.
    """

    dictionary: SparseAutoencoder
    probes: tuple[Probe, ...]
    explained: float
    n_components: int


def fit_reconstructions(
    tokens: Sequence[Float[Tensor, "t d"]],
    hookpoint: str,
    *,
    given: SparseAutoencoder | None = None,
    settings: FitSettings = FIT,
    device: torch.device | str = "cpu",
) -> Reconstructions:
    """Fit all three to the same tokens.

    Args:
        tokens: of some volumes, as many of each.
        hookpoint: where they were read.
        given: a dictionary that comes with the model; None: one is fitted.
        settings: of the fit.
        device: where the network runs.

    Raises:
        ValueError: tokens that are not finite, or of fewer than `MIN_CHANNELS` channels.
    """
    grids = torch.stack(list(tokens))[:, None, None]
    store = ActivationStore.from_grids(grids, hookpoint=hookpoint, segmenter_hash="", slices_hash="")
    dictionary = (fit_dictionary(store, settings=settings) if given is None else given).to(device)
    plain = untrained_dictionary(dictionary, store).to(device)
    everything = grids.flatten(0, 3).double()
    centre = everything.mean(0)
    centred = everything - centre
    rest = dictionary.decode(dictionary.encode(everything.float().to(device))).cpu().double() - everything
    explained = 1 - float(rest.square().sum() / centred.square().sum().clamp_min(1e-12))
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    shares = variances.flip(0).clamp_min(0).cumsum(0) / variances.clamp_min(0).sum().clamp_min(1e-12)
    n_components = min(int((shares < explained).sum()) + 1, len(variances))
    basis = directions.flip(1)[:, :n_components].float().to(device)
    middle = centre.float().to(device)

    def by(own: SparseAutoencoder) -> Probe:
        name = DICTIONARY if own is dictionary else UNTRAINED
        return Probe(name, hookpoint, lambda values: own.decode(own.encode(values)))

    def by_components(values: Tokens) -> Tokens:
        return (values - middle) @ basis @ basis.T + middle

    probes = (by(dictionary), Probe(COMPONENTS, hookpoint, by_components), by(plain))
    return Reconstructions(dictionary, probes, explained, n_components)
