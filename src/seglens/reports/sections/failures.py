"""A segmenter's worst slices: how many an edit recovers, beside random latents, and pictures before and after."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from seglens.cohorts.slice_set import SliceSet
from seglens.reports.blocks import Block, Cell, Fold, Heading, Paragraph, Picture, Pictures, Section, head, table
from seglens.reports.palette import class_colours
from seglens.reports.pictures import best_sequence, mask_picture
from seglens.reports.sections.cohorts import class_keys
from seglens.reports.verdicts import CONTROLS
from seglens.reports.wording import UNDEFINED, count, defined, dig, number, percent, plain, plural, signed
from seglens.runs import Run
from seglens.steering.failure_recovery import FailureResult

INTRO = (
    "The slices that a model segments worst, before and after latents are changed. Any change recovers some slices and "
    "worsens others by luck, so as many random latents are searched and changed in the same way beside it."
)
NOTHING = "nothing beat the untouched network"
EXAMPLES = 6
SIDE = 176
PANELS = (
    ("before", "model as it is"),
    ("held_out", "held-out edit"),
    ("oracle", "oracle edit"),
    ("truth", "reference"),
)


def failures_section(run: Run, summary: Mapping[str, Any]) -> Section:
    """One part for each segmenter and cohort."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in summary.get("failures") or []:
        groups.setdefault((str(entry.get("segmenter") or ""), str(entry.get("cohort"))), []).append(entry)
    if not groups:
        text = "No recovery of failures was run."
        return Section("failures", "Recovered failures", INTRO, (Paragraph(text, "missing"),))
    blocks: list[Block] = []
    for (segmenter, cohort), entries in groups.items():
        stage = _stage(run, segmenter, cohort)
        name = segmenter or (stage or "").removeprefix("failures/").removesuffix(f"-{cohort}") or "model"
        blocks.append(Heading(f"{plain(name)} on {plain(cohort)}"))
        blocks.append(_recovered(entries))
        blocks += _examples(run, stage, cohort)
        modes = [(plain(entry.get("policy")), entry["modes"]) for entry in entries if entry.get("modes")]
        if modes:
            blocks.append(Fold("By kind of error", (_modes(modes, str(entries[0].get("mode_rule") or "")),)))
    return Section("failures", "Recovered failures", INTRO, tuple(blocks))


def _stage(run: Run, segmenter: str, cohort: str) -> str | None:
    """The stage that left these results; a result that does not name its segmenter is known by its cohort."""
    exact = f"failures/{segmenter}-{cohort}"
    if exact in run:
        return exact
    found = [stage for stage in run.stages("failures/") if stage.endswith(f"-{cohort}")]
    return found[0] if len(found) == 1 and not segmenter else None


def share_of(part: Any, n: Any) -> str:
    """``"23 (38%)"``; a mean over several draws keeps one digit."""
    value, whole = defined(part), defined(n)
    if value is None:
        return UNDEFINED
    text = count(value) if value == round(value) else number(value, 1)
    return f"{text} ({percent(value / whole)})" if whole else text


def _recovered(entries: list[Mapping[str, Any]]) -> Block:
    rows: list[tuple[Cell | str, ...]] = []
    first = entries[0]
    n = first.get("n")
    for entry in entries:
        edit = NOTHING if entry.get("is_identity") else str(entry.get("edit") or "")
        rows.append(
            (
                head(f"{plain(entry.get('policy'))} edit", edit),
                Cell(share_of(entry.get("recovered"), n), strong=True),
                share_of(entry.get("worsened"), n),
                *_means(entry.get("mean_after"), entry),
                Cell(share_of(entry.get("random_recovered"), n), _draws(entry, "recovered")),
                Cell(share_of(entry.get("random_worsened"), n), _draws(entry, "worsened")),
                number(entry.get("random_mean_after"), 3),
            )
        )
        if defined(entry.get("random_best_recovered")) is not None:
            rows.append(
                (
                    head("best draw of random latents", "best on the selection patients"),
                    share_of(entry.get("random_best_recovered"), n),
                    share_of(entry.get("random_best_worsened"), n),
                    *_means(entry.get("random_best_mean_after"), entry),
                    *(UNDEFINED,) * 3,
                )
            )
    for name, outcome in (first.get("baselines") or {}).items():
        rows.append(
            (
                head(plain(name), "control" if name in CONTROLS else "baseline without latents"),
                share_of(dig(outcome, "recovered"), n),
                share_of(dig(outcome, "worsened"), n),
                *_means(dig(outcome, "mean_after"), first),
                *(UNDEFINED,) * 3,
            )
        )
    columns = (
        "",
        "Recovered",
        "Worsened",
        "Mean Dice after",
        "Change",
        "Random latents recovered",
        "… worsened",
        "… mean Dice after",
    )
    return table("Worst slices, recovered", columns, rows, _note(entries))


