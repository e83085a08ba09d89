"""Sentences that follow from a summary's numbers, and only from them: another sign gives another sentence."""

from collections.abc import Iterable, Mapping
from typing import Any

from seglens.reports.wording import (
    classes_of,
    count,
    defined,
    dig,
    number,
    pair_of,
    percent,
    plain,
    plural,
    score,
    signed,
)

CONTROLS = ("random_latents", "reconstruct_only")
"""Entries among a steering's baselines that are controls of the edit, not rivals without latents."""
STEP = 0.005
"""Smallest difference of two Dice values that is called one: half of the last printed digit."""


def plain_findings(summary: Mapping[str, Any]) -> list[str]:
    """What a run showed, in plain language, the most useful first.

    Args:
        summary: the content of summary.json; missing parts give no sentence.

    Returns:
        Sentences without mark-up; names from the data are taken as they are, so escape them.
    """
    return [
        *_segmentation(summary),
        *_alignment(summary),
        *_steering(summary),
        *_failures(summary),
        *_hookpoints(summary),
        *_dictionaries(summary),
        *_quarantine(summary),
    ]


def rivals_of(entry: Mapping[str, Any], name: str) -> tuple[tuple[str, float] | None, dict[str, float]]:
    """The best rival of an edit and its controls, by pooled Dice of one class.

    Args:
        entry: one entry of ``summary["steering"]``.
        name: the class.

    Returns:
        Name and value of the best rival (None where there is none), and the controls' values by name.
    """
    values = {key: score(after, "dice_pooled", name) for key, after in (entry.get("baselines") or {}).items()}
    known = {key: value for key, value in values.items() if value is not None}
    controls = {key: value for key, value in known.items() if key in CONTROLS}
    rivals = {key: value for key, value in known.items() if key not in CONTROLS}
    best = max(rivals.items(), key=lambda item: item[1]) if rivals else None
    return best, controls


def compared(value: float, other: float) -> int:
    """1, 0 or -1: above, equal to the printed digits, below."""
    return 0 if abs(value - other) < STEP else 1 if value > other else -1


def steering_finding(entry: Mapping[str, Any]) -> str:
    """What one edit did to its class, beside its best rival and its controls."""
    name = str(entry.get("class"))
    before = score(entry.get("before"), "dice_pooled", name)
    after = score(entry.get("after"), "dice_pooled", name)
    assert before is not None and after is not None
    policy = plain(entry.get("policy") or "chosen")
    verb = {1: "raised", 0: "left", -1: "lowered"}[compared(after, before)]
    where = f"{plain(name)}, {pair_of(entry)}"
    if entry.get("latents") == []:
        return (
            f"{policy[0].upper()}{policy[1:]} steering ({where}): nothing beat the untouched network on the selection "
            f"patients, so nothing was changed and pooled Dice stays at {number(before)}."
        )
    if verb == "left":
        moved = f"left pooled Dice at {number(after)} (before: {number(before)})"
    else:
        moved = f"{verb} pooled Dice from {number(before)} to {number(after)}"
    text = f"{policy[0].upper()}{policy[1:]} steering ({where}) {moved}"
    best, controls = rivals_of(entry, name)
    beside = [f"{plain(key)} gave {number(value)}" for key, value in controls.items()]
    if best is not None:
        beside.insert(0, f"the best rival without latents, {plain(best[0])}, reached {number(best[1])}")
    if beside:
        text += f"; {', '.join(beside)}"
    text += ". " + _verdict(after, before, best, controls)
    return text + _convention_warning(entry, name, compared(after, before))


def _verdict(after: float, before: float, best: tuple[str, float] | None, controls: Mapping[str, float]) -> str:
    gain = compared(after, before)
    if gain < 0:
        return "So the edit made this class worse."
    if gain == 0:
        return "So the edit changed nothing that shows in two digits."
    if best is None and not controls:
        return "Nothing was run beside it, so this says nothing about the latents yet."
    lost = [plain(key) for key, value in controls.items() if compared(after, value) <= 0]
    if lost:
        return f"So the gain is not due to the chosen latents: {' and '.join(lost)} did as well."
    if best is None:
        return "No rival at the output was run beside it."
    place = compared(after, best[1])
    if place > 0:
        return f"So it beats every rival that was run, by {signed(after - best[1])}."
    if place == 0:
        return f"So it is level with {plain(best[0])}, which needs no latents."
    return f"So it does not beat {plain(best[0])}, which needs no latents."


