"""Many edits over many slices: the network in front of the hookpoint runs once a batch, the rest once an edit."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch

from seglens.activations.hooks import Change
from seglens.activations.replay import Replay
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.inference import all_batches
from seglens.segmenters.scoring import Scores, Truth, scores_from_counts
from seglens.segmenters.segmenter import Segmenter
from seglens.shapes import Images, Logits
from seglens.steering.baselines import Rule
from seglens.steering.edits import LatentEdit, Operation, SwapSource, change_of, check_edits
from seglens.steering.shared_codes import SharedCodes

RowChange = Callable[[Sequence[int]], Change]
"""The change of a batch, given the rows of its slices."""

Pass = Callable[[Images], Logits]
"""A forward pass of its own, such as one with test-time augmentation."""

UNEDITED = "none"


def sweep(
    lens: Lens,
    slices: SliceSet,
    edits: Sequence[LatentEdit | None] | Mapping[str, LatentEdit | Sequence[LatentEdit] | None],
    *,
    rules: Mapping[str, Rule] | None = None,
    passes: Mapping[str, Pass] | None = None,
    batch_size: int = 16,
    source: SwapSource | None = None,
    progress: Progress = silent,
) -> Scores:
    """Score every edit on every slice, bit for bit as `steer` and a full pass would.

    In a torch.distributed group the batches are dealt to the processes, and every process returns all scores.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        slices: with masks.
        edits: each is scored under its ``name``, or under its key; None and identities of mode ``difference`` are the
            untouched network. The untouched network is always scored, as ``none``.
        rules: output-level baselines, applied to the unedited logits.
        passes: baselines that need a forward pass of their own.
        batch_size: slices at once.
        source: codes for swap edits.
        progress: told after each batch.

    Returns:
        Scores with one row a slice x class x edit.

    Raises:
        ValueError: edits that do not belong to the dictionary or segmenter, slices that do not fit, or
            (NotEnoughMemoryError) a device that has no memory for half a batch.
    """
    if not isinstance(edits, Mapping):
        edits = {edit.name: edit for edit in edits if edit is not None}
    groups = {name: [edit] if isinstance(edit, LatentEdit) else list(edit or ()) for name, edit in edits.items()}
    check_edits(lens, *groups.values())
    shared = SharedCodes(lens.dictionary)
    changes = {
        name: always(change_of(lens.dictionary, group, source, shared)) if _acts(group) else None
        for name, group in groups.items()
    }
    return sweep_changes(
        lens.segmenter,
        lens.hookpoint,
        slices,
        changes,
        rules=rules or {},
        passes=passes or {},
        batch_size=batch_size,
        progress=progress,
    )


def sweep_changes(
    segmenter: Segmenter,
    hookpoint: str,
    slices: SliceSet,
    changes: Mapping[str, RowChange | None],
    *,
    rules: Mapping[str, Rule] | None = None,
    passes: Mapping[str, Pass] | None = None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Scores:
    """Like `sweep`, for any change of an activation; ``changes`` get the rows of each batch, None changes nothing."""
    segmenter.check_data(slices.name, slices.sequences, slices.labels, preprocessing=slices.preprocessing, regions=True)
    rules, passes = rules or {}, passes or {}
    names = [UNEDITED, *changes, *rules, *passes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"edits and baselines need different names, none of them {UNEDITED!r}; twice: {twice}")
    replay = Replay(segmenter, hookpoint)

    def counted(rows: Sequence[int], images: Images) -> dict[str, torch.Tensor]:
        counts: dict[str, torch.Tensor] = {}
        truth = Truth.of(slices.masks(rows).to(images.device), slices.labels, segmenter.decision)
        unedited = replay.record(images)
        predictions = {UNEDITED: segmenter.decision.labels(unedited)}
        predictions |= {name: rule(unedited) for name, rule in rules.items()}
        predictions |= {name: segmenter.decision.labels(run(images)) for name, run in passes.items()}
        for name, predicted in predictions.items():
            counts[name] = truth.counts(predicted).cpu()
        for name, change in changes.items():
            if change is None:
                counts[name] = counts[UNEDITED]
            else:
                counts[name] = truth.counts(segmenter.decision.labels(replay.logits(change(rows)))).cpu()
        return counts

    parts = all_batches(counted, segmenter, slices, batch_size=batch_size, what="edits", progress=progress)
    return Scores.merged(
        [scores_from_counts(torch.cat([part[name] for part in parts]), slices, edit_name=name) for name in names]
    )


def alpha_grid(
    lens: Lens,
    latents: Mapping[str, Sequence[int]],
    alphas: Mapping[Operation, Sequence[float | int]],
) -> dict[str, LatentEdit]:
    """Every operation and alpha of several sets of latents, for one `sweep`.

    Args:
        lens: whose latents they are.
        latents: name of a set to its latents.
        alphas: operation to its values, in the dictionary's scaled units.

    Returns:
        An edit each, named ``"<set> <operation> <alpha>"``.

    Raises:
        ValueError: an alpha twice.

    Example:
        >>> alphas = {"multiply": (0, 0.5, 2), "add": (-1, 1)}
        >>> grid = alpha_grid(lens, {"edema": (4, 17)}, alphas)
        >>> scores = sweep(lens, slices, grid)
        >>> sorted(scores.summary("edema multiply 0.5").dice_pooled)
        ['edema', 'enhancing', 'foreground']
    """
    edits: dict[str, LatentEdit] = {}
    for (name, own), (operation, values) in product(latents.items(), alphas.items()):
        for alpha in values:
            key = f"{name} {operation} {alpha:g}"
            if key in edits:
                raise ValueError(f"two edits would be called {key!r}; give alphas that differ in six digits")
            edits[key] = LatentEdit(lens.hookpoint, lens.dictionary_hash, tuple(own), operation, alpha)
    return edits


def always(change: Change) -> RowChange:
    """The same change for every batch."""
    return lambda _rows: change


def identity_edit(lens: Lens, *, replace: bool = False) -> LatentEdit:
    """An edit of nothing; with ``replace`` the reconstruct-only control: decoded codes in place of the activation."""
    return LatentEdit(lens.hookpoint, lens.dictionary_hash, (), "multiply", 1.0, "replace" if replace else "difference")


def _acts(group: Sequence[LatentEdit]) -> bool:
    return any(edit.mode == "replace" or not edit.is_identity for edit in group)
