"""Section of changed latents: curves over alpha, and before and after beside every baseline and control."""

from collections.abc import Sequence
from typing import get_args

import polars as pl

from seglens.artifacts import finite
from seglens.reports.blocks import Block, Cell, Chart, Fold, Heading, Key, Paragraph, Section, head, table
from seglens.reports.charts import NARROW, Level, Series, line_chart
from seglens.reports.palette import BLUE, DASHES, INK, MUTED, SERIES
from seglens.reports.verdicts import (
    CONTROLS,
    RANDOM,
    baselines_of,
    evaluated,
    named,
    steering_finding,
    unchanged,
    upper_bound_of,
)
from seglens.reports.wording import (
    CONVENTIONS,
    UNDEFINED,
    count,
    listed,
    number,
    pair_of,
    plain,
    plural,
    signed,
)
from seglens.runs import Run
from seglens.segmenters.score_summary import ScoreSummary
from seglens.steering.records import Policy, SteeringRecord
from seglens.summaries import Summary

INTRO = (
    "A model is run on a cohort that it was not trained on, and latents of one class are changed. Latents and strength "
    "are chosen on some patients of that cohort and judged on others. Whatever can be had without latents stands "
    "beside it."
)
AXES = {
    "multiply": "alpha: factor on the codes (1 = untouched)",
    "add": "alpha: added to the codes (0 = untouched)",
}
LEVELS = (*SERIES[1:], "#8c6d31")


def steering_section(run: Run, summary: Summary) -> Section:
    """One part for each model, cohort and class."""
    groups: dict[tuple[str, str, str], list[SteeringRecord]] = {}
    for entry in summary.steering:
        groups.setdefault((entry.source, entry.target, entry.class_name), []).append(entry)
    if not groups:
        text = "No class was steered."
        return Section("steering", "Changing latents across populations", INTRO, (Paragraph(text, "missing"),))
    blocks: list[Block] = []
    for (source, target, name), entries in groups.items():
        blocks += _group(run, f"steering/{source}-{target}-{name}", name, _sorted(entries))
    return Section("steering", "Changing latents across populations", INTRO, tuple(blocks))


def _sorted(entries: Sequence[SteeringRecord]) -> list[SteeringRecord]:
    def place(entry: SteeringRecord) -> tuple[int, bool]:
        return get_args(Policy).index(entry.policy), not entry.chosen

    return sorted(entries, key=place)


def _group(run: Run, stage: str, name: str, entries: list[SteeringRecord]) -> list[Block]:
    first = entries[0]
    blocks: list[Block] = [Heading(f"{pair_of(first)}: {plain(name)}")]
    if evaluated(first):
        blocks.append(Paragraph(steering_finding(first), "key"))
    blocks.append(Paragraph(_extent(first), "note"))
    curves = run.artifact(stage).table("curves") if stage in run else None
    if curves is None or curves.is_empty():
        blocks.append(Paragraph("No curve over alpha is kept for this pair.", "missing"))
    else:
        blocks += _curves(curves, name, entries)
    blocks.append(_outcomes(entries, name))
    blocks.append(
        Fold("The baselines of each other edit, and what the edits did to all classes", _baselines(entries, name))
    )
    return blocks


def _extent(entry: SteeringRecord) -> str:
    parts = [
        f"{verb} {plural(extent.slices, 'slice')} of {plural(extent.patients, 'patient')}"
        for extent, verb in ((entry.selection, "Chosen on"), (entry.evaluation, "judged on"))
    ]
    return f"{', '.join(parts)} ({plain(entry.target)}); no patient is in both."


def _curves(curves: pl.DataFrame, name: str, entries: list[SteeringRecord]) -> list[Block]:
    blocks: list[Block] = []
    more: list[Block] = []
    for operation in curves["operation"].unique(maintain_order=True).to_list():
        own = curves.filter((pl.col("operation") == operation) & (pl.col("class") == name))
        entry = next((e for e in entries if e.operation == operation and e.policy != "oracle"), entries[0])
        blocks.append(_curve(own, str(operation), name, entry))
        more.append(_conventions(own, str(operation), name))
    return [*blocks, Fold("The same curves in all four conventions", tuple(more))]


