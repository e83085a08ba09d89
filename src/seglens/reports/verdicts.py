"""Judge an edit of a class, only against the numbers of its baselines and controls."""

from collections.abc import Iterable, Sequence

from seglens.reports.wording import number, pair_of, plain, plural, signed
from seglens.steering.records import GainRecord, SteeringRecord
from seglens.steering.sweep import UNEDITED
from seglens.summaries import Summary

RANDOM = {"random_latents": "random latents", "random_best": "the best draw of random latents"}
CONTROLS = (*RANDOM, "reconstruct_only")
"""Entries among a steering's baselines that are controls of the edit, not baselines without latents."""
STEP = 0.005
"""Smallest difference of two Dice values that is printed as one: half of the last digit.

It chooses words for printed figures; whether an edit gained or beats something follows from intervals alone.
"""


def baselines_of(entry: SteeringRecord, name: str) -> tuple[tuple[str, float] | None, dict[str, float]]:
    """The best baseline of an edit and its controls, by pooled Dice of one class.

    The best baseline is the one that the selection patients chose, as they chose the edit.

    Args:
        entry: of a summary.
        name: the class.

    Returns:
        Name and value of the best baseline (None where there is none), and the controls' values by name: of the mean
        over the random draws and the draw that was best on the selection patients only the better one.
    """
    known = _known(entry, name)
    controls = {key: value for key, value in known.items() if key in CONTROLS}
    drawn = [key for key in RANDOM if key in controls]
    for key in sorted(drawn, key=lambda key: -controls[key])[1:]:
        del controls[key]
    best = entry.best_baseline
    return ((best, known[best]) if best is not None and best in known else None), controls


def upper_bound_of(entry: SteeringRecord, name: str) -> tuple[str, float] | None:
    """The baseline with the highest value on the patients judged on: what nobody could have chosen."""
    baselines = {key: value for key, value in _known(entry, name).items() if key not in CONTROLS}
    return max(baselines.items(), key=lambda item: item[1]) if baselines else None


def _known(entry: SteeringRecord, name: str) -> dict[str, float]:
    values = {key: after.dice(name).value for key, after in entry.baselines.items()}
    return {key: value for key, value in values.items() if value is not None}


def named(key: str) -> str:
    """A baseline or control as words."""
    return RANDOM.get(key, plain(key))


def unchanged(entry: SteeringRecord) -> bool:
    """Whether nothing beat the untouched network on the selection patients, so that nothing was changed."""
    return entry.is_identity or not entry.latents


def compared(value: float, other: float) -> int:
    """1, 0 or -1: above, equal to the printed digits, below."""
    return 0 if abs(value - other) < STEP else 1 if value > other else -1


def steering_finding(entry: SteeringRecord) -> str:
    """Describe what one edit did to its class, beside its best baseline and its controls."""
    name = entry.class_name
    before, after = entry.before.dice(name).value, entry.after.dice(name).value
    assert before is not None and after is not None
    policy = plain(entry.policy)
    where = f"{plain(name)}, {pair_of(entry)}"
    if unchanged(entry):
        return (
            f"{policy[0].upper()}{policy[1:]} steering ({where}): nothing beat the untouched network on the selection "
            f"patients, so nothing was changed and pooled Dice stays at {number(before)}."
        )
    gain, alike = entry.gains[UNEDITED], compared(after, before) == 0
    digits = 3 if max(before, after) < 0.1 or (alike and gain.sign) else 2
    if alike and gain.sign == 0:
        moved = f"left pooled Dice at {number(after, digits)} (before: {number(before, digits)})"
    else:
        verb = {1: "raised", 0: "took", -1: "lowered"}[gain.sign]
        moved = f"{verb} pooled Dice from {number(before, digits)} to {number(after, digits)}"
    text = f"{policy[0].upper()}{policy[1:]} steering ({where}) {moved}, difference {_over_patients(gain, entry)}"
    best, controls = baselines_of(entry, name)
    beside = [f"{named(key)} gave {number(value, digits)}" for key, value in controls.items()]
    if best is not None:
        bound = upper_bound_of(entry, name)
        after_the_fact = (
            f" (the best after the fact, {plain(bound[0])}, {number(bound[1], digits)})"
            if bound is not None and bound[0] != best[0]
            else ""
        )
        beside.insert(
            0,
            f"the best baseline without latents, {plain(best[0])}, reached {number(best[1], digits)}{after_the_fact}",
        )
    if beside:
        text += f"; {', '.join(beside)}"
    text += ". " + _verdict(entry, best, [key for key in CONTROLS if key in _known(entry, name)])
    return text + _convention_warning(entry, name, compared(after, before))


