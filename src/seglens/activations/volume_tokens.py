"""Tokens of volumes: each place once, from the window whose centre is nearest, with its place in mm.

Windows overlap, and the lattices of their tokens do not coincide. With an owner for each place no tissue counts twice,
and no token is read at a window's border where another window has one further inside.
"""

import hashlib
from collections.abc import Iterator, Set
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from seglens.activations.extraction import kept_shard
from seglens.activations.hooks import activations
from seglens.activations.moments import Chunks, ShardFacts
from seglens.activations.shards import Shard, ShardFiles, Shards, checked_dtype, shard_name
from seglens.activations.store import KIND, SHARD_BYTES, ActivationStore
from seglens.artifacts import Draft, hash_of, new_artifact, read_artifact
from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.case_volume import CaseVolume
from seglens.cohorts.network_volume import NetworkVolume
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.opened import OpenedModel
from seglens.segmenters.windows import Placement, Tiling, WindowPass, padding_of, passing
from seglens.shapes import Extent, grid_of

TOKENS_PER_VOLUME = 20_000


@dataclass(frozen=True)
class _Lattice:
    """Places of a window's tokens along each axis, and which of them it owns.

    Attributes:
        starts: of the windows, an axis each, in the padded grid.
        owned: of each axis and window: numbers of the tokens that it owns.
        places: of the same: their centres in the grid without padding.
    """

    starts: tuple[list[int], ...]
    owned: tuple[list[NDArray[np.int64]], ...]
    places: tuple[list[NDArray[np.float64]], ...]

    @classmethod
    def of(cls, extent: Extent, patch: Extent, grid: Extent, tiling: Tiling) -> "_Lattice":
        """Of a grid without padding, windows, the tokens of one, and how they are laid."""
        front, _ = padding_of(extent, patch)
        starts: list[list[int]] = []
        owned: list[list[NDArray[np.int64]]] = []
        places: list[list[NDArray[np.float64]]] = []
        for axis, (n, side, tokens) in enumerate(zip(extent, patch, grid, strict=True)):
            firsts = tiling.starts(axis, max(n, side), side)
            block = side / tokens
            middles = np.array(firsts) + (side - 1) / 2
            own, at = [], []
            for number, first in enumerate(firsts):
                centres = first + np.arange(tokens) * block + (block - 1) / 2
                nearest = np.abs(centres[:, None] - middles).argmin(1)
                inside = centres - front[axis]
                (chosen,) = np.nonzero((nearest == number) & (inside > -0.5) & (inside < n - 0.5))
                own.append(chosen)
                at.append(inside[chosen].astype(np.float64))
            starts.append(firsts)
            owned.append(own)
            places.append(at)
        return cls(tuple(starts), tuple(owned), tuple(places))

    def windows(self) -> Iterator[tuple[Extent, tuple[int, int, int]]]:
        """Start of each window, and its number along each axis."""
        for z, y, x in product(*(range(len(firsts)) for firsts in self.starts)):
            yield (self.starts[0][z], self.starts[1][y], self.starts[2][x]), (z, y, x)

    def shape(self, numbers: tuple[int, int, int]) -> Extent:
        """Tokens that a window owns, along each axis."""
        z, y, x = (len(self.owned[axis][number]) for axis, number in enumerate(numbers))
        return z, y, x

    def places_of(self, numbers: tuple[int, int, int]) -> NDArray[np.float64]:
        """Centres ``[n 3]`` of the tokens that a window owns."""
        axes = np.meshgrid(*(self.places[axis][number] for axis, number in enumerate(numbers)), indexing="ij")
        return np.stack([axis.reshape(-1) for axis in axes], 1)


