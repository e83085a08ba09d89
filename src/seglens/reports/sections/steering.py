"""What changing latents did to a class: curves over alpha, and before and after beside every baseline and control."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from seglens.reports.blocks import Block, Cell, Chart, Fold, Heading, Key, Paragraph, Section, head, table
from seglens.reports.charts import NARROW, Level, Series, line_chart
from seglens.reports.palette import BLUE, DASHES, INK, MUTED, SERIES
from seglens.reports.verdicts import CONTROLS, RANDOM, baselines_of, named, steering_finding, unchanged
from seglens.reports.wording import (
    CONVENTIONS,
    UNDEFINED,
    count,
    defined,
    dig,
    listed,
    number,
    pair_of,
    plain,
    plural,
    score,
    signed,
)
from seglens.runs import Run

INTRO = (
    "A model is run on a cohort that it was not trained on, and latents of one class are changed. Latents and strength "
    "are chosen on some patients of that cohort and judged on others. Whatever can be had without latents stands "
    "beside it."
)
AXES = {
    "multiply": "alpha: factor on the codes (1 = untouched)",
    "add": "alpha: added to the codes (0 = untouched)",
}
ORDER = ("held_out", "label_free", "oracle")
LEVELS = (*SERIES[1:], "#8c6d31")


def steering_section(run: Run, summary: Mapping[str, Any]) -> Section:
    """One part for each model, cohort and class."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for entry in summary.get("steering") or []:
        groups.setdefault((str(entry["source"]), str(entry["target"]), str(entry["class"])), []).append(entry)
    if not groups:
        text = "No class was steered."
        return Section("steering", "Changing latents across populations", INTRO, (Paragraph(text, "missing"),))
    blocks: list[Block] = []
    for (source, target, name), entries in groups.items():
        blocks += _group(run, f"steering/{source}-{target}-{name}", name, _sorted(entries))
    return Section("steering", "Changing latents across populations", INTRO, tuple(blocks))