def _over_patients(gain: GainRecord, entry: SteeringRecord) -> str:
    """Interval of a gain in words."""
    patients = plural(entry.evaluation.patients, "patient")
    if gain.low is None or gain.high is None:
        return f"without an interval over {patients}"
    return f"[{signed(gain.low)}, {signed(gain.high)}] over {patients}"


def _verdict(entry: SteeringRecord, best: tuple[str, float] | None, controls: Sequence[str]) -> str:
    """Verdict from the intervals alone; every control that was run must fall behind, not only the printed one."""
    gain = entry.gains[UNEDITED]
    if gain.sign < 0:
        return "So the edit made this class worse."
    if gain.sign == 0:
        return "So the edit cannot be told from the untouched network."
    if best is None and not controls:
        return "Nothing was run beside it, so this says nothing about the latents yet."
    lost = [named(key) for key in controls if entry.gains[key].sign <= 0]
    if lost:
        return f"So the gain is not due to the chosen latents, as far as can be told: {' and '.join(lost)} did as well."
    if best is None:
        return "No baseline at the output was run beside it."
    name, over = plain(best[0]), entry.gains[best[0]]
    if over.sign > 0:
        text = f"So it beats {name}, the baseline that the selection patients chose{_by(over)}"
        text += f" {_over_patients(over, entry)}"
        drawn = [f"{named(key)}{_by(entry.gains[key])}" for key in controls if key in RANDOM]
        return f"{text}, and {' and '.join(drawn)}." if drawn else f"{text}; no random latents were run beside it."
    if over.sign == 0:
        return f"So it cannot be told from {name}, which needs no latents."
    return f"So it falls behind {name}, which needs no latents."


def _by(gain: GainRecord) -> str:
    return "" if gain.value is None else f", by {signed(gain.value)}"


def steering_findings(summary: Summary) -> Iterable[str]:
    """The policies' own choices, each with the gap to the oracle on the same slices."""
    entries = [entry for entry in summary.steering if evaluated(entry) and entry.chosen]
    for entry in entries:
        if entry.policy == "oracle":
            continue
        text = steering_finding(entry)
        same = [
            other
            for other in entries
            if other.policy == "oracle"
            and (other.source, other.target, other.class_name) == (entry.source, entry.target, entry.class_name)
        ]
        if same:
            best = max(other.after.dice(entry.class_name).value or 0.0 for other in same)
            digits = 3 if best < 0.1 else 2
            text += f" With each slice's own mask to choose by (oracle, not deployable): {number(best, digits)}."
        yield text


def _convention_warning(entry: SteeringRecord, name: str, pooled: int) -> str:
    before, after = (scores.dice(name, "slice_empty1").value for scores in (entry.before, entry.after))
    if before is None or after is None or compared(after, before) == pooled:
        return ""
    return (
        " Counting slices without the class as 1, the printed figures read differently (of this no interval was "
        f"recorded): {number(before)} to {number(after)}."
    )


def evaluated(entry: SteeringRecord) -> bool:
    """Whether the class is there to be judged, before and after."""
    return None not in (entry.before.dice(entry.class_name).value, entry.after.dice(entry.class_name).value)
