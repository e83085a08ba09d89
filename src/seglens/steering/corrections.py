"""One type for all that changes what a segmenter says of a cohort, and one judge for all of them.

A latent edit, a refitted layer, a rule at the output and an adaptation at test time are all functions of the same
seen batch. So they are scored on the same slices, and whatever changes one activation costs only the part of the
network behind it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from seglens.activations.hooks import Change
from seglens.activations.replay import Replay
from seglens.cohorts.slice_set import SliceSet
from seglens.processes import dealt, gathered
from seglens.progress import Progress, silent
from seglens.segmenters.scoring import Scores, Truth, scores_from_counts
from seglens.segmenters.segmenter import Hookpoint, Segmenter, most_likely
from seglens.shapes import Images, Logits, TokenGrid
from seglens.steering.baselines import Rule
from seglens.steering.sweep import UNEDITED

Supervision = Literal["none", "held_out", "label_free", "oracle"]
"""What a correction has seen of its target cohort: nothing, masks of other patients, images only, the very mask."""


class Seen:
    """A batch and what the untouched network makes of it.

    Args:
        segmenter: untouched.
        images: normalised slices ``[B C H W]`` on the network's device.
        plans: of other batches, by module: what they found out of the network is used again; filled here.
    """

    def __init__(self, segmenter: Segmenter, images: Images, plans: dict[str, Replay] | None = None):
        self.segmenter = segmenter
        self.images = images
        with torch.no_grad():
            self.logits = segmenter.logits(images)
        self._plans = {} if plans is None else plans
        self._replays: dict[str, Replay] = {}
        self._kept: dict[Any, Any] = {}

    def replay(self, hookpoint: str) -> Replay:
        """This batch at a hookpoint: the network in front of it runs once, however many corrections ask."""
        return self._replay(self.segmenter, hookpoint)

    def behind(self, module: str) -> Replay:
        """A replay of what comes behind any module, by its dotted path; its output itself cannot be changed."""
        opened = replace(self.segmenter, hookpoints={module: Hookpoint(module)})
        return self._replay(opened, module)

    def changed(self, hookpoint: str, change: Change) -> Logits:
        """Logits with one activation changed ``[B K H W]``, bit for bit as a whole pass would give them."""
        return self.replay(hookpoint).logits(change)

    def activation(self, hookpoint: str) -> TokenGrid:
        """The untouched activation."""
        return self.once(("activation", hookpoint), lambda: self._captured(hookpoint))

    def once(self, key: object, computed: Callable[[], Any]) -> Any:
        """What ``computed`` gives, kept with the batch: for what many corrections have in common."""
        if key not in self._kept:
            self._kept[key] = computed()
        return self._kept[key]

    def _replay(self, segmenter: Segmenter, hookpoint: str) -> Replay:
        place = segmenter.place(hookpoint).module
        if place not in self._replays:
            known = self._plans.get(place)
            replay = known.again() if known else Replay(segmenter, hookpoint)
            replay.record(self.images)
            self._plans.setdefault(place, replay.again())
            self._replays[place] = replay
        return self._replays[place]

    @torch.no_grad()
    def _captured(self, hookpoint: str) -> TokenGrid:
        grids: list[TokenGrid] = []

        def keep(grid: TokenGrid) -> TokenGrid:
            grids.append(grid.clone())
            return grid

        self.changed(hookpoint, keep)
        return grids[0]


@dataclass(frozen=True)
class Correction:
    """Anything that changes a segmenter's prediction on a target cohort.

    Attributes:
        name: different for different corrections; not ``none``, the untouched network.
        n_parameters: numbers that were fitted or chosen on the target cohort.
        supervision: what of the target cohort they were chosen by.
        predict: corrected logits ``[B K H W]`` of a seen batch; it leaves the segmenter as it found it. Gradients are
            off where it is judged; what needs them enables them.
        values: numbers that were fitted, by name; empty where none were.
    """

    name: str
    n_parameters: int
    supervision: Supervision
    predict: Callable[[Seen], Logits] = field(repr=False)
    values: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def logits(self, segmenter: Segmenter, images: Images) -> Logits:
        """Corrected logits of images ``[B C H W]`` that are seen for this alone."""
        with torch.no_grad():
            return self.predict(Seen(segmenter, images))


def change_correction(
    name: str, hookpoint: str, change: Change, *, n_parameters: int, supervision: Supervision
) -> Correction:
    """A correction that changes one activation."""
    return Correction(name, n_parameters, supervision, lambda seen: seen.changed(hookpoint, change))


def rule_correction(name: str, rule: Rule, *, n_parameters: int, supervision: Supervision) -> Correction:
    """A rule at the output (see `baselines`): logits that are 0 for the class that it says and -inf for the others."""

    def predict(seen: Seen) -> Logits:
        said = rule(seen.logits).long()[:, None]
        return torch.full_like(seen.logits, -torch.inf).scatter_(1, said, 0.0)

    return Correction(name, n_parameters, supervision, predict)


@torch.no_grad()
def judge(
    corrections: Sequence[Correction],
    segmenter: Segmenter,
    evaluation: SliceSet,
    *,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Scores:
    """Score corrections on the same slices, each as an edit of its name; the untouched network as ``none``.

    In a torch.distributed group the batches are dealt to the processes, and every process returns all scores.

    Args:
        corrections: of this segmenter.
        segmenter: untouched.
        evaluation: slices with masks, of patients that no correction was chosen on.
        batch_size: slices at once.
        progress: told after each batch.

    Raises:
        ValueError: two corrections of one name, one called ``none``, or slices that do not fit.
    """
    segmenter.check_data(evaluation.name, evaluation.sequences, evaluation.labels)
    names = [UNEDITED, *(correction.name for correction in corrections)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"corrections need different names, none of them {UNEDITED!r}; twice: {twice}")
    batches = list(evaluation.batches(batch_size))
    plans: dict[str, Replay] = {}
    own: dict[int, dict[str, torch.Tensor]] = {}
    for number in dealt(len(batches)):
        rows = batches[number]
        truth = Truth.of(evaluation.masks(rows).to(segmenter.device), evaluation.labels)
        seen = Seen(segmenter, evaluation.images(rows).to(segmenter.device), plans)
        counts = own.setdefault(number, {UNEDITED: truth.counts(most_likely(seen.logits)).cpu()})
        for correction in corrections:
            counts[correction.name] = truth.counts(most_likely(correction.predict(seen))).cpu()
        progress(rows[-1] + 1, len(evaluation))
    parts = gathered(own)
    return Scores.merged(
        [scores_from_counts(torch.cat([part[name] for part in parts]), evaluation, edit_name=name) for name in names]
    )
