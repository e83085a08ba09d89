"""The loop over batches of slices: images to the device, whatever is done with them, in halves where memory runs out.

Whoever runs a segmenter over slices does it here, so memory, processes and progress are cared for in one place.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch

from seglens.runtime.distributed import gather_object, rank_range
from seglens.runtime.oom import Halving
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images

T = TypeVar("T")
MAX_BATCH_VOXELS = 2**22
"""Of one pass: 16 slices of 512 x 512, 2 windows of 128 x 128 x 128; a process that takes too much is killed."""


@runtime_checkable
class ImageSource(Protocol):
    """Numbered slices, such as a SliceSet."""

    def __len__(self) -> int:
        """How many."""

    def images(self, rows: Sequence[int]) -> Images:
        """Normalised slices ``[B C D H W]`` of these numbers."""


def samples_at_once(segmenter: Segmenter, batch_size: int) -> int:
    """At most ``batch_size`` samples of a network's own size, and no more than `MAX_BATCH_VOXELS`, but one at least.

    Raises:
        ValueError: batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    return min(batch_size, max(1, MAX_BATCH_VOXELS // prod(segmenter.extent)))


class BatchWork(Generic[T]):
    """Work on any batch of some slices, in halves from the first one on that the device has no memory for.

    Args:
        work: from rows and their images, on the segmenter's device, to a result. It is called again where memory runs
            out, so it leaves nothing behind that a second call would repeat. Gradients are off around it.
        segmenter: on the device where it is to run.
        source: the slices.
        what: what is done, for the message where memory runs out.
        fix: what to change where it does.
    """

    def __init__(
        self,
        work: Callable[[Sequence[int], Images], T],
        segmenter: Segmenter,
        source: ImageSource,
        *,
        what: str = "predictions",
        fix: str = "give a smaller batch_size",
    ):
        self._work, self._source = work, source
        self._device = segmenter.device  # finding it walks through all modules: once, not once a batch
        self._halving = Halving(what, fix)

    def parts(self, rows: Sequence[int]) -> list[tuple[Sequence[int], T]]:
        """Rows and results: of the whole batch, or of each half of it.

        Raises:
            NotEnoughMemoryError: half of the rows are too many too.
        """
        return self._halving.parts(self._done, rows)

    @torch.no_grad()
    def _done(self, rows: Sequence[int]) -> tuple[Sequence[int], T]:
        return rows, self._work(rows, self._source.images(rows).to(self._device))


def each_batch(
    work: Callable[[Sequence[int], Images], T],
    segmenter: Segmenter,
    source: ImageSource,
    *,
    batch_size: int,
    deal: bool = False,
    what: str = "predictions",
    fix: str = "give a smaller batch_size",
    progress: Progress = silent,
) -> Iterator[tuple[Sequence[int], T]]:
    """Rows and results of all slices in order, batch by batch; what was yielded may be forgotten before the next.

    Args:
        work: from rows and images ``[B C D H W]`` on the segmenter's device to a result, as in `BatchWork`.
        segmenter: on the device where it is to run.
        source: the slices.
        batch_size: slices at once, at least 1; of volumes fewer (`samples_at_once`).
        deal: in a torch.distributed group, only this process's batches.
        what: what is done, for the message where memory runs out.
        fix: what to change where it does.
        progress: told after each batch, in slices.

    Raises:
        ValueError: batch_size below 1.
        NotEnoughMemoryError: the device has no memory for half a batch.
    """
    batch_size = samples_at_once(segmenter, batch_size)
    batches = BatchWork(work, segmenter, source, what=what, fix=fix)
    starts = range(0, len(source), batch_size)
    for number in rank_range(len(starts)) if deal else range(len(starts)):
        rows = list(range(starts[number], min(starts[number] + batch_size, len(source))))
        yield from batches.parts(rows)
        progress(rows[-1] + 1, len(source))


def all_batches(
    work: Callable[[Sequence[int], Images], T],
    segmenter: Segmenter,
    source: ImageSource,
    *,
    batch_size: int,
    what: str = "predictions",
    progress: Progress = silent,
) -> list[T]:
    """Results of all slices in order, as `each_batch` gives them; in a group the batches are dealt to the processes.

    Every process returns all results, so they must be picklable.
    """
    own = each_batch(work, segmenter, source, batch_size=batch_size, deal=True, what=what, progress=progress)
    return gather_object({rows[0]: result for rows, result in own})
