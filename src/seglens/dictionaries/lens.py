"""A segmenter seen through the dictionary of one of its hookpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.extraction import extract
from seglens.activations.hooks import activations
from seglens.artifacts import hash_of
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.fit_settings import DEFAULT_FIT, FitSettings
from seglens.dictionaries.fitting import fit_dictionary
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.inference import each_batch
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Extent, Images, TokenGrid, grid_of


@dataclass(frozen=True)
class View:
    """Some slices through a lens.

    Attributes:
        rows: of the slices, in the set that they were read from.
        images: normalised slices on the segmenter's device.
        tokens: their activation at the lens's hookpoint, on the segmenter's device.
        codes: of all tokens, slice after slice, on the dictionary's device.
    """

    rows: Sequence[int]
    images: Images
    tokens: TokenGrid
    codes: Codes

    @property
    def grid(self) -> Extent:
        """Slices, rows and columns of the tokens of a sample."""
        return grid_of(self.tokens)

    def mass(self) -> Float[Tensor, "B m"]:
        """Sum of every latent's codes over each slice, float32, summed as float64."""
        n_slices, m = len(self.tokens), self.codes.n_latents
        place = self.codes.token_rows() // prod(self.grid) * m + self.codes.latents
        sums = torch.zeros(n_slices * m, dtype=torch.float64, device=place.device)
        return sums.index_add_(0, place, self.codes.values.double()).view(n_slices, m).float()


@dataclass(frozen=True, eq=False)
class Lens:
    """A segmenter and the dictionary of one of its hookpoints, checked once to belong together.

    A segmenter may have several, one for each hookpoint. Neither part may be trained while a lens holds it.

    Attributes:
        segmenter: the network.
        dictionary: fitted to its activation at ``hookpoint``. One that does not say what it was fitted to (of another
            library) is taken where its width fits.

    Raises:
        ValueError: everything that does not fit: an unknown hookpoint, another segmenter, width or device.

    Example:
        >>> lens = Lens(segmenter, dictionary)
        >>> for view in lens.over(slices):
        ...     fired = view.codes.firing_counts()
    """

    segmenter: Segmenter
    dictionary: SparseAutoencoder

    def __post_init__(self) -> None:
        segmenter, dictionary = self.segmenter, self.dictionary
        segmenter.module_at(dictionary.hookpoint)
        if dictionary.W_enc.device != segmenter.device:
            raise ValueError(
                f"the dictionary is on {dictionary.W_enc.device}, the segmenter on {segmenter.device}; "
                f"move one of them, such as dictionary.to({str(segmenter.device)!r})"
            )
        if dictionary.segmenter_hash and dictionary.segmenter_hash != segmenter.hash:
            raise ValueError(
                f"this dictionary was fitted to segmenter {dictionary.segmenter_hash[:12]}, not to "
                f"{segmenter.hash[:12]}; give the segmenter whose activations it was fitted to"
            )
        if not dictionary.segmenter_hash:
            blank = torch.zeros(1, len(segmenter.sequences), *segmenter.extent, device=segmenter.device)
            with torch.no_grad():
                width = activations(segmenter, dictionary.hookpoint, blank).shape[-1]
            if width != dictionary.d_in:
                raise ValueError(
                    f"the activation at {dictionary.hookpoint!r} is {width} wide, the dictionary takes "
                    f"{dictionary.d_in}; give the dictionary of that hookpoint"
                )

    @property
    def hookpoint(self) -> str:
        """Where the segmenter is opened."""
        return self.dictionary.hookpoint

    @cached_property
    def dictionary_hash(self) -> str:
        """Hash of the dictionary, which edits of its latents name."""
        return self.dictionary.hash

    @cached_property
    def hash(self) -> str:
        """Identity of both parts."""
        return hash_of({"segmenter": self.segmenter.hash, "dictionary": self.dictionary_hash})

    @torch.no_grad()
    def view(self, images: Images, rows: Sequence[int] = ()) -> View:
        """Images ``[B C D H W]`` on the segmenter's device through the lens; ``rows`` are what they are called."""
        tokens = activations(self.segmenter, self.hookpoint, images)
        return View(rows or range(len(images)), images, tokens, self.dictionary.encode(tokens.flatten(0, 3)))

    def over(self, slices: SliceSet, *, batch_size: int = 32, progress: Progress = silent) -> Iterator[View]:
        """All slices through the lens, batch by batch, in order; in halves once the device has no memory for a batch.

        Args:
            slices: of the segmenter's sequences; masks are not used.
            batch_size: slices a pass.
            progress: told after each batch, in slices.

        Raises:
            ValueError: other sequences than the segmenter's.
            NotEnoughMemoryError: the device has no memory for half a batch.
        """
        self.segmenter.check_data(slices.name, slices.sequences, preprocessing=slices.preprocessing)
        for _, view in each_batch(
            lambda rows, images: self.view(images, rows),
            self.segmenter,
            slices,
            batch_size=batch_size,
            what="codes",
            progress=progress,
        ):
            yield view


def fit_lens(
    segmenter: Segmenter,
    hookpoint: str,
    slices: SliceSet,
    *,
    settings: FitSettings = DEFAULT_FIT,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress = silent,
) -> Lens:
    """Extract the activation of slices at a hookpoint and fit a dictionary to it, on the segmenter's device.

    Args:
        segmenter: the network, on the device where it is to run.
        hookpoint: one of its hookpoints.
        slices: preferably those that it was trained on; masks are not used.
        settings: of the fit.
        seed: of the dictionary's weights and the order of tokens.
        folder: the activations are written there as an artifact, which must not exist; None: kept in memory.
        progress: told of the slices, then of the steps of the fit.

    Raises:
        ValueError: unknown hookpoint, other sequences than the segmenter's, or activations that are not finite.

    Example:
        >>> lens = fit_lens(segmenter, "stage1", adult.split("train"), settings=FitSettings(k=8, steps=10))
        >>> atlas = describe(lens, adult.split("test"))
    """
    store = extract(segmenter, slices, hookpoint, folder=folder, progress=progress)
    device = segmenter.device
    dictionary = fit_dictionary(store, settings=settings, seed=seed, device=device, progress=progress)
    return Lens(segmenter, dictionary.to(device))
