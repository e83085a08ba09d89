"""Sentences that follow from a summary's numbers, and only from them: another sign gives another sentence."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from seglens.reports.verdicts import CONTROLS, compared, steering_findings
from seglens.reports.wording import (
    UNDEFINED,
    classes_of,
    count,
    defined,
    dig,
    listed,
    number,
    pair_of,
    percent,
    plain,
    plural,
    score,
)

WEAK = 0.1
"""Fall of foreground Dice below which a hookpoint is said to matter little."""


def plain_findings(summary: Mapping[str, Any]) -> list[str]:
    """What a run showed, in plain language, the most useful first.

    Args:
        summary: the content of summary.json; missing parts give no sentence.

    Returns:
        Sentences without mark-up; names from the data are taken as they are, so escape them.
    """
    return [
        *steering_findings(summary),
        *_failures(summary),
        *_alignment(summary),
        *_segmentation(summary),
        *_hookpoints(summary),
        *_dictionaries(summary),
        *_quarantine(summary),
    ]


def _segmentation(summary: Mapping[str, Any]) -> Iterable[str]:
    for one in summary.get("segmenters") or []:
        own = str(one.get("trained_on"))
        scores = one.get("scores") or {}
        home = score(scores.get(own), "dice_pooled", "foreground")
        if home is None:
            continue
        text = (
            f"Model {plain(one['name'])} reaches {number(home)} foreground pooled Dice on its own cohort ({plain(own)}"
        )
        classes = {name: score(scores[own], "dice_pooled", name) for name in classes_of(scores[own])}
        known = {name: value for name, value in classes.items() if value is not None}
        if len(known) > 1:
            weakest = min(known, key=lambda name: known[name])
            text += f"; weakest class: {plain(weakest)}, {number(known[weakest])}"
        text += ")"
        everywhere = {cohort: score(found, "dice_pooled", "foreground") for cohort, found in scores.items()}
        away = {cohort: value for cohort, value in everywhere.items() if cohort != own and value is not None}
        if away:
            worst = min(away, key=lambda cohort: away[cohort])
            if compared(away[worst], home) < 0:
                text += f" and {number(away[worst])} on {plain(worst)}, where it does worst"
            else:
                text += f" and no less on any other (lowest: {plain(worst)}, {number(away[worst])})"
        yield text + "."


MANY = 3
"""From this many alike sentences on, one sentence with the range says it."""


def _alignment(summary: Mapping[str, Any]) -> Iterable[str]:
    entries = [entry for entry in summary.get("alignments") or [] if defined(entry.get("shared")) is not None]
    bounded = [entry for entry in entries if defined(entry.get("calibrated")) is not None]
    if len(entries) >= MANY and len(bounded) == len(entries):
        order = sorted(bounded, key=lambda entry: float(entry["calibrated"]))
        spans = {key: span([entry.get(key) for entry in bounded], percent) for key in ("shared", "floor", "ceiling")}
        yield (
            f"Over {len(bounded)} pairs of models, {spans['shared']} of live latents are called shared; the floor is "
            f"{spans['floor']}, the ceiling {spans['ceiling']}. Calibrated between the two, the share is highest for "
            f"{pair_of(order[-1])} ({number(order[-1]['calibrated'])}{_read_share(order[-1]['calibrated'])}) and "
            f"lowest for "
            f"{pair_of(order[0])} ({number(order[0]['calibrated'])}{_read_share(order[0]['calibrated'])})."
        )
    else:
        yield from (_shared(entry) for entry in entries)
    yield from _together(summary.get("alignments") or [])
    universal = summary.get("universal") or {}
    if defined(universal.get("n")) is not None:
        text = f"{plural(universal['n'], 'latent')} would be called universal (shared in every pair"
        share = defined(universal.get("share"))
        floors = span(universal.get("pair_floors") or [], percent)
        known = "" if floors == UNDEFINED else f", those of its pairs are {floors}"
        yield f"{text}{'' if share is None else f'; {percent(share)}'}); its own floor was not measured{known}."


def span(values: Iterable[Any], written: Callable[[Any], str]) -> str:
    """``"49% to 84%"``, or one value where they are written alike."""
    known = [value for value in map(defined, values) if value is not None]
    if not known:
        return UNDEFINED
    low, high = written(min(known)), written(max(known))
    return low if low == high else f"{low} to {high}"


def _shared(entry: Mapping[str, Any]) -> str:
    text = f"{pair_of(entry)}: {percent(entry['shared'])} of live latents are called shared"
    if (tau := defined(entry.get("tau"))) is not None:
        text += f" at tau {tau:g}"
    floor, ceiling = defined(entry.get("floor")), defined(entry.get("ceiling"))
    if floor is None or ceiling is None:
        return text + "; floor and ceiling were not both measured, so this share cannot be read."
    text += f"; the floor is {percent(floor)}, the ceiling {percent(ceiling)}: "
    calibrated = defined(entry.get("calibrated"))
    if calibrated is None:
        return text + "they do not part, so the share says nothing here."
    return f"{text}calibrated {number(calibrated)}{_read_share(calibrated)}."


def _read_share(calibrated: float) -> str:
    if calibrated < 0:
        return ", less than a common seed gives"
    if calibrated < 0.1:
        return ", hardly more than a common seed gives"
    return ", nearly what one model gives twice" if calibrated > 0.9 else ""


def _together(entries: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    by_weight = [defined(dig(entry, "functional", "matched_by_weight")) for entry in entries]
    by_function = [defined(dig(entry, "functional", "matched_by_function")) for entry in entries]
    nulls = [defined(dig(entry, "functional", "floor")) for entry in entries]
    parts = []
    if any(value is not None for value in by_weight):
        parts.append(f"latents matched by weight fire together with a mean correlation of {span(by_weight, number)}")
    if any(value is not None for value in by_function):
        text = f"matched by function instead, {span(by_function, number)}"
        null = span(nulls, number)
        parts.append(text + (f" (null: {null})" if null != UNDEFINED else ""))
    if parts:
        text = "; ".join(parts)
        yield f"On the same slices, {text}."


def _failures(summary: Mapping[str, Any]) -> Iterable[str]:
    for entry in summary.get("failures") or []:
        n, recovered = defined(entry.get("n")), defined(entry.get("recovered"))
        if not n or recovered is None:
            continue
        policy = plain(entry.get("policy") or "chosen")
        where = (
            f"Of the {plural(n, 'worst slice')} of {plain(entry.get('segmenter') or 'the model')} on "
            f"{plain(entry.get('cohort'))}"
        )
        if entry.get("is_identity"):
            text = (
                f"{where}, {policy} edits recovered none: nothing beat the untouched network on the selection patients"
            )
        else:
            text = f"{where}, {policy} edits recovered {_some(recovered)} ({percent(recovered / n)})"
            text += _worse(entry.get("worsened"))
        controls = [
            (net, value, worse, words)
            for key, words in (("random", "as many random latents"), ("random_best", "the best draw of random latents"))
            if (value := defined(entry.get(f"{key}_recovered"))) is not None
            for worse in [entry.get(f"{key}_worsened")]
            for net in [value - (defined(worse) or 0)]
        ]
        if not controls:
            yield text + "; no random latents were run beside it."
            continue
        net, control, worse, words = max(controls, key=lambda one: one[0])
        text += f"; {words} recovered {_some(control)} ({percent(control / n)}){_worse(worse)}"
        if recovered - (defined(entry.get("worsened")) or 0) <= net and not entry.get("is_identity"):
            text += ", so the choice of latents did not help"
        baselines = {
            key: (value - (defined(dig(outcome, "worsened")) or 0), value, dig(outcome, "worsened"))
            for key, outcome in (entry.get("baselines") or {}).items()
            if key not in CONTROLS and (value := defined(dig(outcome, "recovered"))) is not None
        }
        if baselines:
            best = max(baselines, key=lambda key: baselines[key][0])
            text += (
                f"; {plain(best)}, without latents, recovered {_some(baselines[best][1])}{_worse(baselines[best][2])}"
            )
        oracle = " The oracle saw each slice's own mask." if entry.get("policy") == "oracle" else ""
        yield f"{text}.{oracle}"


def _worse(value: Any) -> str:
    worsened = defined(value)
    return "" if worsened is None else f" and worsened {_some(worsened)}"


def _some(value: float) -> str:
    return count(value) if value == round(value) else number(value, 1)


def _hookpoints(summary: Mapping[str, Any]) -> Iterable[str]:
    parts, weak = [], []
    for one in summary.get("segmenters") or []:
        for effect in one.get("effects") or []:
            if effect.get("hookpoint") != one.get("hookpoint") or effect.get("class") != "foreground":
                continue
            before, after = defined(effect.get("dice_before")), defined(effect.get("dice_ablated"))
            if before is None or after is None:
                continue
            parts.append(f"{plain(one['name'])} at {plain(one['hookpoint'])} from {number(before)} to {number(after)}")
            if before - after < WEAK:
                weak.append(plain(one["name"]))
    if parts:
        text = f"With the opened activation replaced by its mean, foreground Dice goes: {', '.join(parts)}."
        yield text + (f" So little passes through it in {listed(weak)}, and edits there can do little." if weak else "")


def _dictionaries(summary: Mapping[str, Any]) -> Iterable[str]:
    entries = [one for one in summary.get("dictionaries") or [] if defined(one.get("explained_variance")) is not None]
    if not entries:
        return
    names = listed(plain(one["name"]) for one in entries)
    one = len(entries) == 1
    explained = span((entry["explained_variance"] for entry in entries), percent)
    subject = f"The dictionary of {names} explains" if one else f"The dictionaries of {names} explain"
    text = f"{subject} {explained} of variance"
    pairs = [(entry["explained_variance"], defined(entry.get("control_explained_variance"))) for entry in entries]
    controls = [control for _, control in pairs if control is not None]
    if not controls:
        text += "; no untrained model was run beside"
    else:
        text += f"; those of an untrained model {span(controls, percent)}"
        if any(control is not None and control > explained_by - 0.05 for explained_by, control in pairs):
            text += ", so explained variance alone proves nothing"
    kept = span((entry.get("dice_kept") for entry in entries), percent)
    dead = span((entry.get("dead_share") for entry in entries), percent)
    text += f". Kept of what the activation gives to Dice: {kept}" if kept != UNDEFINED else ""
    yield text + (f". Latents that never fire: {dead}." if dead != UNDEFINED else ".")


def _quarantine(summary: Mapping[str, Any]) -> Iterable[str]:
    bad = [(one["name"], int(defined(one.get("n_quarantined")) or 0)) for one in summary.get("cohorts") or []]
    bad = [(name, n) for name, n in bad if n]
    if bad:
        texts = [f"{plain(name)} {n}" for name, n in bad]
        yield f"Cases left out because their files are faulty: {', '.join(texts)}; see Cohorts for the fix."
