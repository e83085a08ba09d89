"""One table of features a volume, from which everything in an audit is computed without the network."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from seglens.activations.hooks import activations
from seglens.audit.hospitals import SOURCE, TARGET, Hospital
from seglens.audit.probes import FIT, MIN_CHANNELS, Reconstructions, fit_reconstructions
from seglens.audit.volume_features import VolumeFeatures, volume_features
from seglens.audit.volume_samples import SampleReader, VolumeSamples
from seglens.cohorts.case import Case
from seglens.cohorts.slice_set import evenly_spaced
from seglens.dictionaries.fit_settings import FitSettings
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.progress import Progress, silent

IDS = {"volume": pl.String, "patient": pl.String, "hospital": pl.String, "fold": pl.Int32, "n_samples": pl.Int32}
"""Columns of a table beside its numbers."""
N_FOLDS = 5
TOKENS_PER_VOLUME = 512
MAX_HOOKPOINTS = 4
"""Whose channels are pooled, evenly spaced over those of the network."""


@dataclass(frozen=True, eq=False)
class VolumeTable:
    """Features of the volumes of a cohort.

    Attributes:
        rows: one a volume: volume, patient, hospital (``source``, ``target`` or a virtual one), fold (Int32, of the
            source; null for others), n_samples, then numbers by family: ``area.``, ``image.``, ``logits.``, ``sdc@``,
            ``tta.``, ``distortion.``, and ``truth.`` where there are masks. What is undefined is null.
        dense: pooled channels [n d].
        latents: pooled codes [n m].
        lost: volume to why it has no row.
    """

    rows: pl.DataFrame
    dense: Float[np.ndarray, "n d"]
    latents: Float[np.ndarray, "n m"]
    lost: Mapping[str, str]

    def __len__(self) -> int:
        return self.rows.height

    def family(self, *prefixes: str) -> list[str]:
        """Columns whose names begin so."""
        return [name for name in self.rows.columns if name.startswith(prefixes)]

    def values(self, columns: Sequence[str]) -> Float[np.ndarray, "n c"]:
        """These columns as numbers; NaN where one is undefined."""
        return self._numbers[:, [self._place[name] for name in columns]]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(name for name in self.rows.columns if name not in IDS)}

    @cached_property
    def _numbers(self) -> Float[np.ndarray, "n c"]:
        numbers = self.rows.select(pl.col(list(self._place)).cast(pl.Float64).fill_null(float("nan")))
        return np.asarray(numbers.to_numpy(), np.float64).reshape(len(self), len(self._place))

    @property
    def folds(self) -> Int64[np.ndarray, " n"]:
        """Fold of each volume; -1 outside of the source."""
        return self.rows["fold"].fill_null(-1).cast(pl.Int64).to_numpy()

    @property
    def hospitals(self) -> np.ndarray:
        """Hospital of each volume [n]."""
        return self.rows["hospital"].to_numpy()

    @property
    def kinds(self) -> np.ndarray:
        """Of each volume [n] the kind of its hospital, without the amount."""
        return self.rows["hospital"].str.split(" ").list.first().to_numpy()

    def of_hospital(self, name: str) -> "VolumeTable":
        """The volumes of one hospital."""
        rows = np.flatnonzero(self.hospitals == name)
        return VolumeTable(self.rows[rows], self.dense[rows], self.latents[rows], self.lost)

    def beside(self, other: "VolumeTable") -> "VolumeTable":
        """Both tables' volumes, these first; columns that one has not are null there."""
        return VolumeTable(
            pl.concat([self.rows, other.rows], how="diagonal"),
            np.concatenate([self.dense, other.dense]),
            np.concatenate([self.latents, other.latents]),
            {**self.lost, **other.lost},
        )


def folds_of(patients: Sequence[str], *, n_folds: int = N_FOLDS, seed: int = 0) -> dict[str, int]:
    """Deal patients to folds of nearly one size, whatever their order.

    Args:
        patients: of volumes; a patient may stand there more than once.
        n_folds: at most; as many as there are patients where these are fewer.
        seed: of the order.
    """
    names = sorted(set(patients))
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[place]: number % min(n_folds, len(names)) for number, place in enumerate(order)}


