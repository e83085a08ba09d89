"""Many edits over many slices: the network in front of the hookpoint runs once a batch, the rest once an edit."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch

from seglens.activations.hooks import Change
from seglens.activations.replay import Replay
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.distributed import gather_object, rank_range
from seglens.runtime.oom import Halving
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.scoring import Scores, Truth, scores_from_counts
from seglens.segmenters.segmenter import Segmenter, most_likely
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
    segmenter: Segmenter,
    dictionary: SparseAutoencoder,
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
        segmenter: the network that the dictionary was fitted to.
        dictionary: whose latents are edited.
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
    check_edits(segmenter, dictionary, *groups.values())
    shared = SharedCodes(dictionary)
    changes = {
        name: always(change_of(dictionary, group, source, shared)) if _acts(group) else None
        for name, group in groups.items()
    }
    return sweep_changes(
        segmenter,
        dictionary.hookpoint,
        slices,
        changes,
        rules=rules or {},
        passes=passes or {},
        batch_size=batch_size,
        progress=progress,
    )


@torch.no_grad()
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
    segmenter.check_data(slices.name, slices.sequences, slices.labels)
    rules, passes = rules or {}, passes or {}
    names = [UNEDITED, *changes, *rules, *passes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"edits and baselines need different names, none of them {UNEDITED!r}; twice: {twice}")
    replay = Replay(segmenter, hookpoint)
    batches = list(slices.batches(batch_size))
    halving = Halving("edits", "give a smaller batch_size")

    def counted(rows: Sequence[int]) -> dict[str, torch.Tensor]:
        counts: dict[str, torch.Tensor] = {}
        images = slices.images(rows).to(segmenter.device)
        truth = Truth.of(slices.masks(rows).to(segmenter.device), slices.labels)
        unedited = replay.record(images)
        predictions = {UNEDITED: most_likely(unedited)}
        predictions |= {name: rule(unedited) for name, rule in rules.items()}
        predictions |= {name: most_likely(run(images)) for name, run in passes.items()}
        for name, predicted in predictions.items():
            counts[name] = truth.counts(predicted).cpu()
        for name, change in changes.items():
            if change is None:
                counts[name] = counts[UNEDITED]
            else:
                counts[name] = truth.counts(most_likely(replay.logits(change(rows)))).cpu()
        return counts

    own: dict[int, dict[str, torch.Tensor]] = {}
    for number in rank_range(len(batches)):
        rows = batches[number]
        counts = halving.parts(counted, rows)
        own[number] = {name: torch.cat([part[name] for part in counts]) for name in names}
        progress(rows[-1] + 1, len(slices))
    parts = gather_object(own)
    return Scores.merged(
        [scores_from_counts(torch.cat([part[name] for part in parts]), slices, edit_name=name) for name in names]
    )


def alpha_grid(
    dictionary: SparseAutoencoder,
    latents: Mapping[str, Sequence[int]],
    alphas: Mapping[Operation, Sequence[float | int]],
) -> dict[str, LatentEdit]:
    """Every operation and alpha of several sets of latents, for one `sweep`.

    Args:
        dictionary: whose latents they are.
        latents: name of a set to its latents.
        alphas: operation to its values, in the dictionary's scaled units.

    Returns:
        An edit each, named ``"<set> <operation> <alpha>"``.

    Raises:
        ValueError: an alpha twice.

    Example:
        >>> alphas = {"multiply": (0, 0.5, 2), "add": (-1, 1)}
        >>> grid = alpha_grid(dictionary, {"edema": (4, 17)}, alphas)  # doctest: +SKIP
        >>> scores = sweep(segmenter, dictionary, slices, grid)  # doctest: +SKIP
        >>> scores.summary("edema multiply 0.5")["dice_pooled"]  # doctest: +SKIP
    """
    identity = dictionary.hash
    edits: dict[str, LatentEdit] = {}
    for (name, own), (operation, values) in product(latents.items(), alphas.items()):
        for alpha in values:
            key = f"{name} {operation} {alpha:g}"
            if key in edits:
                raise ValueError(f"two edits would be called {key!r}; give alphas that differ in six digits")
            edits[key] = LatentEdit(dictionary.hookpoint, identity, tuple(own), operation, alpha)
    return edits


def always(change: Change) -> RowChange:
    """The same change for every batch."""
    return lambda _rows: change


def part_of(progress: Progress, before: int, whole: int) -> Progress:
    """Progress of one step of several: ``before`` of ``whole`` are done when it starts."""

    def report(done: int, total: int, **figures: float) -> None:
        progress(before + done, whole, **figures)

    return report


def identity_edit(dictionary: SparseAutoencoder, *, replace: bool = False) -> LatentEdit:
    """An edit of nothing; with ``replace`` the reconstruct-only control: decoded codes in place of the activation."""
    return LatentEdit(
        dictionary.hookpoint, dictionary.hash, (), "multiply", 1.0, "replace" if replace else "difference"
    )


def _acts(group: Sequence[LatentEdit]) -> bool:
    return any(edit.mode == "replace" or not edit.is_identity for edit in group)
