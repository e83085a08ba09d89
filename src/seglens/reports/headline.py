"""The answer of a run in one paragraph, and its claims with a verdict each: both follow from the figures alone."""

from collections.abc import Iterable, Sequence

from seglens.lens_names import segmenter_of
from seglens.reports.blocks import Claim
from seglens.reports.verdicts import baselines_of, evaluated, unchanged
from seglens.reports.wording import bracketed, listed, number, percent, plain, plural, signed
from seglens.runs import Run
from seglens.segmenters.class_falls import MIN_DICE, ClassCell, class_cells, findings_of, n_asked
from seglens.segmenters.intervals import MIN_PATIENTS
from seglens.segmenters.scoring import Scores
from seglens.steering.records import SteeringRecord
from seglens.steering.sweep import UNEDITED
from seglens.summaries import Summary

NAMED = 3
"""Further collapses that the paragraph names; the matrix holds all."""
CLAIMED = 4
"""Collapses, and falls, that have a claim of their own; the rest are counted in one."""


def cells_of(run: Run, summary: Summary) -> list[ClassCell]:
    """Every class of every segmenter on every cohort, from the scores that a run keeps."""
    stages = {(one.name, cohort): f"scores/{one.name}@{cohort}" for one in summary.segmenters for cohort in one.scores}
    scores = {pair: Scores(run.artifact(stage).table("scores")) for pair, stage in stages.items() if stage in run}
    return class_cells(scores, {one.name: one.trained_on for one in summary.segmenters})


def worst_cell(cells: Sequence[ClassCell]) -> ClassCell | None:
    """The cell that the page begins with: the largest fall of the gravest verdict; None where no class may fall."""
    for verdict in ("collapsed", "falls", "no fall shown", "too few patients"):
        found = findings_of(cells, verdict)
        if found:
            return found[0]
    return None


def short_answer(summary: Summary, cells: Sequence[ClassCell]) -> list[str]:
    """Sentences: which model fails where and on which class, how, what helped, and how sure that is.

    Args:
        summary: of a run.
        cells: its classes on its cohorts.
    """
    return [*_where(cells), *_how(cells), *_helped(summary, cells), *_how_sure(cells)]


def _where(cells: Sequence[ClassCell]) -> Iterable[str]:
    worst = worst_cell(cells)
    yield from _not_learnt(cells)
    if worst is None:
        if any(one.verdict == "not learnt" for one in cells):
            yield "So there is no class that could be lost on another cohort."
        elif cells:
            yield "No model was scored both on its own cohort and on another, so nothing can be said about a fall."
        return
    asked = n_asked(cells)
    figures = (
        f"pooled Dice {_dice(worst)} over {plural(worst.n_patients, 'patient')}, against {_at_home(worst)} over "
        f"{plural(worst.n_home_patients, 'patient')} at home"
    )
    name, place = plain(worst.class_name), f"{plain(worst.segmenter)} on {plain(worst.cohort)}"
    if worst.verdict == "collapsed":
        yield f"Model {plain(worst.segmenter)} loses {name} on {plain(worst.cohort)}: {figures}."
        others = findings_of(cells, "collapsed")[1:]
        if others:
            named = [f"{plain(one.class_name)} of {_place(one)} ({number(one.dice.value)})" for one in others[:NAMED]]
            rest = f", and {len(others) - NAMED} more" if len(others) > NAMED else ""
            yield f"Lost as well: {listed(named)}{rest}."
    elif worst.verdict == "falls":
        yield f"No class collapses, but {name} of model {place} does worse than at home: {figures}."
    elif worst.verdict == "no fall shown":
        yield (
            f"No class surely does worse on another cohort than at home ({plural(asked, 'combination')} of model, "
            f"cohort and class compared). The largest difference, {name} of model {place}, may be chance: {figures}."
        )
    else:
        yield (
            f"Too few patients to say whether a class fails elsewhere: {MIN_PATIENTS} on each side are needed. The "
            f"largest difference seen is {name} of model {place}: {figures}."
        )


