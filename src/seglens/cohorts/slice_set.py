"""A set of samples (axial slices, or volumes) as tensors: in memory, or in shards on disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import polars as pl
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from seglens.artifacts import Artifact, Draft, hash_of, hash_tensors
from seglens.cohorts.blanking import BlankedLabel, blanked_json, read_blanked
from seglens.cohorts.label_names import refuse_labels
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slice_shards import SliceShard, SliceShardFiles, rows_per_shard, shard_name
from seglens.shapes import BrainMasks, Extent, Images, Masks, extent_of

KIND = "slices"
DOCUMENT = "slices"
INDEX = "index"
SLICE_SPACING = "spacing_slice_mm"
"""Column of the index of a set of volumes: distance of their slices, mm, Float32."""
ENDS = ("from_slice", "to_slice", "from_row", "to_row", "from_column", "to_column")
"""Columns of the index of a set of windows: where in a window, voxels, the foreground of its volume begins (inferior,
anterior, the patient's right) and ends (superior, posterior, left); null along an axis of the grid that is not the
patient's. Float32."""
Ends = tuple[float, float]
Spacing = tuple[float | None, float | None, float | None]


@dataclass(frozen=True, eq=False)
class SliceSet:
    """Slices of one cohort, in shards; those on disk are mapped, a few at a time, so a set may exceed the memory.

    Rows of a slice run from anterior to posterior, columns from the patient's right to left.

    Attributes:
        name: the cohort's.
        sequences: the channels, in order.
        labels: value in the masks to class name.
        index: one row a slice, in order: row (UInt32), case, patient, volume, position (Int32, slice number in its
            volume), spacing_row_mm, spacing_column_mm (Float32, of the resized pixels; null where unknown), split,
            origin (UInt32, row in the set first prepared); of volumes also spacing_slice_mm.
        hash: identity of the content.
        preprocessing: how they were made of files, a network trained on them keeps it; None where they were not made of
            files, or nobody said how.
        blanked: label pixels that the foreground rule blanked, in the whole cohort that the set was first prepared of.
        labelled: False of a cohort without masks: `masks` refuses: background is no truth.
    """

    name: str
    sequences: tuple[str, ...]
    labels: Mapping[int, str]
    index: pl.DataFrame
    hash: str
    shards: "tuple[SliceShard, ...] | SliceShardFiles" = field(repr=False)
    places: Tensor = field(repr=False)  # [n] of each row of this set: its place in the concatenated shards
    preprocessing: Preprocessing | None = None
    blanked: tuple[BlankedLabel, ...] = ()
    labelled: bool = True

    COLUMNS: ClassVar[Mapping[str, type[pl.DataType]]] = {
        "row": pl.UInt32,
        "case": pl.String,
        "patient": pl.String,
        "volume": pl.String,
        "position": pl.Int32,
        "spacing_row_mm": pl.Float32,
        "spacing_column_mm": pl.Float32,
        "split": pl.String,
        "origin": pl.UInt32,
    }

    def __post_init__(self) -> None:
        refuse_labels(f"the slices of {self.name}", self.labels)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def size(self) -> Extent:
        """Slices, rows and columns of a sample."""
        return extent_of(self.shards[0].images)

    def images(self, rows: Sequence[int] | Tensor | None = None) -> Images:
        """Normalised samples [B C D H W] float32; ``rows`` None gives all of them."""
        return self._gather("images", rows)

    def masks(self, rows: Sequence[int] | Tensor | None = None) -> Masks:
        """Label values [B D H W] uint8.

        Raises:
            ValueError: the cohort has no masks.
        """
        if not self.labelled:
            raise ValueError(
                f"{self.name} is a cohort without masks (labelled: false), and this needs them; take a labelled one, "
                "or what needs none: predictions, dictionaries, alignment, `seglens audit`"
            )
        return self._gather("masks", rows)

    def brains(self, rows: Sequence[int] | Tensor | None = None) -> BrainMasks:
        """Foreground masks [B D H W] bool: where images are shown, all else is 0."""
        return self._gather("brains", rows)

    def spacing_mm(self, rows: Sequence[int]) -> list[Spacing]:
        """Distance of slices, rows and columns of these samples, mm; None where the set does not say it."""
        own = self.index[list(rows)]
        apart = pl.col(SLICE_SPACING) if SLICE_SPACING in own.columns else pl.lit(None)
        return own.select(apart, "spacing_row_mm", "spacing_column_mm").rows()

    @property
    def of_windows(self) -> bool:
        """Whether samples are windows, which show a part of what their volume does."""
        return ENDS[0] in self.index.columns

    def ends(self, row: int) -> list[Ends] | None:
        """Where the foreground of a window's volume begins and ends along slices, rows and columns (`ENDS`), voxels.

        NaN along an axis that is not the patient's; None for samples that show all of their volume.
        """
        if not self.of_windows:
            return None
        places = self.index.select(pl.col(ENDS).fill_null(float("nan"))).row(row)
        return list(zip(places[::2], places[1::2], strict=True))

    def select(self, rows: Sequence[int] | Tensor) -> "SliceSet":
        """These rows, in this order, numbered from 0 again; no pixel is copied."""
        chosen = self._checked(rows)
        if torch.equal(chosen, torch.arange(len(self))):
            return self
        index = self.index[chosen.numpy()].with_columns(pl.int_range(len(chosen), dtype=pl.UInt32).alias("row"))
        identity = hash_of({"slices": self.hash, "rows": chosen.tolist()})
        return replace(self, index=index, hash=identity, places=self.places[chosen].clone())

    def split(self, name: str) -> "SliceSet":
        """The slices of one split.

        Raises:
            ValueError: no slice is in it.
        """
        rows = self.index.filter(pl.col("split") == name)["row"].to_list()
        if not rows:
            known = ", ".join(sorted(self.index["split"].unique().to_list())) or "none"
            raise ValueError(f"{self.name} has no slice in the split {name!r}; it has {known}")
        return self.select(rows)

    @property
    def train(self) -> "SliceSet":
        """The slices of the split ``train``."""
        return self.split("train")

    @property
    def val(self) -> "SliceSet":
        """The slices of the split ``val``."""
        return self.split("val")

    @property
    def test(self) -> "SliceSet":
        """The slices of the split ``test``."""
        return self.split("test")

    def batches(self, batch_size: int) -> Iterator[list[int]]:
        """Row numbers in order, ``batch_size`` at a time; the last batch may be smaller."""
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} must be at least 1")
        for start in range(0, len(self), batch_size):
            yield list(range(start, min(start + batch_size, len(self))))

    @classmethod
    def from_tensors(
        cls,
        images: Float[Tensor, "n C *space"],
        masks: UInt8[Tensor, "n *space"] | None,
        brains: Bool[Tensor, "n *space"],
        index: pl.DataFrame,
        *,
        name: str,
        sequences: Sequence[str],
        labels: Mapping[int, str],
        preprocessing: Preprocessing | None = None,
    ) -> "SliceSet":
        """A set in memory.

        Args:
            images: [n C D H W], or [n C H W] of slices; kept as float32.
            masks: [n D H W] or [n H W] uint8; None: there are none.
            brains: [n D H W] or [n H W] bool.
            index: one row a sample; ``case`` must be there, of the other columns those that are missing are filled
                (patient and volume: the case; position: the number within the volume; spacing: 1 mm; split: test).
            name: the cohort's.
            sequences: C names.
            labels: value to class name.
            preprocessing: how the images were made of files, where that is known.

        Raises:
            ValueError: lengths that do not fit, a mask value without a label, or a preprocessing of other sequences.
        """
        labelled = masks is not None
        if masks is None:
            masks = torch.zeros(brains.shape, dtype=torch.uint8)
        if not len(images) == len(masks) == len(brains) == len(index):
            raise ValueError(
                f"{len(images)} images, {len(masks)} masks, {len(brains)} brain masks and {len(index)} rows of index; "
                "give as many of each"
            )
        if preprocessing is not None and preprocessing.sequences != tuple(sequences):
            raise ValueError(
                f"preprocessing has the sequences {preprocessing.sequences}, the images {tuple(sequences)}; give both "
                "the same"
            )
        shard = SliceShard.of(images.float(), masks, brains)
        index = complete_index(index)
        return assemble(
            [shard],
            index,
            name=name,
            sequences=tuple(sequences),
            labels=labels,
            preprocessing=preprocessing,
            labelled=labelled,
        )

    def write(self, draft: Draft) -> None:
        """Write the shards, the index and what names them into a draft of kind ``slices``."""
        step = rows_per_shard(len(self.sequences), self.size)
        starts = range(0, len(self), step)
        for number, start in enumerate(starts):
            rows = torch.arange(start, min(start + step, len(self)))
            shard = SliceShard(self.images(rows), self._gather("masks", rows), self.brains(rows))
            draft.save_tensors(shard_name(number), shard.tensors())
        write_head(draft, self, len(starts))

    @classmethod
    def read(cls, artifact: Artifact) -> "SliceSet":
        """Open a written set; its pixels stay on disk until they are asked for."""
        head = artifact.document(DOCUMENT)
        shards = SliceShardFiles(artifact, head["n_shards"])
        labels = {int(value): name for value, name in head["labels"].items()}
        index = artifact.table(INDEX)
        return cls(
            head["name"],
            tuple(head["sequences"]),
            labels,
            index,
            head["hash"],
            shards,
            torch.arange(len(index)),
            Preprocessing.from_json(head["preprocessing"]),
            read_blanked(head["blanked"]),
            head.get("labelled", True),
        )

    def _checked(self, rows: Sequence[int] | Tensor) -> Tensor:
        chosen = torch.as_tensor(rows, dtype=torch.int64).reshape(-1)
        if len(chosen) and (int(chosen.min()) < 0 or int(chosen.max()) >= len(self)):
            raise ValueError(
                f"rows {int(chosen.min())}..{int(chosen.max())} of {self.name}: they must be in 0..{len(self) - 1}"
            )
        return chosen

    def _gather(self, what: str, rows: Sequence[int] | Tensor | None) -> Tensor:
        places = self.places if rows is None else self.places[self._checked(rows)]
        ends = self._ends
        owner = torch.searchsorted(ends, places, right=True)
        first: Tensor = getattr(self.shards[0], what)
        collected = torch.empty((len(places), *first.shape[1:]), dtype=first.dtype)
        for number in owner.unique().tolist():
            here = (owner == number).nonzero().squeeze(1)
            shard = self.shards[number]
            collected[here] = getattr(shard, what)[places[here] - (int(ends[number]) - len(shard))]
        return collected

    @cached_property
    def _ends(self) -> Tensor:
        return torch.tensor([len(shard) for shard in self.shards]).cumsum(0)


