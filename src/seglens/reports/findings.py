"""Sentences that follow from a summary's numbers, and only from them: another sign gives another sentence."""

from collections.abc import Callable, Iterable, Sequence

from seglens.cohorts.label_names import FOREGROUND
from seglens.diffing.records import AlignmentRecord
from seglens.lens_names import segmenter_of
from seglens.reports.verdicts import CONTROLS, steering_findings
from seglens.reports.wording import (
    UNDEFINED,
    count,
    listed,
    number,
    pair_of,
    percent,
    plain,
    plural,
)
from seglens.summaries import Summary

WEAK = 0.1
"""Fall of foreground Dice below which a hookpoint is said to matter little."""


def plain_findings(summary: Summary) -> list[str]:
    """Findings of a run in plain language, the most useful first.

    Args:
        summary: of a run; what was not run gives no sentence.

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


def _segmentation(summary: Summary) -> Iterable[str]:
    for one in summary.segmenters:
        own, scores = one.trained_on, one.scores
        home = scores[own].dice().value if own in scores else None
        if home is None:
            continue
        text = f"Model {plain(one.name)} reaches {number(home)} foreground pooled Dice on its own cohort ({plain(own)}"
        classes = {name: scores[own].dice(name).value for name in scores[own].classes}
        known = {name: value for name, value in classes.items() if value is not None}
        if len(known) > 1:
            weakest = min(known, key=lambda name: known[name])
            text += f"; weakest class: {plain(weakest)}, {number(known[weakest])}"
        text += ")"
        everywhere = {cohort: found.dice().value for cohort, found in scores.items()}
        away = {cohort: value for cohort, value in everywhere.items() if cohort != own and value is not None}
        if away:
            worst = min(away, key=lambda cohort: away[cohort])
            text += f" and {number(away[worst])} on {plain(worst)}"
            text += ", the lowest on another" if len(away) > 1 else ""
        yield text + "."


MANY = 3
"""From this many alike sentences on, one sentence with the range says it."""


def _alignment(summary: Summary) -> Iterable[str]:
    entries = [entry for entry in summary.alignments if entry.shared is not None]
    bounded = [(entry.calibrated, pair_of(entry)) for entry in entries if entry.calibrated is not None]
    if len(entries) >= MANY and len(bounded) == len(entries):
        shared, floor, ceiling = (
            span((getattr(entry, key) for entry in entries), percent) for key in ("shared", "floor", "ceiling")
        )
        order = sorted(bounded, key=lambda one: one[0])
        lowest, highest = (
            f"{pair} ({number(calibrated)}{_read_share(calibrated)})" for calibrated, pair in (order[0], order[-1])
        )
        yield (
            f"Over {len(entries)} pairs of models, {shared} of live latents are called shared; the floor is "
            f"{floor}, the ceiling {ceiling}. Calibrated between the two, the share is highest for {highest} and "
            f"lowest for {lowest}."
        )
    else:
        yield from (_shared(entry) for entry in entries)
    yield from _together(summary.alignments)
    if summary.universal is not None:
        floors = span(summary.universal.pair_floors or (), percent)
        known = "" if floors == UNDEFINED else f", those of its pairs are {floors}"
        yield (
            f"{plural(summary.universal.n, 'latent')} would be called universal (shared in every pair; "
            f"{percent(summary.universal.share)}); its own floor was not measured{known}."
        )


def span(values: Iterable[float | None], written: Callable[[float], str]) -> str:
    """``"49% to 84%"``, or one value where they are written alike."""
    known = [value for value in values if value is not None]
    if not known:
        return UNDEFINED
    low, high = written(min(known)), written(max(known))
    return low if low == high else f"{low} to {high}"


def _shared(entry: AlignmentRecord) -> str:
    text = f"{pair_of(entry)}: {percent(entry.shared)} of live latents are called shared"
    if entry.tau is not None:
        text += f" at tau {entry.tau:g}"
    floor, ceiling = entry.floor, entry.ceiling
    if floor is None or ceiling is None:
        return text + "; floor and ceiling were not both measured, so this share cannot be read."
    text += f"; the floor is {percent(floor)}, the ceiling {percent(ceiling)}: "
    calibrated = entry.calibrated
    if calibrated is None:
        return text + "they do not part, so the share says nothing here."
    return f"{text}calibrated {number(calibrated)}{_read_share(calibrated)}."


def _read_share(calibrated: float) -> str:
    if calibrated < 0:
        return ", less than a common seed gives"
    if calibrated < 0.1:
        return ", hardly more than a common seed gives"
    return ", nearly what one model gives twice" if calibrated > 0.9 else ""


def _together(entries: Sequence[AlignmentRecord]) -> Iterable[str]:
    """Correlation of codes; raw figures only of pairs of one shape, for others start from another chance."""
    alike = [entry.functional for entry in entries if entry.functional.same_shape]
    parts = []
    if any(one.matched_by_weight is not None for one in alike):
        by_weight = span((one.matched_by_weight for one in alike), number)
        parts.append(f"latents matched by weight fire together with a mean correlation of {by_weight}")
    if any(one.matched_by_function is not None for one in alike):
        text = f"matched by function instead, {span((one.matched_by_function for one in alike), number)}"
        null = span((one.floor for one in alike), number)
        text += f" (null: {null})" if null != UNDEFINED else ""
        calibrated = span((one.calibrated for one in alike), number)
        parts.append(text + (f", {calibrated} between null and one model twice" if calibrated != UNDEFINED else ""))
    others = [entry for entry in entries if not entry.functional.same_shape]
    over = [
        f"{pair_of(entry)} {number(entry.functional.matched_by_function)} (null: {number(entry.functional.floor)})"
        for entry in others
        if entry.functional.matched_by_function is not None
    ]
    if over:
        parts.append(
            "of dictionaries of different width or grid, whose correlations compare with their own null alone and with "
            f"no other pair's: {', '.join(over)}"
        )
    if parts:
        yield f"On the same slices, {'; '.join(parts)}."


def _failures(summary: Summary) -> Iterable[str]:
    for entry in summary.failures:
        n, policy = entry.n, plain(entry.policy)
        where = f"Of the {plural(n, 'worst slice')} of {plain(entry.segmenter)} on {plain(entry.cohort)}"
        if entry.is_identity:
            text = (
                f"{where}, {policy} edits recovered none: nothing beat the untouched network on the selection patients"
            )
        else:
            dice = f"mean Dice {number(entry.mean_before)}, best {number(entry.dice_of_best_failure)}"
            text = (
                f"{where} ({dice}), {policy} edits recovered {_some(entry.recovered)} ({percent(entry.recovered / n)})"
            )
            text += _worse(entry.worsened)
        drawn = (
            (entry.random_recovered, entry.random_worsened, "as many random latents"),
            (entry.random_best_recovered, entry.random_best_worsened, "the best draw of random latents"),
        )
        controls = [
            (recovered - worse, recovered, worse, words)
            for recovered, worse, words in drawn
            if recovered is not None and worse is not None
        ]
        if not controls:
            yield text + "; no random latents were run beside it."
            continue
        net, control, worse, words = max(controls, key=lambda one: one[0])
        text += f"; {words} recovered {_some(control)} ({percent(control / n)}){_worse(worse)}"
        apart = entry.over_random is not None and entry.over_random.sign > 0
        if not entry.is_identity and (entry.net <= net or not apart):
            text += ", so the choice of latents did not help" + (
                "" if entry.net <= net else ", as far as patients tell"
            )
        baselines = {key: outcome for key, outcome in entry.baselines.items() if key not in CONTROLS}
        if baselines:
            best = max(baselines, key=lambda key: baselines[key].net)
            outcome = baselines[best]
            text += f"; {plain(best)}, the best after the fact without latents, recovered {_some(outcome.recovered)}"
            text += _worse(outcome.worsened)
        oracle = " The oracle saw each slice's own mask." if entry.policy == "oracle" else ""
        yield f"{text}.{oracle}"


def _worse(worsened: float | int) -> str:
    return f" and worsened {_some(worsened)}"


def _some(value: float | int) -> str:
    return count(value) if value == round(value) else number(value, 1)


def _hookpoints(summary: Summary) -> Iterable[str]:
    parts, weak = [], []
    for one in summary.segmenters:
        several = len(one.hookpoints) > 1
        for effect in one.effects:
            if effect.hookpoint not in one.hookpoints or effect.class_name != FOREGROUND:
                continue
            before, after = effect.dice_before, effect.dice_ablated
            if before is None or after is None:
                continue
            parts.append(f"{plain(one.name)} at {plain(effect.hookpoint)} from {number(before)} to {number(after)}")
            if before - after < WEAK:
                weak.append(f"{plain(one.name)} at {plain(effect.hookpoint)}" if several else plain(one.name))
    if parts:
        text = f"With the opened activation replaced by its mean, foreground Dice goes: {', '.join(parts)}."
        yield text + (f" So little passes through it in {listed(weak)}, and edits there can do little." if weak else "")


def _dictionaries(summary: Summary) -> Iterable[str]:
    entries = [one for one in summary.dictionaries if one.explained_variance is not None]
    if not entries:
        return
    names = listed(dict.fromkeys(plain(segmenter_of(one.name)) for one in entries))
    one = len(entries) == 1
    explained = span((entry.explained_variance for entry in entries), percent)
    subject = f"The dictionary of {names} explains" if one else f"The dictionaries of {names} explain"
    text = f"{subject} {explained} of variance"
    pairs = [(entry.explained_variance or 0.0, entry.control_explained_variance) for entry in entries]
    controls = [control for _, control in pairs if control is not None]
    if not controls:
        text += "; no untrained model was run beside"
    else:
        text += f"; those of an untrained model {span(controls, percent)}"
        if any(control is not None and control > explained_by - 0.05 for explained_by, control in pairs):
            text += ", so explained variance alone proves nothing"
    kept = span((entry.dice_kept for entry in entries), percent)
    dead = span((entry.dead_share for entry in entries), percent)
    text += f". Kept of what the activation gives to Dice: {kept}" if kept != UNDEFINED else ""
    yield text + (f". Latents that never fire: {dead}." if dead != UNDEFINED else ".")


def _quarantine(summary: Summary) -> Iterable[str]:
    bad = [(one.name, one.n_quarantined) for one in summary.cohorts if one.n_quarantined]
    if bad:
        texts = [f"{plain(name)} {n}" for name, n in bad]
        yield f"Cases left out because their files are faulty: {', '.join(texts)}; see Cohorts for the fix."
