"""From slices to an ActivationStore, on one process or several."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from seglens.activations.hooks import activations
from seglens.activations.store import KIND, SHARD_BYTES, ActivationStore, shard_name
from seglens.artifacts import Draft, new_artifact, read_artifact
from seglens.cohorts.slices import SliceSet
from seglens.processes import dealt, from_first, gathered, is_first, wait
from seglens.progress import Progress, silent
from seglens.segmenters.segmenter import Segmenter


def extract(
    segmenter: Segmenter,
    slices: SliceSet,
    hookpoint: str,
    *,
    folder: Path | None = None,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
    progress: Progress = silent,
) -> ActivationStore:
    """Read the activation of every slice at a hookpoint; each pass stops there.

    In a torch.distributed group the shards are dealt to the processes, and every process returns the whole store. A
    batch holds the same slices whatever the number of processes, so the result is the same, bit for bit. All processes
    must see ``folder``.

    Args:
        segmenter: the network, on the device where it is to run.
        slices: what it sees; masks are not used.
        hookpoint: one of the segmenter's.
        folder: an artifact of kind ``"activations"`` is written there, shard by shard; None: kept in memory.
        batch_size: slices a pass.
        dtype: how tokens are kept: float32, bfloat16 or float16.
        progress: told of this process's slices.

    Raises:
        ValueError: unknown hookpoint, other sequences than the segmenter's, or an activation that is not finite (the
            slice is named, nothing is stored).

    Example:
        >>> store = extract(segmenter, slices, "stage3")  # doctest: +SKIP
        >>> store.tokens(torch.arange(4)).shape  # doctest: +SKIP
        torch.Size([4, 160])
    """
    segmenter.check_data(slices.name, slices.sequences)
    segmenter.module_at(hookpoint)  # an unknown hookpoint is refused before anything is written
    if len(slices) == 0:
        raise ValueError(f"{slices.name!r} has no slices; nothing to extract")

    def own_shards(draft: Draft | None) -> dict[int, Tensor | None]:
        return _shards_of(
            segmenter, slices, hookpoint, batch_size=batch_size, dtype=dtype, progress=progress, draft=draft
        )

    if folder is None:
        return _store(gathered(own_shards(None)), segmenter, slices, hookpoint)
    inputs = {"segmenter": segmenter.hash, "slices": slices.hash, "hookpoint": hookpoint, "dtype": str(dtype)}
    if is_first():
        with new_artifact(folder, kind=KIND, inputs=inputs) as draft:
            from_first(lambda: draft.path)
            own_shards(draft)
            wait()
            n_shards = len(list(draft.path.glob("shard_*.safetensors")))
            _store([_load(draft, number) for number in range(n_shards)], segmenter, slices, hookpoint).write_head(draft)
        wait()
    else:
        own_shards(Draft(from_first(Path)))
        wait()  # every shard is there
        wait()  # the artifact is there
    return ActivationStore.read(read_artifact(folder, KIND))


def _shards_of(
    segmenter: Segmenter,
    slices: SliceSet,
    hookpoint: str,
    *,
    batch_size: int,
    dtype: torch.dtype,
    progress: Progress,
    draft: Draft | None,
) -> dict[int, Tensor | None]:
    """This process's shards by number; written to ``draft`` (and None here) where there is one."""
    batches = list(slices.batches(batch_size))
    first = _grid_of(segmenter, slices, hookpoint, batches[0], dtype)
    per_shard = max(1, SHARD_BYTES // (first.numel() * first.element_size()))
    starts = range(0, len(batches), per_shard)
    mine = dealt(len(starts))
    total = sum(len(rows) for number in mine for rows in batches[starts[number] :][:per_shard])
    shards: dict[int, Tensor | None] = {}
    done = 0
    for number in mine:
        grids = []
        for rows in batches[starts[number] :][:per_shard]:
            known = first if rows[0] == 0 else None
            grids.append(_grid_of(segmenter, slices, hookpoint, rows, dtype) if known is None else known)
            done += len(rows)
            progress(done, total)
        shard: Tensor | None = torch.cat(grids)
        if draft is not None and shard is not None:
            draft.save_tensors(shard_name(number), {"tokens": shard})
            shard = None
        shards[number] = shard
    return shards


def _grid_of(segmenter: Segmenter, slices: SliceSet, hookpoint: str, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
    with torch.no_grad():
        grid = activations(segmenter, hookpoint, slices.images(rows).to(segmenter.device)).to(dtype).cpu().contiguous()
    bad = (~grid.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        named = slices.index[[rows[number] for number in bad]]
        slices_named = ", ".join(f"{row['case']} slice {row['position']}" for row in named.to_dicts()[:8])
        raise ValueError(
            f"activations at {hookpoint!r} are not finite as {str(dtype).removeprefix('torch.')} in {len(bad)} slices: "
            f"{slices_named}; check these images, leave them out, or keep the tokens as float32"
        )
    return grid


def _store(shards: Sequence[Tensor], segmenter: Segmenter, slices: SliceSet, hookpoint: str) -> ActivationStore:
    return ActivationStore.from_grids(
        shards, hookpoint=hookpoint, segmenter_hash=segmenter.hash, slices_hash=slices.hash, index=slices.index
    )


def _load(draft: Draft, number: int) -> Tensor:
    from safetensors.torch import load_file

    return load_file(draft.path / f"{shard_name(number)}.safetensors")["tokens"]