def _not_learnt(cells: Sequence[ClassCell]) -> Iterable[str]:
    for segmenter in dict.fromkeys(one.segmenter for one in cells):
        own = [one for one in cells if one.segmenter == segmenter and one.verdict == "home"]
        weak = [plain(one.class_name) for one in own if one.dice.value < MIN_DICE]
        if weak:
            yield f"Model {plain(segmenter)} has not learnt {listed(weak)} (Dice at home below {MIN_DICE:g})."


def _how(cells: Sequence[ClassCell]) -> Iterable[str]:
    worst = worst_cell(cells)
    if worst is None or worst.verdict not in ("collapsed", "falls"):
        return
    name = plain(worst.class_name)
    text = f"Of {plural(worst.n_present, 'slice')} with {name} there it misses it altogether in {worst.n_missed}"
    text += "" if worst.recall is None else f", and finds {percent(worst.recall)} of its pixels"
    if worst.precision is not None:
        text += f"; of what it calls {name}, {percent(worst.precision)} is right"
    yield f"{text}."


def _helped(summary: Summary, cells: Sequence[ClassCell]) -> Iterable[str]:
    entries = chosen_steering(summary)
    if not entries:
        if cells:
            yield "No correction was tried."
        return
    worst = worst_cell(cells)
    own = [entry for entry in entries if worst is not None and is_of(entry, worst)]
    if worst is not None and not own:
        yield f"No correction of {plain(worst.class_name)} of {_place(worst)} was tried; one of another class was:"
    for entry in own or entries[:1]:
        yield helped_sentence(entry)


def helped_sentence(entry: SteeringRecord) -> str:
    """Say what changing latents did to a class, and whether it took latents."""
    gain, name = entry.gains[UNEDITED], plain(entry.class_name)
    where = f"{name} of {plain(segmenter_of(entry.source))} on {plain(entry.target)}"
    if unchanged(entry):
        text = f"Changing latents did not help {where}: nothing beat the untouched network where edits were chosen"
    else:
        word = {1: "raised", 0: "did not surely raise", -1: "lowered"}[gain.sign]
        by = f"{signed(gain.value)} {bracketed(gain.low, gain.high, signed)}".strip()
        text = f"Changing {plural(len(entry.latents), 'latent')} {word} Dice of {where} ({by})"
    best, _ = baselines_of(entry, entry.class_name)
    before = entry.before.dice(entry.class_name).value
    if best is None or before is None:
        return f"{text}; no correction at the output was run beside it."
    baseline = f"{plain(best[0])}, which needs no latents"
    change = signed(best[1] - before)
    if entry.gains[best[0]].sign > 0:
        return f"{text}, more than {baseline} ({change})."
    word = "did better" if entry.gains[best[0]].sign < 0 else "cannot be told from it"
    return f"{text}; {baseline}, {word} ({change})."


def _how_sure(cells: Sequence[ClassCell]) -> Iterable[str]:
    few = findings_of(cells, "too few patients")
    if len(few) and n_asked(cells):
        yield f"{plural(len(few), 'combination')} with fewer than {MIN_PATIENTS} patients a side were not judged."
    if cells:
        yield "Brackets are 95% intervals over patients."


def claims_of(summary: Summary, cells: Sequence[ClassCell]) -> list[Claim]:
    """The claims of a run, each with its verdict and the section that shows it.

    Args:
        summary: of a run.
        cells: its classes on its cohorts.
    """
    return [*_falls(cells), *_steered(summary), *_recovered(summary), *_fitted(summary)]