def extract_volumes(
    model: OpenedModel,
    cohort: Cohort,
    hookpoint: str,
    *,
    tokens_per_volume: int = TOKENS_PER_VOLUME,
    with_masks: bool = False,
    quarantined: Set[str] = frozenset(),
    folder: Path | None = None,
    dtype: torch.dtype | str = torch.float32,
    progress: Progress = silent,
) -> ActivationStore:
    """Read tokens of every case's volume at a hookpoint; each pass stops there, windows are not mirrored.

    Of a volume with more tokens a part is drawn, the same for the same case id, and windows without any are not run.
    Where masks are read, up to half of it is of the foreground. The index has a row a token: ``case``, ``patient``,
    ``split``, its ``window`` [3], its place ``voxel`` [3] in the network's grid and ``mm`` [3], the ``label`` there
    (where masks are read), and ``weight``, tokens of the volume, of foreground or background, for each that was drawn.
    Centre and scale of the store are those of all tokens, by these weights.

    Args:
        model: opened with one fold, on the device where it is to run.
        cohort: of the model's sequences, in their order; of its labels where masks are read.
        hookpoint: one of the model's.
        tokens_per_volume: at most, at least 2.
        with_masks: read masks, to draw half of the tokens from what they label.
        quarantined: ids of cases to leave out.
        folder: an artifact of kind ``"activations"`` is written there, shard by shard; None: kept in memory.
        dtype: how tokens are kept: float32, bfloat16, float16 or int8.
        progress: told after each case.

    Raises:
        VolumeError: a case that is not quarantined cannot be read.
        ValueError: several folds, an unknown hookpoint, a model of pictures, other sequences, no case, or tokens that
            are not finite.
    """
    segmenter = model.segmenter
    segmenter.module_at(hookpoint)
    if model.of_pictures:
        raise ValueError(f"{model.folder} takes pictures, and tokens are read of volumes; give a model of volumes")
    if cohort.sequences != model.sequences:
        raise ValueError(
            f"cohort {cohort.name} has the sequences {', '.join(cohort.sequences)}, the model "
            f"{', '.join(model.sequences)}; read it with sequences=model.sequences"
        )
    if with_masks and dict(cohort.labels) != dict(model.labels):
        raise ValueError(
            f"cohort {cohort.name} has the labels {dict(cohort.labels)}, the model {dict(model.labels)}; read it with "
            "SourceOptions(labels=model.labels, mask_values=...)"
        )
    if tokens_per_volume < 2:
        raise ValueError(f"tokens_per_volume {tokens_per_volume} must be at least 2")
    cases = [case for case in cohort.cases if case.id not in quarantined]
    if not cases:
        raise ValueError(f"{cohort.name}: none of {len(cohort.cases)} cases can be read; `seglens check` says why")
    kind = checked_dtype(dtype)
    split = cohort.split_of()
    asked = {"model": model.hash, "hookpoint": hookpoint, "tokens_per_volume": tokens_per_volume, "dtype": str(kind)}
    asked |= {"with_masks": True} if with_masks else {}
    with ExitStack() as stack:
        inputs = asked | {"cohort": cohort.name, "cases": [case.id for case in cases]}
        draft = None if folder is None else stack.enter_context(new_artifact(folder, kind=KIND, inputs=inputs))
        kept = _Kept(kind, draft)
        rows, files = [], []
        for number, case in enumerate(cases):
            volume = model.read(case, with_mask=with_masks)
            files.append(sorted(volume.sha256.values()))
            tokens, table = _tokens_of(model, volume, hookpoint, tokens_per_volume)
            if not bool(tokens.isfinite().all()):
                raise ValueError(f"activations at {hookpoint!r} are not finite in case {case.id}; check its images")
            kept.take(tokens, torch.from_numpy(table["weight"].to_numpy().copy()))
            rows.append(_with_case(table, case, split.get(case.id)))
            progress(number + 1, len(cases), tokens=float(kept.n_tokens))
        store = kept.store(
            hookpoint=hookpoint,
            segmenter_hash=segmenter.hash,
            samples_hash=hash_of(asked | {"files": files}),
            index=pl.concat(rows),
        )
        if draft is None or folder is None:
            return store
        store.write_head(draft)
    return ActivationStore.read(read_artifact(folder, KIND))


def _tokens_of(
    model: OpenedModel, volume: CaseVolume, hookpoint: str, most: int
) -> tuple[Float[Tensor, "n d_in"], pl.DataFrame]:
    """Tokens of a volume and their places."""
    prepared = model.prepare(volume)
    segmenter, patch = model.segmenter, model.window(prepared.extent)
    front, _ = padding_of(prepared.extent, patch)
    padded = model.tiling.padded(torch.from_numpy(np.ascontiguousarray(prepared.values)), patch)
    fold = next(iter(model.folds))

    @torch.no_grad()
    def grid_at(start: Extent) -> Tensor:
        place = Placement(prepared.case, start, patch, prepared.spacing_mm)
        images = padded[(slice(None), *place.box)][None].contiguous().to(segmenter.device)
        with passing(WindowPass(place.moved((-front[0], -front[1], -front[2])), (), fold)):
            return activations(segmenter, hookpoint, images).cpu()

    first = grid_at((0, 0, 0))
    lattice = _Lattice.of(prepared.extent, patch, grid_of(first), model.tiling)
    windows = list(lattice.windows())
    labelled = [labels_at(lattice.places_of(numbers), prepared, volume) for _, numbers in windows]
    labels = np.concatenate(labelled)
    chosen, weights = _drawn(volume.case, labels, most)
    tokens, starts, places = [], [], []
    before = 0
    for (start, numbers), all_labels in zip(windows, labelled, strict=True):
        own = chosen[(chosen >= before) & (chosen < before + len(all_labels))] - before
        before += len(all_labels)
        if not len(own):
            continue
        at = np.unravel_index(own, lattice.shape(numbers))
        z, y, x = (torch.from_numpy(lattice.owned[axis][number][at[axis]]) for axis, number in enumerate(numbers))
        tokens.append((first if start == (0, 0, 0) else grid_at(start))[0, z, y, x])
        places.append(lattice.places_of(numbers)[own])
        starts.append(np.tile(np.subtract(start, front), (len(own), 1)))
    table = _table(np.concatenate(starts), np.concatenate(places), prepared, volume)
    found = labels[chosen] if volume.mask is not None else None
    return torch.cat(tokens), table.with_columns(
        pl.Series("label", found, dtype=pl.UInt8) if found is not None else pl.lit(None, pl.UInt8).alias("label"),
        pl.Series("weight", weights),
    )