def _sorted(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    def place(entry: Mapping[str, Any]) -> tuple[int, bool]:
        policy = entry.get("policy")
        return ORDER.index(policy) if policy in ORDER else len(ORDER), not entry.get("chosen", True)

    return sorted(entries, key=place)


def _group(run: Run, stage: str, name: str, entries: list[Mapping[str, Any]]) -> list[Block]:
    first = entries[0]
    blocks: list[Block] = [Heading(f"{pair_of(first)}: {plain(name)}")]
    if (
        score(first.get("before"), "dice_pooled", name) is not None
        and score(first.get("after"), "dice_pooled", name) is not None
    ):
        blocks.append(Paragraph(steering_finding(first), "key"))
    extent = _extent(first)
    if extent:
        blocks.append(Paragraph(extent, "note"))
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


def _extent(entry: Mapping[str, Any]) -> str:
    parts = []
    for key, verb in (("selection", "Chosen on"), ("evaluation", "judged on")):
        patients, slices = dig(entry, key, "patients"), dig(entry, key, "slices")
        if defined(patients) is not None:
            parts.append(f"{verb} {plural(slices, 'slice')} of {plural(patients, 'patient')}")
    return f"{', '.join(parts)} ({plain(entry.get('target'))}); no patient is in both." if parts else ""


def _curves(curves: pl.DataFrame, name: str, entries: list[Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    more: list[Block] = []
    for operation in curves["operation"].unique(maintain_order=True).to_list():
        own = curves.filter((pl.col("operation") == operation) & (pl.col("class") == name))
        entry = next(
            (e for e in entries if e.get("operation") == operation and e.get("policy") != "oracle"), entries[0]
        )
        blocks.append(_curve(own, str(operation), name, entry))
        more.append(_conventions(own, str(operation), name))
    return [*blocks, Fold("The same curves in all four conventions", tuple(more))]


def _series(own: pl.DataFrame, latents: str, figure: str, key: Key) -> Series | None:
    rows = own.filter(pl.col("latents") == latents).sort("alpha")
    if rows.is_empty():
        return None
    ys = tuple(defined(value) for value in rows[figure].to_list())
    return Series(key.label, tuple(rows["alpha"].to_list()), ys, key.colour, key.dash)


def _curve(own: pl.DataFrame, operation: str, name: str, entry: Mapping[str, Any]) -> Chart:
    n = len(entry.get("latents") or [])
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
    before = score(entry.get("before"), "dice_pooled", name)
    levels = [] if before is None else [Level("untouched", before, INK, "")]
    values = {key: score(after, "dice_pooled", name) for key, after in (entry.get("baselines") or {}).items()}
    known = sorted(((value, key) for key, value in values.items() if value is not None), reverse=True)
    places = {key: place for place, key in enumerate(values)}  # a baseline keeps its look from chart to chart
    for value, key in known:
        label = f"{named(key)}, at the tuned alpha" if key in RANDOM else named(key)
        place = places[key]
        levels.append(Level(label, value, LEVELS[place % len(LEVELS)], DASHES[1 + place % (len(DASHES) - 1)]))
    alpha = defined(entry.get("alpha"))
    marks = (
        [(alpha, "chosen")] if alpha is not None and n and not nothing and entry.get("operation") == operation else []
    )
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


def _outcomes(entries: list[Mapping[str, Any]], name: str) -> Block:
    before = entries[0].get("before")
    rows: list[tuple[Cell | str, ...]] = [(head("untouched"), head(UNDEFINED), *_figures(before, None, name))]
    for entry in entries:
        chosen = "" if entry.get("chosen", True) else "not the policy's choice"
        rows.append(
            (head(plain(entry.get("policy")), chosen), head(*_edit(entry)), *_figures(entry.get("after"), before, name))
        )
    best, _ = baselines_of(entries[0], name)
    for key, after in (entries[0].get("baselines") or {}).items():
        remark = "control" if key in CONTROLS else "baseline without latents"
        if best is not None and key == best[0]:
            remark = "best baseline without latents"
        setting = _setting(entries[0], key) or UNDEFINED
        rows.append((head(named(key), remark), head(setting), *_figures(after, before, name)))
    note = (
        "Small: difference to the untouched model. Oracle: best alpha a slice by that slice's own Dice; not a method. "
        "“Multiply” is the paper's MLS, “add” its ALS. Random latents: the mean over the draws; each draw is "
        "searched on the same selection slices as freely as the edit, and the best draw is the one that did best there."
    )
    edges = [plain(key) for key in entries[0].get("settings") or {} if dig(entries[0], "settings", key, "at_bound")]
    if edges:
        verb = "still wants" if len(edges) == 1 else "still want"
        note += f" {_sentence(listed(edges))} {verb} the end of the grid, so more could be had without latents."
    return table(f"{plain(name)[:1].upper()}{plain(name)[1:]} before and after", OUTCOME_COLUMNS, rows, note)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _edit(entry: Mapping[str, Any]) -> tuple[str, str]:
    latents = entry.get("latents")
    n = len(latents) if isinstance(latents, list | tuple) else latents
    if n == 0 or (unchanged(entry) and entry.get("policy") != "oracle"):
        return "none", "nothing beat the untouched network on the selection patients"
    alpha = "best alpha a slice" if defined(entry.get("alpha")) is None else f"alpha {number(entry.get('alpha'))}"
    chosen_by = entry.get("chosen_by")
    sub = {"association": "latents by class association", "causal": "latents by causal effect"}.get(str(chosen_by), "")
    return f"{plain(entry.get('operation'))}, {plural(n, 'latent')}, {alpha}", sub


def _figures(after: Any, before: Any, name: str) -> list[Cell]:
    cells = []
    for key in (*CONVENTIONS, "precision", "recall"):
        value, start = score(after, key, name), score(before, key, name)
        change = "" if value is None or start is None else signed(value - start, 3)
        cells.append(Cell(number(value, 3), change))
    return cells


def _baselines(entries: list[Mapping[str, Any]], name: str) -> tuple[Block, ...]:
    blocks: list[Block] = []
    seen: list[Any] = [entries[0].get("baselines")]
    for entry in entries[1:]:
        baselines = entry.get("baselines") or {}
        if not baselines or baselines in seen:
            continue
        seen.append(baselines)
        rows = [(head("untouched"), *_figures(entry.get("before"), None, name))]
        rows.append(
            (
                head(f"{plain(entry.get('policy'))}: {_edit(entry)[0]}"),
                *_figures(entry.get("after"), entry.get("before"), name),
            )
        )
        rows += [
            (
                head(named(key), "control" if key in CONTROLS else _setting(entry, key)),
                *_figures(after, entry.get("before"), name),
            )
            for key, after in baselines.items()
        ]
        caption = f"{plain(name)}: {plain(entry.get('policy'))}, {plain(entry.get('operation'))}"
        blocks.append(table(caption, ("", *OUTCOME_COLUMNS[2:]), rows))
    foreground = [
        (
            head(f"{plain(entry.get('policy'))}: {_edit(entry)[0]}"),
            *_figures(entry.get("after"), entry.get("before"), "foreground"),
        )
        for entry in entries
    ]
    start = (head("untouched"), *_figures(entries[0].get("before"), None, "foreground"))
    blocks.append(
        table(
            "What the same edits did to the foreground mean of all classes",
            ("", *OUTCOME_COLUMNS[2:]),
            [start, *foreground],
            f"Background included, the pooled mean is "
            f"{number(dig(entries[0], 'before', 'mean_dice_with_background'), 3)} untouched and "
            f"{number(dig(entries[0], 'after', 'mean_dice_with_background'), 3)} after the first edit. "
            f"n: {count(dig(entries[0], 'before', 'n', 'dice_pooled', name))} slices, of which "
            f"{count(dig(entries[0], 'before', 'n', 'dice_slice_present', name))} have the class.",
        )
    )  # fmt: skip
    return tuple(blocks)


def _setting(entry: Mapping[str, Any], key: str) -> str:
    setting = dig(entry, "settings", key)
    if not isinstance(setting, Mapping):
        return ""
    return "; ".join(f"{plain(name)} {_value(value)}" for name, value in setting.items() if name != "at_bound")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(one) for one in value)
    if value is None or defined(value) is not None:
        return number(value)
    return str(value)
