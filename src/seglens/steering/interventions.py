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
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.decision import most_likely
from seglens.segmenters.inference import all_batches
from seglens.segmenters.scoring import Scores, Truth, scores_from_counts
from seglens.segmenters.segmenter import Hookpoint, Segmenter
from seglens.shapes import Images, Logits, TokenGrid
from seglens.steering.baselines import Rule
from seglens.steering.sweep import UNEDITED

Supervision = Literal["none", "held_out", "label_free", "oracle"]
"""What an intervention has seen of its target cohort: nothing, masks of other patients, images only, the very mask."""


class CachedBatch:
    """A batch and what the untouched network makes of it.

    Args:
        segmenter: untouched.
        images: normalised slices ``[B C D H W]`` on the network's device.
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
        """This batch at a hookpoint: the network in front of it runs once, however many interventions ask."""
        return self._replay(self.segmenter, hookpoint)

    def behind(self, module: str) -> Replay:
        """A replay of what comes behind any module, by its dotted path; its output itself cannot be changed."""
        opened = replace(self.segmenter, hookpoints={module: Hookpoint(module, self.segmenter.channels_first)})
        return self._replay(opened, module)

    def changed(self, hookpoint: str, change: Change) -> Logits:
        """Logits with one activation changed ``[B K D H W]``, bit for bit as a whole pass would give them."""
        return self.replay(hookpoint).logits(change)

    def activation(self, hookpoint: str) -> TokenGrid:
        """The untouched activation."""
        return self.once(("activation", hookpoint), lambda: self._captured(hookpoint))

    def once(self, key: object, computed: Callable[[], Any]) -> Any:
        """Result of ``computed``, kept with the batch: for what many interventions have in common."""
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
class Intervention:
    """Anything that changes a segmenter's prediction on a target cohort.

    Attributes:
        name: different for different interventions; not ``none``, the untouched network.
        n_parameters: numbers that were fitted or chosen on the target cohort.
        supervision: what of the target cohort they were chosen by.
        predict: corrected logits ``[B K D H W]`` of a seen batch; it leaves the segmenter as it found it. Gradients are
            off where it is judged; what needs them enables them.
        values: numbers that were fitted, by name; empty where none were.
    """

    name: str
    n_parameters: int
    supervision: Supervision
    predict: Callable[[CachedBatch], Logits] = field(repr=False)
    values: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def logits(self, segmenter: Segmenter, images: Images) -> Logits:
        """Corrected logits of images ``[B C D H W]`` that are seen for this alone."""
        with torch.no_grad():
            return self.predict(CachedBatch(segmenter, images))


def change_intervention(
    name: str, hookpoint: str, change: Change, *, n_parameters: int, supervision: Supervision
) -> Intervention:
    """An intervention that changes one activation."""
    return Intervention(name, n_parameters, supervision, lambda batch: batch.changed(hookpoint, change))


def rule_intervention(name: str, rule: Rule, *, n_parameters: int, supervision: Supervision) -> Intervention:
    """A rule at the output (see `baselines`): logits that are 0 for the class that it says and -inf for the others."""

    def predict(batch: CachedBatch) -> Logits:
        labels = rule(batch.logits).long()[:, None]
        return torch.full_like(batch.logits, -torch.inf).scatter_(1, labels, 0.0)

    return Intervention(name, n_parameters, supervision, predict)


def evaluate_interventions(
    interventions: Sequence[Intervention],
    segmenter: Segmenter,
    evaluation: SliceSet,
    *,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Scores:
    """Score interventions on the same slices, each as an edit of its name; the untouched network as ``none``.

    In a torch.distributed group the batches are dealt to the processes, and every process returns all scores.

    Args:
        interventions: of this segmenter.
        segmenter: untouched.
        evaluation: slices with masks, of patients that no intervention was chosen on.
        batch_size: slices at once.
        progress: told after each batch.

    Raises:
        ValueError: two interventions of one name, one called ``none``, or slices that do not fit.
    """
    segmenter.check_data(
        evaluation.name, evaluation.sequences, evaluation.labels, preprocessing=evaluation.preprocessing
    )
    names = [UNEDITED, *(intervention.name for intervention in interventions)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"interventions need different names, none of them {UNEDITED!r}; twice: {twice}")
    plans: dict[str, Replay] = {}

    def counted(rows: Sequence[int], images: Images) -> dict[str, Tensor]:
        truth = Truth.of(evaluation.masks(rows).to(images.device), evaluation.labels)
        batch = CachedBatch(segmenter, images, plans)
        labels = {UNEDITED: batch.logits} | {
            intervention.name: intervention.predict(batch) for intervention in interventions
        }
        return {name: truth.counts(most_likely(logits)).cpu() for name, logits in labels.items()}

    parts = all_batches(counted, segmenter, evaluation, batch_size=batch_size, what="interventions", progress=progress)
    return Scores.merged(
        [scores_from_counts(torch.cat([part[name] for part in parts]), evaluation, edit_name=name) for name in names]
    )
