"""Activations of a cohort at one hookpoint, as tokens that know their sample and their place in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.moments import Chunks, ShardFacts, centre_of, energies_of, facts_of, scale_of, total_of
from seglens.activations.shards import Shard, ShardFiles, Shards, shard_name
from seglens.activations.shuffling import fits_in_buffer, shuffled_batches, slices_in_block
from seglens.artifacts import Artifact, Draft, hash_of, hash_tensors
from seglens.shapes import Extent, TokenGrid, Tokens, flat_extent, full_extent, grid_of, with_depth

KIND = "activations"
SHARD_BYTES = 64 * 2**20
"""Of a shard's tokens as float32."""


@dataclass(frozen=True, eq=False)
class ActivationStore:
    """Tokens in shards; those on disk are opened when they are read, so a store may exceed the memory.

    Tokens of a sample follow each other slice by slice of the grid, in it row by row: token t belongs to sample
    ``t // (d*h*w)``, row ``(t % (h*w)) // w``, column ``t % w``.

    Attributes:
        hookpoint: where the activations were read.
        segmenter_hash: of the network that computed them.
        slices_hash: of the SliceSet that it saw.
        grid: slices d, rows h and columns w of tokens of a sample.
        d_in: width of a token.
        centre: mean token ``[d_in]``, float32.
        scale: such that E||(h - centre) * scale||^2 = d_in.
        index: the SliceSet's index: one row a slice, in order.
        hash: identity of the content.
        shards: grids of consecutive slices, all but the last of the same length.
        quantisation_error: share of the tokens' variance that keeping them in a narrower type lost,
            E||kept - h||^2 / E||h - centre||^2; 0 for float32, and where the tokens came in their type.
        transform: matrix ``[d_in d_in]`` applied to ``h - centre`` when tokens are read; None: as they are.
    """

    hookpoint: str
    segmenter_hash: str
    slices_hash: str
    grid: Extent
    d_in: int
    centre: Tensor
    scale: float
    index: pl.DataFrame
    hash: str
    shards: Shards = field(repr=False)
    quantisation_error: float = 0.0
    transform: Tensor | None = field(default=None, repr=False)

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return len(self.index)

    @property
    def n_tokens(self) -> int:
        """Number of tokens, ``n_slices * d * h * w``."""
        return self.n_slices * prod(self.grid)

    def __len__(self) -> int:
        return self.n_tokens

    def tokens(self, rows: Tensor) -> Tokens:
        """Tokens ``[n d_in]`` in the activation's own scale, float32.

        Args:
            rows: token numbers ``[n]``, any order.

        Raises:
            ValueError: a number that is not in the store.
        """
        return self._transformed(self._gather(rows, "token"))

    def slice_tokens(self, slice_rows: Sequence[int] | Tensor) -> TokenGrid:
        """Grids ``[B d h w d_in]`` of whole samples, float32."""
        return self._transformed(self._gather(torch.as_tensor(slice_rows), "slice"))

    def random_batches(self, batch_size: int, generator: torch.Generator, *, first: int = 0) -> Iterator[Tokens]:
        """One pass over all tokens in random order; every token comes once, the last batch may be smaller.

        Up to 256 MiB of float32 tokens (`shuffling.BUFFER_BYTES`) are permuted as a whole. Of a larger store blocks of
        consecutive slices in random order go through a buffer of that size, and are mixed in it
        (`shuffling.shuffled_batches`): the memory does not grow with the store, and every block is read once.

        Args:
            batch_size: tokens a batch.
            generator: decides the order.
            first: number of the batch to begin with, for a fit that goes on; what lies before it is not read.
        """
        if fits_in_buffer(self.n_tokens, self.d_in):
            order = torch.randperm(self.n_tokens, generator=generator, dtype=torch.int32)
            for rows in order[first * batch_size :].split(batch_size):
                if len(rows):
                    yield self.tokens(rows.long())
            return
        tokens_in_slice = prod(self.grid)
        for tokens in shuffled_batches(
            self._run,
            n_slices=self.n_slices,
            tokens_in_slice=tokens_in_slice,
            d_in=self.d_in,
            block=min(slices_in_block(tokens_in_slice, self.d_in), self._slices_in_shard),
            batch_size=batch_size,
            generator=generator,
            first=first,
        ):
            yield self._transformed(tokens)

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
        if rotation:
            return store
        chunks = Chunks()
        energy = total_of(energies_of(shard, chunks, self.centre, whole) for shard in self.shards)
        return replace(store, scale=scale_of(energy, self.n_tokens, self.d_in))

    @classmethod
    def from_grids(
        cls,
        grids: Tensor | Sequence[Tensor],
        *,
        hookpoint: str,
        segmenter_hash: str,
        slices_hash: str,
        index: pl.DataFrame | None = None,
    ) -> "ActivationStore":
        """A store of given grids (or of shards of them), with its centre, scale and hash.

        Args:
            grids: the activations ``[n d h w d_in]``, of slices also ``[n h w d_in]``, kept in their own type.
            hookpoint: where they were read.
            segmenter_hash: of the network.
            slices_hash: of the SliceSet.
            index: one row a slice; None: only the row numbers.

        Raises:
            ValueError: values that are not finite, or an index of another length.
        """
        given = (grids,) if isinstance(grids, Tensor) else tuple(grids)
        shards = tuple(Shard(with_depth(values, 5, 1)) for values in given)
        n_slices = sum(len(shard) for shard in shards)
        if index is None:
            index = pl.DataFrame({"row": pl.Series(range(n_slices), dtype=pl.UInt32)})
        if len(index) != n_slices:
            raise ValueError(f"{n_slices} slices of activations and {len(index)} rows of index; give one row a slice")
        chunks = Chunks()
        facts = [facts_of(shard, chunks) for shard in shards]
        centre = centre_of(facts)
        if not bool(centre.isfinite().all()):
            raise ValueError("activations are not finite; find the slice with seglens.activations.extraction.extract")
        return cls.assembled(
            shards,
            facts,
            centre,
            total_of(energies_of(shard, chunks, centre) for shard in shards),
            hookpoint=hookpoint,
            segmenter_hash=segmenter_hash,
            slices_hash=slices_hash,
            index=index,
        )

    @classmethod
    def assembled(
        cls,
        shards: Shards,
        facts: Sequence[ShardFacts],
        centre: Float[Tensor, " d_in"],
        energy: float,
        *,
        hookpoint: str,
        segmenter_hash: str,
        slices_hash: str,
        index: pl.DataFrame,
    ) -> "ActivationStore":
        """A store of shards that have been measured.

        Args:
            shards: in order.
            facts: of each of them.
            centre: the mean token.
            energy: ``sum ||h - centre||^2`` over all tokens.
            hookpoint: where they were read.
            segmenter_hash: of the network.
            slices_hash: of the SliceSet.
            index: one row a slice.
        """
        identity = {
            "hookpoint": hookpoint,
            "segmenter": segmenter_hash,
            "slices": slices_hash,
            "shards": [shard.hash for shard in facts],
        }
        d_in = shards[0].values.shape[-1]
        grid = grid_of(shards[0].values)
        lost = sum(shard.squared_error for shard in facts)
        return cls(
            hookpoint,
            segmenter_hash,
            slices_hash,
            grid,
            d_in,
            centre,
            scale_of(energy, len(index) * prod(grid), d_in),
            index,
            hash_of(identity),
            shards,
            quantisation_error=lost / energy if energy > 0 else 0.0,
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
            draft.save_tensors(shard_name(number), shard.tensors())
        self.write_head(draft)

    def write_head(self, draft: Draft) -> None:
        """Write all but the shards."""
        draft.save_tensors("centre", {"centre": self.centre})
        draft.save_table("index", self.index)
        draft.save_document("activations", self._head())

    def _head(self) -> Mapping[str, Any]:
        head = {
            "hookpoint": self.hookpoint,
            "segmenter_hash": self.segmenter_hash,
            "slices_hash": self.slices_hash,
            "grid": flat_extent(self.grid),
            "d_in": self.d_in,
            "scale": self.scale,
            "hash": self.hash,
            "n_shards": len(self.shards),
        }
        # float32 stores are written as they were before there were other types: the same bytes, the same hash
        return head | ({"quantisation_error": self.quantisation_error} if self.quantisation_error else {})

    @classmethod
    def read(cls, artifact: Artifact) -> "ActivationStore":
        """Open a written store; its tokens stay on disk until they are asked for."""
        head = artifact.document("activations")
        return cls(
            head["hookpoint"],
            head["segmenter_hash"],
            head["slices_hash"],
            full_extent(head["grid"]),
            head["d_in"],
            artifact.tensors("centre")["centre"],
            head["scale"],
            artifact.table("index"),
            head["hash"],
            ShardFiles(artifact.path, head["n_shards"], artifact),
            quantisation_error=head.get("quantisation_error", 0.0),
        )

    @cached_property
    def _slices_in_shard(self) -> int:
        return len(self.shards[0])

    def _gather(self, rows: Tensor, unit: Literal["token", "slice"]) -> Tensor:
        rows = rows.reshape(-1).long()
        units_in_slice = prod(self.grid) if unit == "token" else 1
        n_units = self.n_slices * units_in_slice
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= n_units):
            raise ValueError(f"{unit} {int(rows.min())}..{int(rows.max())}: the store has {unit}s 0..{n_units - 1}")
        units_in_shard = self._slices_in_shard * units_in_slice
        owners = rows // units_in_shard
        parts = owners.unique().tolist()
        if len(parts) == 1:
            return self._part(parts[0], unit, rows - parts[0] * units_in_shard)
        collected = torch.empty(len(rows), *(self.grid if unit == "slice" else ()), self.d_in)
        for owner in parts:
            here = (owners == owner).nonzero().squeeze(1)
            collected.index_copy_(0, here, self._part(owner, unit, rows[here] - owner * units_in_shard))
        return collected

    def _run(self, start: int, stop: int) -> TokenGrid:
        """Consecutive slices as they are kept, not copied where they are in one shard."""
        n = self._slices_in_shard
        parts = [
            self.shards[number].grids(slice(max(start - number * n, 0), stop - number * n))
            for number in range(start // n, (stop - 1) // n + 1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, number: int, unit: Literal["token", "slice"], rows: Tensor) -> Tensor:
        shard = self.shards[number]
        return shard.tokens(rows) if unit == "token" else shard.grids(rows)

    def _transformed(self, tokens: Tensor) -> Tensor:
        if self.transform is None:
            return tokens
        return (tokens - self.centre) @ self.transform + self.centre
