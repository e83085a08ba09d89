"""Records of steering and failure recovery, as they are written, read and reported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from seglens.artifacts import finite
from seglens.segmenters.intervals import Interval
from seglens.segmenters.score_summary import ScoreSummary
from seglens.steering.edits import Operation

Policy = Literal["held_out", "oracle"]
Setting = Mapping[str, bool | int | float | str | list[float] | None]
"""What was tuned of a rule: name to value."""


@dataclass(frozen=True)
class Extent:
    """How much of a cohort something was chosen or measured on."""

    cohort: str
    patients: int
    slices: int


@dataclass(frozen=True)
class GainRecord:
    """Gain of an edit over something else on the same patients, in Dice or a share, with its 95% interval over them.

    Attributes:
        value: difference; None where either is undefined. So are the ends, and those of a single patient.
        low: lower end.
        high: upper end.
    """

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval, bound: float = 1.0) -> "GainRecord":
        """From an interval whose ends are cut at -bound and bound, beyond which no difference can lie."""
        low, high = finite(interval.low), finite(interval.high)
        ends = None if low is None else max(low, -bound), None if high is None else min(high, bound)
        return cls(finite(interval.value), *ends)

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of 0; 0 where it cannot be told."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True)
class SteeringRecord:
    """Record of one policy and operation on a class.

    Attributes:
        source: segmenter.
        target: cohort.
        class_name: that was steered; ``class`` in the document.
        policy: ``held_out`` (chosen on other patients) or ``oracle`` (by each slice's own mask; not a method).
        operation: ``multiply`` or ``add``.
        edit: its short name.
        edit_description: see `LatentEdit.from_description`.
        latents: that are changed; none where no latent fires.
        alpha: strength; None for the oracle, which takes one a slice.
        is_identity: nothing beat the untouched network on the selection slices.
        chosen: whether this is the policy's own choice.
        chosen_by: how its latents were ranked.
        before: scores untouched.
        after: scores with the edit.
        baselines: scores of every baseline and control by name.
        best_baseline: the one with the highest pooled Dice of the class on the selection slices, where the edit was
            chosen too; None where none was run.
        gains: of the edit over every baseline and control, and over the untouched network (``none``).
        settings: of the tuned ones.
        selection: what it was chosen on.
        evaluation: what it was judged on.
        firing_rate: mean share of tokens at which its latents fire; None without latents.
        random_firing_rates: the same of each draw of random latents.
    """

    source: str
    target: str
    class_name: Annotated[str, Field(alias="class")]
    policy: Policy
    operation: Operation
    edit: str
    edit_description: Mapping[str, Any]
    latents: tuple[int, ...]
    alpha: float | None
    is_identity: bool
    chosen: bool
    chosen_by: str
    before: ScoreSummary
    after: ScoreSummary
    baselines: Mapping[str, ScoreSummary]
    best_baseline: str | None
    gains: Mapping[str, GainRecord]
    settings: Mapping[str, Setting]
    selection: Extent
    evaluation: Extent
    firing_rate: float | None
    random_firing_rates: tuple[float | None, ...]


@dataclass(frozen=True)
class FailureOutcome:
    """How failing slices fared under one change.

    Attributes:
        recovered: slices whose Dice rises enough.
        worsened: slices whose Dice falls as much.
        net: recovered less worsened.
        mean_after: mean Dice of the slices.
        setting: what was tuned of a baseline; None of an edit.
    """

    recovered: int
    worsened: int
    net: int
    mean_after: float
    setting: Setting | None = None


@dataclass(frozen=True)
class ModeOutcome:
    """How the failing slices of one kind of error fared; means are None where there are no such slices."""

    n: int
    recovered: int
    worsened: int
    mean_before: float | None
    mean_after: float | None


@dataclass(frozen=True)
class FailureRecord:
    """Record of one policy on a segmenter's worst slices.

    Attributes:
        segmenter: its name.
        cohort: of the slices.
        policy: ``held_out`` or ``oracle``.
        n: failing slices.
        n_eligible: slices with a lesion, of which they are the worst.
        dice_of_best_failure: the best of them, untouched.
        minimum_gain: rise of a slice's foreground Dice from which it counts as recovered.
        recovered_means: the same as a clause.
        mode_rule: what parts the kinds of error.
        edit: short name.
        operation: of the edit.
        latents: None for the oracle, which takes each slice's own.
        alpha: None for the oracle.
        chosen_by: how the latents were ranked.
        is_identity: nothing beat the untouched network on the selection slices.
        recovered: slices.
        worsened: slices.
        net: recovered less worsened.
        mean_before: mean foreground Dice untouched.
        mean_after: the same with the edit.
        modes: the outcome by kind of error (FP, FN, mixed).
        over_random: share of the slices recovered less worsened, above that of the random latents; None without draws.
        baselines: outcome of every baseline and control.
        random_recovered: mean over the draws of random latents; None without draws. So are the others.
        random_worsened: see there.
        random_net: see there.
        random_mean_after: see there.
        random_recovered_draws: of each draw.
        random_worsened_draws: of each draw.
        random_best_recovered: of the draw that was best on the selection slices; only of held_out, as all that follows.
        random_best_worsened: see there.
        random_best_net: see there.
        random_best_mean_after: see there.
        firing_rate: mean share of tokens at which its latents fire.
        random_firing_rates: the same of each draw.
        dice_all_before: pooled foreground Dice of all evaluation slices untouched.
        dice_all_after: the same with the edit.
    """

    segmenter: str
    cohort: str
    policy: Policy
    n: int
    n_eligible: int
    dice_of_best_failure: float
    minimum_gain: float
    recovered_means: str
    mode_rule: str
    edit: str
    operation: Operation
    latents: tuple[int, ...] | None
    alpha: float | None
    chosen_by: str
    is_identity: bool
    recovered: int
    worsened: int
    net: int
    mean_before: float
    mean_after: float
    modes: Mapping[str, ModeOutcome]
    baselines: Mapping[str, FailureOutcome]
    over_random: GainRecord | None
    random_recovered: float | None
    random_worsened: float | None
    random_net: float | None
    random_mean_after: float | None
    random_recovered_draws: tuple[int, ...]
    random_worsened_draws: tuple[int, ...]
    random_best_recovered: int | None = None
    random_best_worsened: int | None = None
    random_best_net: int | None = None
    random_best_mean_after: float | None = None
    firing_rate: float | None = None
    random_firing_rates: tuple[float | None, ...] | None = None
    dice_all_before: float | None = None
    dice_all_after: float | None = None


@dataclass(frozen=True)
class InterventionRecord:
    """A way of correcting, as it was judged.

    Attributes:
        name: of the way.
        side: ``edit``, ``baseline``, ``control``, ``ceiling`` or ``oracle``.
        n_parameters: numbers fitted or chosen.
        interventions: names of its edits among the scores, one a seed.
        supervision: what it was chosen with; None of what follows from the scores alone.
        chosen: what was chosen, which differs from way to way.
    """

    name: str
    side: str
    n_parameters: int
    interventions: tuple[str, ...]
    supervision: str | None = None
    chosen: Mapping[str, Any] | None = None

    @property
    def inner_dice(self) -> float | None:
        """Dice in the inner split of the selection patients; None of what was not fitted."""
        return (self.chosen or {}).get("inner_dice")


@dataclass(frozen=True)
class VerdictRecord:
    """Whether any latent edit beats all baselines in cross-validation.

    Attributes:
        sentence: the verdict in words.
        helps: whether one does.
        edit: name of the best edit.
        baseline: name of the best baseline.
        improvement: pooled foreground Dice of the edit minus that of the baseline.
        low: lower end of its interval over patients; None where it is undefined.
        high: upper end.
        patients: that were cross-validated over.
        chosen: what the edit that helps is made of; empty where none does.
    """

    sentence: str
    helps: bool
    edit: str
    baseline: str
    improvement: float | None
    low: float | None
    high: float | None
    patients: int
    chosen: Mapping[str, Any]