def _steering(summary: Mapping[str, Any]) -> Iterable[str]:
    """The policies' own choices, each with the gap to the oracle on the same slices."""
    entries = [entry for entry in summary.get("steering") or [] if _judged(entry) and entry.get("chosen", True)]
    for entry in entries:
        if entry.get("policy") == "oracle":
            continue
        text = steering_finding(entry)
        same = [
            other
            for other in entries
            if other.get("policy") == "oracle"
            and all(other.get(k) == entry.get(k) for k in ("source", "target", "class"))
        ]
        if same:
            best = max(score(other["after"], "dice_pooled", str(entry["class"])) or 0.0 for other in same)
            text += f" With each slice's own mask to choose by (oracle, not deployable): {number(best)}."
        yield text


def _convention_warning(entry: Mapping[str, Any], name: str, pooled: int) -> str:
    before = score(entry.get("before"), "dice_slice_empty1", name)
    after = score(entry.get("after"), "dice_slice_empty1", name)
    if before is None or after is None or compared(after, before) == pooled:
        return ""
    return (
        f" Counting slices without the class as 1 would have told another story: {number(before)} to {number(after)}."
    )


def _judged(entry: Mapping[str, Any]) -> bool:
    name = str(entry.get("class"))
    return None not in (
        score(entry.get("before"), "dice_pooled", name),
        score(entry.get("after"), "dice_pooled", name),
    )


def _segmentation(summary: Mapping[str, Any]) -> Iterable[str]:
    segmenters = summary.get("segmenters") or []
    for one in segmenters:
        own = one.get("trained_on")
        home = score(dig(one, "scores", str(own)), "dice_pooled", "foreground")
        if home is None:
            continue
        weakest = [
            (value, name)
            for name in classes_of(dig(one, "scores", str(own)))
            if (value := score(dig(one, "scores", str(own)), "dice_pooled", name)) is not None
        ]
        text = f"Segmenter {plain(one['name'])} reaches {number(home)} foreground pooled Dice on its own cohort ({plain(own)})"
        if len(weakest) > 1:
            value, name = min(weakest)
            text += f", {number(value)} for its weakest class ({plain(name)})"
        away = [
            (value, cohort)
            for cohort, scores in (one.get("scores") or {}).items()
            if cohort != own and (value := score(scores, "dice_pooled", "foreground")) is not None
        ]
        if away:
            value, cohort = min(away)
            if compared(value, home) < 0:
                text += f" and {number(value)} on {plain(cohort)}, where it does worst"
            else:
                text += f" and no less on any other (lowest: {plain(cohort)}, {number(value)})"
        yield text + "."


def _alignment(summary: Mapping[str, Any]) -> Iterable[str]:
    for entry in summary.get("alignments") or []:
        raw = defined(entry.get("shared"))
        if raw is None:
            continue
        floor, ceiling = defined(entry.get("floor")), defined(entry.get("ceiling"))
        text = f"{pair_of(entry)}: {percent(raw)} of live latents are called shared"
        if (tau := defined(entry.get("tau"))) is not None:
            text += f" at tau {tau:g}"
        if floor is None or ceiling is None:
            text += "; floor and ceiling were not both measured, so this share cannot be read"
        else:
            text += f"; the floor is {percent(floor)}, the ceiling {percent(ceiling)}: "
            calibrated = defined(entry.get("calibrated"))
            if calibrated is None:
                text += "they do not part, so the share says nothing here"
            else:
                text += f"calibrated {number(calibrated)}"
                if calibrated < 0.1:
                    text += ", hardly more than a common seed gives"
                elif calibrated > 0.9:
                    text += ", nearly what one model gives twice"
        together = defined(dig(entry, "functional", "matched_by_weight"))
        if together is not None:
            text += f". The pairs matched by weight fire together with a mean correlation of {number(together)}"
            by_function = defined(dig(entry, "functional", "matched_by_function"))
            if by_function is not None:
                text += f"; matched by function instead, {number(by_function)}"
        yield text + "."
    universal = summary.get("universal") or {}
    if defined(universal.get("n")) is not None:
        text = f"{plural(universal['n'], 'latent')} would be called universal (shared in every pair)"
        if defined(universal.get("share")) is not None:
            text += f", {percent(universal['share'])}"
        yield text + "; this number has the same floor as the pairs it is built from."