@dataclass(frozen=True, eq=False)
class TableMaker:
    """Makes the tables of a model.

    Attributes:
        reader: of its samples.
        hookpoints: whose channels are pooled.
        hookpoint: one of them, where the activation is reconstructed.
        of_fold: reconstructions fitted without a fold's patients; -1: to all of the source. Empty where the activation
            has too few channels for a dictionary.
    """

    reader: SampleReader
    hookpoints: tuple[str, ...]
    hookpoint: str
    of_fold: Mapping[int, Reconstructions]

    @classmethod
    def fitted(
        cls,
        reader: SampleReader,
        units: Sequence[Sequence[Case]],
        folds: Mapping[str, int],
        *,
        hookpoint: str | None = None,
        dictionary: SparseAutoencoder | None = None,
        settings: FitSettings = FIT,
        progress: Progress = silent,
    ) -> "TableMaker":
        """Fit the reconstructions to the source, once without each fold and once to all.

        Args:
            reader: of the model's samples.
            units: the source's volumes.
            folds: patient to fold.
            hookpoint: where; None: the dictionary's, else the one in the middle of the network's list.
            dictionary: that comes with the model; None: small ones are fitted.
            settings: of their fits.
            progress: told of each volume.

        Raises:
            ValueError: a network without hookpoints, an unknown one, or none of the volumes can be read.
        """
        segmenter = reader.segmenter
        names = list(segmenter.hookpoints)
        if not names:
            raise ValueError("the model has no hookpoint, so nothing inside it can be read; wrap it with hookpoints")
        asked = hookpoint or (dictionary.hookpoint if dictionary is not None else names[len(names) // 2])
        segmenter.place(asked)
        pooled = [names[place] for place in evenly_spaced(len(names), MAX_HOOKPOINTS)]
        tokens: dict[int, list[Tensor]] = {}
        reason = ""
        for number, unit in enumerate(units):
            try:
                samples = reader.read(unit)
            except ValueError as error:
                reason = reason or str(error)
                continue
            own = _tokens(reader, samples, asked)
            tokens.setdefault(folds[samples.patient], []).append(own)
            progress(number + 1, len(units))
        if not tokens:
            raise ValueError(
                f"none of the source's {len(units)} volumes can be shown to the model; the first: {reason}"
            )
        every = [own for fold in sorted(tokens) for own in tokens[fold]]
        device = segmenter.device
        pooled = list(dict.fromkeys([*pooled, asked]))
        if every[0].shape[1] < MIN_CHANNELS:
            return cls(reader, tuple(pooled), asked, {})
        of_fold = {-1: fit_reconstructions(every, asked, given=dictionary, settings=settings, device=device)}
        for fold in sorted(tokens) if len(tokens) > 1 else ():
            rest = [own for other in sorted(tokens) if other != fold for own in tokens[other]]
            of_fold[fold] = fit_reconstructions(rest, asked, given=dictionary, settings=settings, device=device)
        return cls(reader, tuple(pooled), asked, of_fold)

    def table(
        self,
        units: Sequence[Sequence[Case]],
        *,
        folds: Mapping[str, int] | None = None,
        with_masks: bool = False,
        hospitals: Mapping[str, Sequence[Hospital]] | None = None,
        progress: Progress = silent,
    ) -> VolumeTable:
        """Features of some volumes; those that cannot be read are named in ``lost``.

        Args:
            units: the volumes.
            folds: patient to fold, of the source; None for others.
            with_masks: read masks, for the true Dice.
            hospitals: patient to virtual hospitals, whose images of the volumes are looked at; None: as they are.
            progress: told of each volume.
        """
        rows: list[dict[str, object]] = []
        found: list[VolumeFeatures] = []
        lost: dict[str, str] = {}
        name = TARGET if folds is None else SOURCE
        for number, unit in enumerate(units):
            volume, patient = unit[0].volume, unit[0].patient
            own = (
                [(name, None)] if hospitals is None else [(one.name, one.change(volume)) for one in hospitals[patient]]
            )
            fold = None if folds is None else folds[patient]
            for hospital, change in own:
                try:
                    samples = self.reader.read(unit, with_masks=with_masks, change=change)
                except ValueError as error:
                    lost[volume] = str(error)
                    break
                found.append(self.features(samples, fold))
                ids = (volume, patient, hospital, fold, len(samples))
                rows.append(dict(zip(IDS, ids, strict=True)) | dict(found[-1].numbers))
            progress(number + 1, len(units))
        numbers = [name for name in rows[0] if name not in IDS] if rows else []
        table = pl.DataFrame(rows, schema=IDS | dict.fromkeys(numbers, pl.Float64)).with_columns(
            pl.col(numbers).fill_nan(None)
        )
        empty = np.zeros((0, 0), np.float32)
        return VolumeTable(
            table,
            np.stack([own.dense for own in found]) if found else empty,
            np.stack([own.latents for own in found]) if found else empty,
            lost,
        )

    def features(self, samples: VolumeSamples, fold: int | None) -> VolumeFeatures:
        """Features of one volume, distorted by what was fitted without its fold; None: by what was fitted to all."""
        whole = self.of_fold.get(-1)
        if whole is None:
            return volume_features(self.reader.segmenter, samples, hookpoints=self.hookpoints)
        own = whole if fold is None else self.of_fold.get(fold, whole)
        dictionary = whole.dictionary
        return volume_features(
            self.reader.segmenter,
            samples,
            hookpoints=self.hookpoints,
            probes=own.probes,
            encode=(self.hookpoint, lambda tokens: dictionary.encode(tokens).to_dense()),
        )


def _tokens(reader: SampleReader, samples: VolumeSamples, hookpoint: str) -> Float[Tensor, "t d"]:
    """Some tokens of a volume, the same for the same volume; with repetition where it has fewer."""
    segmenter = reader.segmenter
    rows = evenly_spaced(len(samples), 8)
    with torch.no_grad():
        tokens = activations(segmenter, hookpoint, samples.images(rows).to(segmenter.device)).flatten(0, 3).cpu()
    random = np.random.default_rng(zlib.crc32(samples.volume.encode()))
    chosen = random.choice(len(tokens), TOKENS_PER_VOLUME, replace=len(tokens) < TOKENS_PER_VOLUME)
    return tokens[torch.from_numpy(chosen)].float()