def _series(own: pl.DataFrame, latents: str, figure: str, key: Key) -> Series | None:
    rows = own.filter(pl.col("latents") == latents).sort("alpha")
    if rows.is_empty():
        return None
    ys = tuple(finite(value) for value in rows[figure].to_list())
    return Series(key.label, tuple(rows["alpha"].to_list()), ys, key.colour, key.dash)


def _curve(own: pl.DataFrame, operation: str, name: str, entry: SteeringRecord) -> Chart:
    n = len(entry.latents)
    nothing = unchanged(entry)
    curve = f"latents that came closest ({n}), not chosen" if nothing else f"chosen latents ({n})"
    candidates = [
        _series(own, "chosen", "dice_pooled", Key(curve, BLUE)),
        _series(
            own,
            "random",
            "dice_pooled",
            Key("random latents, same number and firing rates, mean of draws", MUTED, dash="4 3"),
        ),
    ]
    series = [one for one in candidates if one is not None]
    before = entry.before.dice(name).value
    levels = [] if before is None else [Level("untouched", before, INK, "")]
    values = {key: after.dice(name).value for key, after in entry.baselines.items()}
    known = sorted(((value, key) for key, value in values.items() if value is not None), reverse=True)
    places = {key: place for place, key in enumerate(values)}  # a baseline keeps its look from chart to chart
    for value, key in known:
        label = f"{named(key)}, at the tuned alpha" if key in RANDOM else named(key)
        place = places[key]
        levels.append(Level(label, value, LEVELS[place % len(LEVELS)], DASHES[1 + place % (len(DASHES) - 1)]))
    alpha = entry.alpha
    marks = [(alpha, "chosen")] if alpha is not None and n and not nothing and entry.operation == operation else []
    title = f"Pooled Dice of {plain(name)} over alpha, {operation}, {pair_of(entry)}"
    drawn = {
        width: line_chart(
            title, series, levels, x_label=AXES.get(operation, "alpha"), y_label=f"pooled Dice, {plain(name)}",
            width=width, height=height, marks=marks,
        )
        for width, height in ((760, 330), (NARROW, 300))
    }  # fmt: skip
    keys = [Key(one.name, one.colour, "line", one.dash) for one in series]
    keys += [Key(level.name, level.colour, "line", level.dash, number(level.y, 3)) for level in levels]
    chosen = f" The dotted upright line marks the strength that was chosen ({number(alpha)})." if marks else ""
    if nothing:
        chosen = " Nothing beat the untouched model on the selection patients, so no strength was chosen."
    caption = (
        f"{operation[:1].upper()}{operation[1:]}. Points: the class's pooled Dice on the evaluation slices at each "
        f"strength; a description, nothing was chosen from it.{chosen} Level lines: the untouched model and each "
        "baseline or control, tuned on the same selection patients, best first."
    )
    return Chart(title, drawn[760], drawn[NARROW], caption, tuple(keys))


def _conventions(own: pl.DataFrame, operation: str, name: str) -> Chart:
    series = []
    for place, (figure, label) in enumerate(CONVENTIONS.items()):
        key = Key(label, SERIES[place], dash=DASHES[place])
        one = _series(own, "chosen", figure, key) if figure in own.columns else None
        series += [one] if one is not None else []
    title = f"Dice of {plain(name)} over alpha in four conventions, {operation}"
    wide, narrow = (
        line_chart(
            title, series, [], x_label=AXES.get(operation, "alpha"), y_label=f"Dice, {plain(name)}",
            width=width, height=280,
        )
        for width in (760, NARROW)
    )  # fmt: skip
    keys = tuple(Key(one.name, one.colour, "line", one.dash) for one in series)
    return Chart(title, wide, narrow, f"{operation[:1].upper()}{operation[1:]}, the chosen latents.", keys)


OUTCOME_COLUMNS = (
    "Policy or baseline",
    "Edit or setting",
    *(f"Dice {name}" for name in CONVENTIONS.values()),
    "Precision",
    "Recall",
)