def _note(entries: list[Mapping[str, Any]]) -> str:
    first = entries[0]
    n, eligible, best = first.get("n"), defined(first.get("n_eligible")), defined(first.get("dice_of_best_failure"))
    note = plural(n, "slice") if eligible is None else f"{count(n)} of {count(eligible)} lesion slices"
    note += f"; the best of them has Dice {number(best)}" if best is not None else ""
    note += f"; mean foreground Dice untouched: {number(first.get('mean_before'), 3)}. "
    rule = first.get("recovered_means") or first.get("criterion")
    note += f"Recovered means that {rule}. " if rule else ""
    if defined(first.get("worsened")) is not None:
        note += "Worsened: it falls by at least as much. "
    for entry in entries:
        before, after = defined(entry.get("dice_all_before")), defined(entry.get("dice_all_after"))
        if before is not None and after is not None:
            note += (
                f"On all evaluation slices the {plain(entry.get('policy'))} edit takes pooled foreground Dice from "
                f"{number(before, 3)} to {number(after, 3)}. "
            )
    return note + (
        "The held-out edit was chosen on other patients, and so were the baselines' settings, by the same mean Dice of "
        "their worst slices; the oracle takes for each slice the strength that is best by that slice's own Dice, which "
        "nobody can do in practice."
    )


def _means(after: Any, entry: Mapping[str, Any]) -> tuple[str, str]:
    value, before = defined(after), defined(entry.get("mean_before"))
    change = UNDEFINED if value is None or before is None else signed(value - before, 3)
    return number(value, 3), change


def _draws(entry: Mapping[str, Any], what: str) -> str:
    draws = entry.get(f"random_{what}_draws")
    return f"draws: {', '.join(count(draw) for draw in draws)}" if isinstance(draws, list) and len(draws) > 1 else ""


def _modes(modes: list[tuple[str, Mapping[str, Any]]], rule: str) -> Block:
    rows = []
    for policy, by_mode in modes:
        for mode, entry in by_mode.items():
            n = entry.get("n")
            dice = f"{number(entry.get('mean_before'), 3)} → {number(entry.get('mean_after'), 3)}"
            rows.append((head(policy), head(plain(mode)), count(n), share_of(entry.get("recovered"), n), dice))
    columns = ("Policy", "Errors", "Slices", "Recovered", "Mean Dice before → after")
    return table("Too much (FP), too little (FN), or both", columns, rows, f"{rule}." if rule else "")


def _examples(run: Run, stage: str | None, cohort: str) -> list[Block]:
    if stage is None or f"slices/{cohort}" not in run:
        return [Paragraph("No pictures of these slices are kept in this run.", "missing")]
    result = FailureResult.read(run.artifact(stage))
    examples = result.examples
    rows = examples["rows"].tolist()[:EXAMPLES] if "rows" in examples else []
    slices = SliceSet.read(run.artifact(f"slices/{cohort}")).split("test")
    if not rows or max(rows) >= len(slices):
        return [Paragraph("No pictures of these slices are kept in this run.", "missing")]
    channel = best_sequence(slices.sequences)
    colours = class_colours(slices.labels)
    images, brains = slices.images(rows).numpy(), slices.brains(rows).numpy()
    facts = {entry["row"]: entry for entry in result.slices.filter(pl.col("row").is_in(rows)).to_dicts()}
    pictures = []
    for place, row in enumerate(rows):
        fact = facts.get(row, {})
        where = f"{slices.index['case'][row]}, slice {slices.index['position'][row]}"
        for key, words in PANELS:
            if key not in examples:
                continue
            value = defined(fact.get(f"dice_{key}"))
            label = words if value is None else f"{words}: Dice {number(value)}"
            uri = mask_picture(images[place, channel], brains[place], examples[key][place].numpy(), colours, SIDE)
            label = f"{label} ({where})" if key == "before" else label
            pictures.append(Picture(uri, f"{where}: {words}", SIDE, SIDE, label))
    panels = sum(key in examples for key, _ in PANELS)
    caption = (
        f"{slices.sequences[channel]} slices, evenly spaced from the largest gain of the held-out edit (top) to its "
        f"smallest "
        "or its largest loss (bottom), so not a selection of successes. Dice: foreground, of this slice."
    )
    return [Pictures("Before and after", tuple(pictures), caption, class_keys(slices.labels), per_row=panels)]