def _falls(cells: Sequence[ClassCell]) -> Iterable[Claim]:
    collapsed, falls = findings_of(cells, "collapsed"), findings_of(cells, "falls")
    none, few = findings_of(cells, "no fall shown"), findings_of(cells, "too few patients")
    for found, does in ((collapsed, "collapses"), (falls, "does worse than at home")):
        for one in found[:CLAIMED]:
            yield Claim(
                f"{plain(one.class_name)} {does} for {_place(one)}: Dice {_dice(one)}, at home {_at_home(one)}",
                "holds", "where",
            )  # fmt: skip
        if len(found) > CLAIMED:
            more = len(found) - CLAIMED
            yield Claim(f"A class {does} in {_others(more, found)}", "holds", "where")
    if none:
        yield Claim(
            f"A class does worse elsewhere, in {_others(len(none), collapsed or falls)}", "does not hold", "where"
        )
    if few:
        yield Claim(
            f"A class does worse elsewhere, in {_others(len(few), collapsed or falls or none)}",
            "too few patients",
            "where",
        )


def _others(n: int, before: Sequence[ClassCell]) -> str:
    return plural(n, f"{'other ' if before else ''}combination") + " of model, cohort and class"


def _steered(summary: Summary) -> Iterable[Claim]:
    for entry in chosen_steering(summary):
        name = plain(entry.class_name)
        where = f"{name} of {plain(segmenter_of(entry.source))} on {plain(entry.target)}"
        few = entry.evaluation.patients < MIN_PATIENTS
        gain = entry.gains[UNEDITED]
        change = f": {signed(gain.value)} {bracketed(gain.low, gain.high, signed)}"
        raised = not unchanged(entry) and gain.sign > 0
        yield _claim(f"Changing latents raises {where}{'' if unchanged(entry) else change}", raised, few, "helped")
        best, _ = baselines_of(entry, entry.class_name)
        if best is not None and raised and not few:
            over = entry.gains[best[0]]
            difference = f"{signed(over.value)} {bracketed(over.low, over.high, signed)}"
            text = f"Latents raise {where} by more than {plain(best[0])} does: {difference}"
            yield _claim(text, over.sign > 0, few, "helped")


def _recovered(summary: Summary) -> Iterable[Claim]:
    for entry in summary.failures:
        over = entry.over_random
        if entry.policy != "held_out" or over is None:
            continue
        where = f"{plain(segmenter_of(entry.segmenter))} on {plain(entry.cohort)}"
        text = f"Held-out edits recover more of the {entry.n} worst slices of {where} than random latents do"
        yield _claim(text, not entry.is_identity and over.sign > 0, over.low is None, "failures")


def _fitted(summary: Summary) -> Iterable[Claim]:
    pairs = [
        (one.explained_variance, one.control_explained_variance)
        for one in summary.dictionaries
        if one.explained_variance is not None and one.control_explained_variance is not None
    ]
    if pairs:
        more = sum(own > control for own, control in pairs)
        text = f"Dictionaries explain more variance than those of untrained networks: {more} of {len(pairs)} do"
        yield _claim(text, more == len(pairs), False, "dictionaries")


def _claim(text: str, holds: bool, few: bool, section: str) -> Claim:
    return Claim(text, "too few patients" if few else "holds" if holds else "does not hold", section)


def chosen_steering(summary: Summary) -> list[SteeringRecord]:
    """The held-out policy's own choice of every steered class that can be judged."""
    return [one for one in summary.steering if one.policy == "held_out" and one.chosen and evaluated(one)]


def is_of(entry: SteeringRecord, cell: ClassCell) -> bool:
    """Whether an edit is of a cell's segmenter, cohort and class."""
    steered = (segmenter_of(entry.source), entry.target, entry.class_name)
    return steered == (cell.segmenter, cell.cohort, cell.class_name)


def _place(cell: ClassCell) -> str:
    return f"{plain(cell.segmenter)} on {plain(cell.cohort)}"


def _dice(cell: ClassCell) -> str:
    return f"{number(cell.dice.value)} {bracketed(cell.dice.low, cell.dice.high)}".strip()


def _at_home(cell: ClassCell) -> str:
    home = cell.at_home
    return "–" if home is None else f"{number(home.value)} {bracketed(home.low, home.high)}".strip()