def evenly_spaced(n: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0..n-1, evenly spaced over all of them."""
    return [number * n // most for number in range(most)] if n > most else list(range(n))


def complete_index(index: pl.DataFrame) -> pl.DataFrame:
    """Fill the columns that are missing (see `SliceSet.from_tensors`), number the rows, order and type the columns."""
    if "case" not in index.columns:
        raise ValueError(f"the index has the columns {index.columns}; it needs at least 'case'")
    number = pl.int_range(len(index))
    for name, value in (
        ("patient", pl.col("case")),
        ("volume", pl.col("case")),
        ("position", pl.int_range(pl.len()).over("volume")),
        ("spacing_row_mm", pl.lit(1.0)),
        ("spacing_column_mm", pl.lit(1.0)),
        ("split", pl.lit("test")),
        ("origin", number),
    ):
        if name not in index.columns:
            index = index.with_columns(value.alias(name))
    index = index.with_columns(number.alias("row"))
    others = [name for name in index.columns if name not in SliceSet.COLUMNS]
    return index.select(*(pl.col(name).cast(kind) for name, kind in SliceSet.COLUMNS.items()), *others)


def assemble(
    shards: Sequence[SliceShard],
    index: pl.DataFrame,
    *,
    name: str,
    sequences: tuple[str, ...],
    labels: Mapping[int, str],
    preprocessing: Preprocessing | None = None,
    blanked: Sequence[BlankedLabel] = (),
    labelled: bool = True,
    shard_hashes: Sequence[str] | None = None,
) -> SliceSet:
    """A set of shards whose rows are in the order of ``index``; the hash follows from the content."""
    hashes = list(shard_hashes) if shard_hashes is not None else [hash_tensors(shard.tensors()) for shard in shards]
    identity = hash_of(
        {
            "name": name,
            "sequences": list(sequences),
            "labels": {str(value): label for value, label in labels.items()},
            "index": index.write_csv(),
            "shards": hashes,
            "preprocessing": preprocessing and preprocessing.to_json(),
            **only_if_bare(labelled=labelled),
        }
    )
    return SliceSet(
        name,
        sequences,
        dict(labels),
        index,
        identity,
        tuple(shards),
        torch.arange(len(index)),
        preprocessing,
        tuple(blanked),
        labelled,
    )


def only_if_bare(*, labelled: bool) -> dict[str, bool]:
    """Entry of records and hashes of a set without masks; none of one with masks."""
    return {} if labelled else {"labelled": False}


def write_head(draft: Draft, slices: SliceSet, n_shards: int) -> None:
    """Write all but the shards."""
    draft.save_table(INDEX, slices.index)
    draft.save_document(
        DOCUMENT,
        {
            "name": slices.name,
            "sequences": list(slices.sequences),
            "labels": {str(value): label for value, label in slices.labels.items()},
            "hash": slices.hash,
            "n_shards": n_shards,
            "preprocessing": slices.preprocessing and slices.preprocessing.to_json(),
            "blanked": blanked_json(slices.blanked),
            **only_if_bare(labelled=slices.labelled),
        },
    )