def _outcomes(entries: list[SteeringRecord], name: str) -> Block:
    before = entries[0].before
    rows: list[tuple[Cell | str, ...]] = [(head("untouched"), head(UNDEFINED), *_figures(before, None, name))]
    for entry in entries:
        chosen = "" if entry.chosen else "not the policy's choice"
        rows.append((head(plain(entry.policy), chosen), head(*_edit(entry)), *_figures(entry.after, before, name)))
    best, _ = baselines_of(entries[0], name)
    bound = upper_bound_of(entries[0], name)
    for key, after in entries[0].baselines.items():
        remark = "control" if key in CONTROLS else "baseline without latents"
        if best is not None and key == best[0]:
            remark = "best baseline without latents on the selection patients"
        elif bound is not None and key == bound[0]:
            remark = "upper bound: the best baseline on the patients judged on"
        setting = _setting(entries[0], key) or UNDEFINED
        rows.append((head(named(key), remark), head(setting), *_figures(after, before, name)))
    note = (
        "Small: difference to the untouched model. Oracle: best alpha a slice by that slice's own Dice; not a method. "
        "“Multiply” is the paper's MLS, “add” its ALS. Random latents: the mean over the draws; each draw is "
        "searched on the same selection slices as freely as the edit, and the best draw is the one that did best there."
    )
    edges = [plain(key) for key, setting in entries[0].settings.items() if setting.get("at_bound")]
    if edges:
        verb = "still wants" if len(edges) == 1 else "still want"
        note += f" {_sentence(listed(edges))} {verb} the end of the grid, so more could be had without latents."
    return table(f"{plain(name)[:1].upper()}{plain(name)[1:]} before and after", OUTCOME_COLUMNS, rows, note)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _edit(entry: SteeringRecord) -> tuple[str, str]:
    n = len(entry.latents)
    if n == 0 or (unchanged(entry) and entry.policy != "oracle"):
        return "none", "nothing beat the untouched network on the selection patients"
    alpha = "best alpha a slice" if entry.alpha is None else f"alpha {number(entry.alpha)}"
    ways = {"association": "latents by class association", "causal": "latents by causal effect"}
    sub = ways.get(entry.chosen_by, "")
    return f"{plain(entry.operation)}, {plural(n, 'latent')}, {alpha}", sub


def _figures(after: ScoreSummary, before: ScoreSummary | None, name: str) -> list[Cell]:
    cells = []
    for key in (*CONVENTIONS, "precision", "recall"):
        value, start = after.score(key, name).value, before.score(key, name).value if before else None
        change = "" if value is None or start is None else signed(value - start, 3)
        cells.append(Cell(number(value, 3), change))
    return cells


def _baselines(entries: list[SteeringRecord], name: str) -> tuple[Block, ...]:
    blocks: list[Block] = []
    seen = [entries[0].baselines]
    for entry in entries[1:]:
        if not entry.baselines or entry.baselines in seen:
            continue
        seen.append(entry.baselines)
        rows = [(head("untouched"), *_figures(entry.before, None, name))]
        rows.append((head(f"{plain(entry.policy)}: {_edit(entry)[0]}"), *_figures(entry.after, entry.before, name)))
        rows += [
            (
                head(named(key), "control" if key in CONTROLS else _setting(entry, key)),
                *_figures(after, entry.before, name),
            )
            for key, after in entry.baselines.items()
        ]
        caption = f"{plain(name)}: {plain(entry.policy)}, {plain(entry.operation)}"
        blocks.append(table(caption, ("", *OUTCOME_COLUMNS[2:]), rows))
    foreground = [
        (head(f"{plain(entry.policy)}: {_edit(entry)[0]}"), *_figures(entry.after, entry.before, "foreground"))
        for entry in entries
    ]
    before = entries[0].before
    start = (head("untouched"), *_figures(before, None, "foreground"))
    blocks.append(
        table(
            "What the same edits did to the foreground mean of all classes",
            ("", *OUTCOME_COLUMNS[2:]),
            [start, *foreground],
            f"Background included, the pooled mean is "
            f"{number(before.mean_dice_with_background, 3)} untouched and "
            f"{number(entries[0].after.mean_dice_with_background, 3)} after the first edit. "
            f"n: {count(before.dice(name).n)} slices, of which "
            f"{count(before.dice(name, 'slice_present').n)} have the class.",
        )
    )  # fmt: skip
    return tuple(blocks)


def _setting(entry: SteeringRecord, key: str) -> str:
    setting = entry.settings.get(key, {})
    return "; ".join(f"{plain(name)} {_value(value)}" for name, value in setting.items() if name != "at_bound")


def _value(value: bool | int | float | str | list[float] | None) -> str:
    if isinstance(value, list):
        return ", ".join(number(one) for one in value)
    return str(value) if isinstance(value, bool | str) else number(value)
