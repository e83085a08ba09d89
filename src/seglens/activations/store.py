"""Activations of a cohort at one hookpoint, as tokens that know their slice, row and column."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.artifacts import Artifact, Draft, hash_of, hash_tensors
from seglens.shapes import TokenGrid, Tokens

KIND = "activations"
SHARD_BYTES = 64 * 2**20
CHUNK = 2**16


@dataclass(frozen=True, eq=False)
class ActivationStore:
    """Tokens in shards; read from disk they are memory-mapped, so a store may exceed the memory.

    Token t belongs to slice ``t // (h*w)``, row ``(t % (h*w)) // w``, column ``t % w`` of the grid.

    Attributes:
        hookpoint: where the activations were read.
        segmenter_hash: of the network that computed them.
        slices_hash: of the SliceSet that it saw.
        grid: rows h and columns w of tokens of a slice.
        d_in: width of a token.
        centre: mean token ``[d_in]``, float32.
        scale: such that E||(h - centre) * scale||^2 = d_in.
        index: the SliceSet's index: one row a slice, in order.
        hash: identity of the content.
        shards: grids of consecutive slices ``[b h w d_in]``, all but the last of the same length.
        transform: matrix ``[d_in d_in]`` applied to ``h - centre`` when tokens are read; None: as they are.
    """

    hookpoint: str
    segmenter_hash: str
    slices_hash: str
    grid: tuple[int, int]
    d_in: int
    centre: Tensor
    scale: float
    index: pl.DataFrame
    hash: str
    shards: tuple[Tensor, ...] = field(repr=False)
    transform: Tensor | None = field(default=None, repr=False)

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return sum(len(shard) for shard in self.shards)

    @property
    def n_tokens(self) -> int:
        """Number of tokens, ``n_slices * h * w``."""
        return self.n_slices * self.grid[0] * self.grid[1]

    def __len__(self) -> int:
        return self.n_tokens

    def tokens(self, rows: Tensor) -> Tokens:
        """Tokens ``[n d_in]`` in the activation's own scale, float32.

        Args:
            rows: token numbers ``[n]``, any order.

        Raises:
            ValueError: a number that is not in the store.
        """
        return self._transformed(self._gather(rows, "token", self.grid[0] * self.grid[1]))

    def slice_tokens(self, slice_rows: Sequence[int] | Tensor) -> TokenGrid:
        """Grids ``[B h w d_in]`` of whole slices, float32."""
        return self._transformed(self._gather(torch.as_tensor(slice_rows), "slice", 1))

    def random_batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tokens]:
        """One pass over all tokens in random order; every token comes once, the last batch may be smaller.

        In memory are one batch and the order (4 bytes a token).

        Args:
            batch_size: tokens a batch.
            generator: decides the order.
        """
        kind = torch.int32 if self.n_tokens < 2**31 else torch.int64
        order = torch.randperm(self.n_tokens, generator=generator, dtype=kind)
        for rows in order.split(batch_size):
            yield self.tokens(rows.long())

    def batches(self, batch_size: int) -> Iterator[Tokens]:
        """All tokens in order, ``batch_size`` at a time."""
        for start in range(0, self.n_tokens, batch_size):
            yield self.tokens(torch.arange(start, min(start + batch_size, self.n_tokens)))

    def transformed(self, matrix: Float[Tensor, "d_in d_in"]) -> "ActivationStore":
        """A store whose tokens are ``(h - centre) @ matrix + centre``, computed when they are read.

        With a random rotation it is a null for every comparison of dictionaries: the same spectrum, other directions.

        Raises:
            ValueError: a matrix of another width.
        """
        if tuple(matrix.shape) != (self.d_in, self.d_in):
            raise ValueError(f"the matrix is {tuple(matrix.shape)}; tokens are {self.d_in} wide: give [d_in d_in]")
        matrix = matrix.float()
        whole = matrix if self.transform is None else self.transform @ matrix
        identity = hash_of({"store": self.hash, "transform": hash_tensors({"matrix": matrix})})
        store = replace(self, transform=whole, hash=identity)
        rotation = torch.allclose(matrix @ matrix.T, torch.eye(self.d_in), atol=1e-4)
        return store if rotation else replace(store, scale=scale_of(store.shards, self.centre, whole))

    @classmethod
    def from_grids(
        cls,
        grids: TokenGrid | Sequence[Tensor],
        *,
        hookpoint: str,
        segmenter_hash: str,
        slices_hash: str,
        index: pl.DataFrame | None = None,
    ) -> "ActivationStore":
        """A store of given grids ``[n_slices h w d_in]`` (or of shards of them), with its centre, scale and hash.

        Args:
            grids: the activations, kept in their own type.
            hookpoint: where they were read.
            segmenter_hash: of the network.
            slices_hash: of the SliceSet.
            index: one row a slice; None: only the row numbers.

        Raises:
            ValueError: values that are not finite, or an index of another length.
        """
        shards = (grids,) if isinstance(grids, Tensor) else tuple(grids)
        _, rows, columns, d_in = shards[0].shape
        n_slices = sum(len(shard) for shard in shards)
        if index is None:
            index = pl.DataFrame({"row": pl.Series(range(n_slices), dtype=pl.UInt32)})
        if len(index) != n_slices:
            raise ValueError(f"{n_slices} slices of activations and {len(index)} rows of index; give one row a slice")
        centre = mean_of(shards)
        if not bool(centre.isfinite().all()):
            raise ValueError("activations are not finite; find the slice with seglens.activations.extraction.extract")
        head = {
            "hookpoint": hookpoint,
            "segmenter": segmenter_hash,
            "slices": slices_hash,
            "shards": [hash_tensors({"tokens": shard}) for shard in shards],
        }
        scale = scale_of(shards, centre)
        return cls(
            hookpoint, segmenter_hash, slices_hash, (rows, columns), d_in, centre, scale, index, hash_of(head), shards
        )

    def write(self, draft: Draft) -> None:
        """Write the shards, the index and what names them into a draft of kind ``activations``.

        Raises:
            ValueError: a transformed store; write the one that it was made from.
        """
        if self.transform is not None:
            raise ValueError(
                "a transformed store is made again with transformed(matrix), not written; write its original"
            )
        for number, shard in enumerate(self.shards):
            draft.save_tensors(shard_name(number), {"tokens": shard})
        self.write_head(draft)

    def write_head(self, draft: Draft) -> None:
        """Write all but the shards."""
        draft.save_tensors("centre", {"centre": self.centre})
        draft.save_table("index", self.index)
        draft.save_document("activations", self._head())

    def _head(self) -> Mapping[str, Any]:
        return {
            "hookpoint": self.hookpoint,
            "segmenter_hash": self.segmenter_hash,
            "slices_hash": self.slices_hash,
            "grid": list(self.grid),
            "d_in": self.d_in,
            "scale": self.scale,
            "hash": self.hash,
            "n_shards": len(self.shards),
        }

    @classmethod
    def read(cls, artifact: Artifact) -> "ActivationStore":
        """Open a written store; its tokens stay on disk until they are asked for."""
        head = artifact.document("activations")
        shards = tuple(artifact.tensors(shard_name(number))["tokens"] for number in range(head["n_shards"]))
        return cls(
            head["hookpoint"],
            head["segmenter_hash"],
            head["slices_hash"],
            (head["grid"][0], head["grid"][1]),
            head["d_in"],
            artifact.tensors("centre")["centre"],
            head["scale"],
            artifact.table("index"),
            head["hash"],
            shards,
        )

    def _gather(self, rows: Tensor, unit: str, per_slice: int) -> Tensor:
        rows = rows.reshape(-1).long()
        n_units = self.n_slices * per_slice
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= n_units):
            raise ValueError(f"{unit} {int(rows.min())}..{int(rows.max())}: the store has {unit}s 0..{n_units - 1}")
        flat = [shard.flatten(0, 2) if unit == "token" else shard for shard in self.shards]
        if len(flat) == 1:
            return flat[0][rows].float()
        gathered = torch.empty((len(rows), *flat[0].shape[1:]))
        owners = rows // len(flat[0])
        for owner in owners.unique().tolist():
            here = (owners == owner).nonzero().squeeze(1)
            gathered[here] = flat[owner][rows[here] - owner * len(flat[0])].float()
        return gathered

    def _transformed(self, tokens: Tensor) -> Tensor:
        if self.transform is None:
            return tokens
        return (tokens - self.centre) @ self.transform + self.centre


def shard_name(number: int) -> str:
    """File name (without ending) of a shard."""
    return f"shard_{number:05d}"


def mean_of(shards: Sequence[Tensor]) -> Float[Tensor, " d_in"]:
    """Mean token, summed in float64."""
    total = sum(part.double().sum(0) for part in _chunks(shards))
    assert isinstance(total, Tensor)
    return (total / sum(shard.shape[:3].numel() for shard in shards)).float()


def scale_of(shards: Sequence[Tensor], centre: Tensor, transform: Tensor | None = None) -> float:
    """The s such that E||(h - centre) * s||^2 = d_in; 1 where all tokens are the same."""
    energy = 0.0
    for part in _chunks(shards):
        deviation = part.float() - centre
        energy += float((deviation if transform is None else deviation @ transform).double().square().sum())
    mean_energy = energy / sum(shard.shape[:3].numel() for shard in shards)
    return (centre.numel() / mean_energy) ** 0.5 if mean_energy > 0 else 1.0


def _chunks(shards: Sequence[Tensor]) -> Iterator[Tensor]:
    """Tokens of all shards in order, some at a time."""
    for shard in shards:
        yield from shard.flatten(0, 2).split(CHUNK)