def _failures(summary: Mapping[str, Any]) -> Iterable[str]:
    for entry in summary.get("failures") or []:
        n, recovered = defined(entry.get("n")), defined(entry.get("recovered"))
        if not n or recovered is None:
            continue
        policy = plain(entry.get("policy") or "chosen")
        text = (
            f"Of the {plural(n, 'worst slice')} of {plain(entry.get('segmenter') or 'the model')} on "
            f"{plain(entry.get('cohort'))}, {policy} edits recovered {_some(recovered)} ({percent(recovered / n)})"
        )
        control = defined(entry.get("random_recovered"))
        if control is None:
            yield text + "; no random latents were run beside it."
            continue
        text += f"; as many random latents recovered {_some(control)} ({percent(control / n)})"
        if recovered <= control:
            text += ", so the choice of latents did not help"
        rivals = {
            key: value
            for key, outcome in (entry.get("baselines") or {}).items()
            if (value := defined(dig(outcome, "recovered"))) is not None
        }
        if rivals:
            best = max(rivals, key=lambda key: rivals[key])
            text += f"; {plain(best)}, without latents, recovered {_some(rivals[best])}"
        oracle = " The oracle saw each slice's own mask." if entry.get("policy") == "oracle" else ""
        yield f"{text}.{oracle}"


def _some(value: float) -> str:
    return count(value) if value == round(value) else number(value, 1)


def _hookpoints(summary: Mapping[str, Any]) -> Iterable[str]:
    for one in summary.get("segmenters") or []:
        for effect in one.get("effects") or []:
            if effect.get("hookpoint") != one.get("hookpoint") or effect.get("class") != "foreground":
                continue
            before, after = defined(effect.get("dice_before")), defined(effect.get("dice_ablated"))
            if before is None or after is None:
                continue
            text = (
                f"{plain(one['name'])} is opened at {plain(one['hookpoint'])}: with its activation replaced by the mean, "
                f"foreground Dice goes from {number(before)} to {number(after)}"
            )
            yield text + (
                "." if before - after >= 0.1 else ", so little passes through it and edits there can do little."
            )


def _dictionaries(summary: Mapping[str, Any]) -> Iterable[str]:
    for one in summary.get("dictionaries") or []:
        explained = defined(one.get("explained_variance"))
        if explained is None:
            continue
        text = f"Dictionary {plain(one['name'])} explains {percent(explained)} of the activation's variance"
        control = defined(one.get("control_explained_variance"))
        text += (
            "; no untrained segmenter was run beside it"
            if control is None
            else f"; a dictionary of an untrained segmenter explains {percent(control)}"
            + (", so this alone proves nothing" if control > explained - 0.05 else "")
        )
        kept = defined(one.get("dice_kept"))
        text += f". It keeps {percent(kept)} of what the activation gives to Dice" if kept is not None else ""
        dead = defined(one.get("dead_share"))
        text += f"; {percent(dead)} of its latents never fire" if dead is not None and kept is not None else ""
        yield text + "."


def _quarantine(summary: Mapping[str, Any]) -> Iterable[str]:
    bad = [(one["name"], int(defined(one.get("n_quarantined")) or 0)) for one in summary.get("cohorts") or []]
    bad = [(name, n) for name, n in bad if n]
    if bad:
        texts = [f"{plain(name)} {n}" for name, n in bad]
        yield f"Cases left out because their files are faulty: {', '.join(texts)}; see Cohorts for the cure."