def labels_at(places: NDArray[np.float64], prepared: NetworkVolume, volume: CaseVolume) -> NDArray[np.uint8]:
    """Label of the file's voxel at each place of the network's grid; 0 where there is no mask.

    Args:
        places: [n 3], centres of voxels are whole numbers.
        prepared: the case in that grid.
        volume: the case as its file has it.
    """
    if volume.mask is None:
        return np.zeros(len(places), np.uint8)
    own = np.floor(prepared.crop_places(places) + 0.5).astype(int)
    z, y, x = np.clip(own, 0, np.subtract(volume.mask.shape, 1)).T
    return volume.mask[z, y, x]


def _drawn(case: Case, labels: NDArray[np.uint8], most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers of the tokens that are kept, in order, and their weights; of a case always the same."""
    if len(labels) <= most:
        return np.arange(len(labels)), np.ones(len(labels))
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(case.id.encode()).digest()[:8], "big"))
    foreground, background = np.flatnonzero(labels), np.flatnonzero(labels == 0)
    n_background = min(len(background), most - min(len(foreground), most // 2))
    n_foreground = most - n_background
    numbers, weights = [], []
    for group, n in ((foreground, n_foreground), (background, n_background)):
        numbers.append(generator.choice(group, n, replace=False))
        weights.append(np.full(n, len(group) / max(n, 1)))
    joined = np.concatenate(numbers)
    order = joined.argsort()
    return joined[order], np.concatenate(weights)[order]


def _table(
    starts: NDArray[np.int64],
    places: NDArray[np.float64],
    prepared: NetworkVolume,
    volume: CaseVolume,
) -> pl.DataFrame:
    """A row a token."""
    own = prepared.crop_places(places)[:, ::-1]
    mm = own @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    three = pl.Array(pl.Float32, 3)
    return pl.DataFrame(
        {
            "window": pl.Series(starts.astype(np.int32), dtype=pl.Array(pl.Int32, 3)),
            "voxel": pl.Series(places.astype(np.float32), dtype=three),
            "mm": pl.Series(mm.astype(np.float32), dtype=three),
        }
    )


def _with_case(table: pl.DataFrame, case: Case, split: str | None) -> pl.DataFrame:
    named = (("case", case.id), ("patient", case.patient), ("split", split))
    return table.select(*(pl.lit(value, dtype=pl.String).alias(name) for name, value in named), pl.all())


class _Kept:
    """Tokens in shards, on disk where there is a draft, and their weighted moments."""

    def __init__(self, dtype: torch.dtype, draft: Draft | None):
        self.n_tokens = 0
        self._dtype, self._draft, self._chunks = dtype, draft, Chunks()
        self._waiting: list[Tensor] = []
        self._shards: list[Shard] = []
        self._facts: list[ShardFacts] = []
        self._weight = self._energy = 0.0
        self._sums: Tensor | float = 0.0

    def take(self, tokens: Float[Tensor, "n d_in"], weights: Float[Tensor, " n"]) -> None:
        """Keep the tokens of a volume; full shards are done with."""
        exact = tokens.double()
        self.n_tokens += len(tokens)
        self._weight += float(weights.sum())
        self._sums = self._sums + weights @ exact
        self._energy += float(weights @ exact.square().sum(1))
        self._waiting.append(tokens)
        size = max(1, SHARD_BYTES // (4 * tokens.shape[1]))
        while sum(map(len, self._waiting)) >= size:
            together = torch.cat(self._waiting)
            self._finish(together[:size])
            self._waiting = [together[size:]]

    def store(self, *, hookpoint: str, segmenter_hash: str, samples_hash: str, index: pl.DataFrame) -> ActivationStore:
        """All of it, with the weighted centre and scale."""
        rest = torch.cat(self._waiting)
        if len(rest):
            self._finish(rest)
        sums = torch.as_tensor(self._sums)
        centre = sums / self._weight
        energy = max(self._energy - float(sums @ centre), 0.0) * self.n_tokens / self._weight
        shards: Shards = tuple(self._shards)
        if self._draft is not None:
            shards = ShardFiles(self._draft.path, len(self._facts))
        return ActivationStore.assembled(
            shards,
            self._facts,
            centre.float(),
            energy,
            hookpoint=hookpoint,
            segmenter_hash=segmenter_hash,
            slices_hash=samples_hash,
            index=index,
        )

    def _finish(self, tokens: Float[Tensor, "n d_in"]) -> None:
        shard, facts = kept_shard(tokens[:, None, None, None].contiguous(), self._dtype, self._chunks)
        if self._draft is None:
            self._shards.append(shard)
        else:
            self._draft.save_tensors(shard_name(len(self._facts)), shard.tensors())
        self._facts.append(facts)
