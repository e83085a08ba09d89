"""A segmenter's worst slices: how many an edit recovers, beside random latents, and pictures before and after."""

from collections.abc import Sequence

import polars as pl

from seglens.cohorts.slice_set import SliceSet
from seglens.reports.blocks import Block, Cell, Fold, Heading, Paragraph, Picture, Pictures, Section, head, table
from seglens.reports.palette import class_colours
from seglens.reports.pictures import best_sequence, mask_picture
from seglens.reports.sections.cohorts import class_keys
from seglens.reports.shown_planes import place_of, planes_of
from seglens.reports.verdicts import CONTROLS
from seglens.reports.wording import UNDEFINED, count, number, percent, plain, signed
from seglens.runs import Run
from seglens.steering.failure_recovery import FailureResult
from seglens.steering.records import FailureRecord
from seglens.summaries import Summary

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


def failures_section(run: Run, summary: Summary) -> Section:
    """One part for each segmenter and cohort."""
    groups: dict[tuple[str, str], list[FailureRecord]] = {}
    for entry in summary.failures:
        groups.setdefault((entry.segmenter, entry.cohort), []).append(entry)
    if not groups:
        text = "No recovery of failures was run."
        return Section("failures", "Recovered failures", INTRO, (Paragraph(text, "missing"),))
    blocks: list[Block] = []
    for (segmenter, cohort), entries in groups.items():
        blocks.append(Heading(f"{plain(segmenter)} on {plain(cohort)}"))
        blocks.append(_recovered(entries))
        blocks += _examples(run, f"failures/{segmenter}-{cohort}", cohort)
        blocks.append(Fold("By kind of error", (_modes(entries),)))
    return Section("failures", "Recovered failures", INTRO, tuple(blocks))


def share_of(part: float | int | None, n: int) -> str:
    """``"23 (38%)"``; a mean over several draws keeps one digit."""
    if part is None:
        return UNDEFINED
    text = count(part) if part == round(part) else number(part, 1)
    return f"{text} ({percent(part / n)})" if n else text


def _recovered(entries: list[FailureRecord]) -> Block:
    rows: list[tuple[Cell | str, ...]] = []
    first = entries[0]
    n = first.n
    for entry in entries:
        edit = NOTHING if entry.is_identity else entry.edit
        rows.append(
            (
                head(f"{plain(entry.policy)} edit", edit),
                Cell(share_of(entry.recovered, n), strong=True),
                share_of(entry.worsened, n),
                *_means(entry.mean_after, entry),
                Cell(share_of(entry.random_recovered, n), _draws(entry.random_recovered_draws)),
                Cell(share_of(entry.random_worsened, n), _draws(entry.random_worsened_draws)),
                number(entry.random_mean_after, 3),
            )
        )
        if entry.random_best_recovered is not None:
            rows.append(
                (
                    head("best draw of random latents", "best on the selection patients"),
                    share_of(entry.random_best_recovered, n),
                    share_of(entry.random_best_worsened, n),
                    *_means(entry.random_best_mean_after, entry),
                    *(UNDEFINED,) * 3,
                )
            )
    for name, outcome in first.baselines.items():
        rows.append(
            (
                head(plain(name), "control" if name in CONTROLS else "baseline without latents"),
                share_of(outcome.recovered, n),
                share_of(outcome.worsened, n),
                *_means(outcome.mean_after, first),
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


def _note(entries: list[FailureRecord]) -> str:
    first = entries[0]
    note = (
        f"{count(first.n)} of {count(first.n_eligible)} lesion slices; the best of them has Dice "
        f"{number(first.dice_of_best_failure)}; mean foreground Dice untouched: {number(first.mean_before, 3)}. "
        f"Recovered means that {first.recovered_means}. Worsened: it falls by at least as much. "
    )
    for entry in entries:
        before, after = entry.dice_all_before, entry.dice_all_after
        if before is not None and after is not None:
            note += (
                f"On all evaluation slices the {plain(entry.policy)} edit takes pooled foreground Dice from "
                f"{number(before, 3)} to {number(after, 3)}. "
            )
    return note + (
        "The held-out edit was chosen on other patients, and so were the baselines' settings, by the same mean Dice of "
        "their worst slices; the oracle takes for each slice the strength that is best by that slice's own Dice, which "
        "nobody can do in practice."
    )


def _means(after: float | None, entry: FailureRecord) -> tuple[str, str]:
    return number(after, 3), UNDEFINED if after is None else signed(after - entry.mean_before, 3)


def _draws(draws: Sequence[int]) -> str:
    return f"draws: {', '.join(count(draw) for draw in draws)}" if len(draws) > 1 else ""


def _modes(entries: list[FailureRecord]) -> Block:
    rows = []
    for entry in entries:
        for mode, outcome in entry.modes.items():
            dice = f"{number(outcome.mean_before, 3)} → {number(outcome.mean_after, 3)}"
            recovered = share_of(outcome.recovered, outcome.n)
            rows.append((head(plain(entry.policy)), head(plain(mode)), count(outcome.n), recovered, dice))
    columns = ("Policy", "Errors", "Slices", "Recovered", "Mean Dice before → after")
    return table("Too much (FP), too little (FN), or both", columns, rows, f"{entries[0].mode_rule}.")


def _examples(run: Run, stage: str, cohort: str) -> list[Block]:
    if stage not in run or f"slices/{cohort}" not in run:
        return [Paragraph("No pictures of these slices are kept in this run.", "missing")]
    result = FailureResult.read(run.artifact(stage))
    examples = result.examples
    rows = examples["rows"].tolist()[:EXAMPLES] if "rows" in examples else []
    slices = SliceSet.read(run.artifact(f"slices/{cohort}")).split("test")
    if not rows or max(rows) >= len(slices):
        return [Paragraph("No pictures of these slices are kept in this run.", "missing")]
    channel = best_sequence(slices.sequences)
    colours = class_colours(slices.labels)
    (images, _, brains), numbers = planes_of(slices, rows)
    facts = {entry["row"]: entry for entry in result.slices.filter(pl.col("row").is_in(rows)).to_dicts()}
    pictures = []
    for place, row in enumerate(rows):
        fact = facts.get(row, {})
        where = place_of(slices.index.row(row, named=True), int(numbers[place]), slices)
        for key, words in PANELS:
            if key not in examples:
                continue
            value = fact.get(f"dice_{key}")
            label = words if value is None else f"{words}: Dice {number(value)}"
            mask = examples[key][place, int(numbers[place])].numpy()
            uri = mask_picture(images[place, channel], brains[place], mask, colours, SIDE)
            label = f"{label} ({where})" if key == "before" else label
            pictures.append(Picture(uri, f"{where}: {words}", SIDE, SIDE, label))
    panels = sum(key in examples for key, _ in PANELS)
    caption = (
        f"{slices.sequences[channel]} slices, evenly spaced from the largest gain of the held-out edit (top) to its "
        f"smallest "
        "or its largest loss (bottom), so not a selection of successes. Dice: foreground, of this slice."
    )
    return [Pictures("Before and after", tuple(pictures), caption, class_keys(slices.labels), per_row=panels)]
