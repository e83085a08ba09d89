"""Judge an edit of a class, only against the numbers of its baselines and controls."""

from collections.abc import Iterable, Mapping

from seglens.reports.wording import number, pair_of, plain, signed
from seglens.steering.records import SteeringRecord
from seglens.summaries import Summary

RANDOM = {"random_latents": "random latents", "random_best": "the best draw of random latents"}
CONTROLS = (*RANDOM, "reconstruct_only")
"""Entries among a steering's baselines that are controls of the edit, not baselines without latents."""
STEP = 0.005
"""Smallest difference of two Dice values that is called one: half of the last printed digit."""


def baselines_of(entry: SteeringRecord, name: str) -> tuple[tuple[str, float] | None, dict[str, float]]:
    """The best baseline of an edit and its controls, by pooled Dice of one class.

    Args:
        entry: of a summary.
        name: the class.

    Returns:
        Name and value of the best baseline (None where there is none), and the controls' values by name: of the mean
        over the random draws and the draw that was best on the selection patients only the better one.
    """
    values = {key: after.dice(name).value for key, after in entry.baselines.items()}
    known = {key: value for key, value in values.items() if value is not None}
    controls = {key: value for key, value in known.items() if key in CONTROLS}
    drawn = [key for key in RANDOM if key in controls]
    for key in sorted(drawn, key=lambda key: -controls[key])[1:]:
        del controls[key]
    baselines = {key: value for key, value in known.items() if key not in CONTROLS}
    best = max(baselines.items(), key=lambda item: item[1]) if baselines else None
    return best, controls


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
    verb = {1: "raised", 0: "left", -1: "lowered"}[compared(after, before)]
    where = f"{plain(name)}, {pair_of(entry)}"
    if unchanged(entry):
        return (
            f"{policy[0].upper()}{policy[1:]} steering ({where}): nothing beat the untouched network on the selection "
            f"patients, so nothing was changed and pooled Dice stays at {number(before)}."
        )
    digits = 3 if max(before, after) < 0.1 else 2
    if verb == "left":
        moved = f"left pooled Dice at {number(after, digits)} (before: {number(before, digits)})"
    else:
        moved = f"{verb} pooled Dice from {number(before, digits)} to {number(after, digits)}"
    text = f"{policy[0].upper()}{policy[1:]} steering ({where}) {moved}"
    best, controls = baselines_of(entry, name)
    beside = [f"{named(key)} gave {number(value, digits)}" for key, value in controls.items()]
    if best is not None:
        beside.insert(0, f"the best baseline without latents, {plain(best[0])}, reached {number(best[1], digits)}")
    if beside:
        text += f"; {', '.join(beside)}"
    text += ". " + _verdict(after, before, best, controls)
    return text + _convention_warning(entry, name, compared(after, before))


def _verdict(after: float, before: float, best: tuple[str, float] | None, controls: Mapping[str, float]) -> str:
    gain = compared(after, before)
    if gain < 0:
        return "So the edit made this class worse."
    if gain == 0:
        return "So the edit changed hardly anything."
    if best is None and not controls:
        return "Nothing was run beside it, so this says nothing about the latents yet."
    lost = [named(key) for key, value in controls.items() if compared(after, value) <= 0]
    if lost:
        return f"So the gain is not due to the chosen latents: {' and '.join(lost)} did as well."
    if best is None:
        return "No baseline at the output was run beside it."
    place = compared(after, best[1])
    if place > 0:
        return f"So it beats every baseline that was run, by {signed(after - best[1])}."
    if place == 0:
        return f"So it is level with {plain(best[0])}, which needs no latents."
    return f"So it does not beat {plain(best[0])}, which needs no latents."


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
        f" Counting slices without the class as 1 would have told another story: {number(before)} to {number(after)}."
    )


def evaluated(entry: SteeringRecord) -> bool:
    """Whether the class is there to be judged, before and after."""
    return None not in (entry.before.dice(entry.class_name).value, entry.after.dice(entry.class_name).value)
