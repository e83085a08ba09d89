"""What each place in a network is worth to its masks, measured before anything was fitted there."""

from collections.abc import Mapping, Sequence
from typing import Any

from seglens.reports.blocks import Block, Cell, Chart, Fold, Paragraph, Section, head, table
from seglens.reports.charts import NARROW, Bar, bar_chart
from seglens.reports.palette import BLUE, MUTED
from seglens.reports.wording import defined, number, plain, signed

Effects = Sequence[Mapping[str, Any]]


def hookpoints_section(summary: Mapping[str, Any]) -> Section:
    """One chart for each segmenter, one table for all."""
    intro = (
        "A hookpoint is a place in the network where its activation can be read and changed. Here each one is replaced "
        "by its mean: if Dice hardly falls, hardly anything passes through it, and changing latents there can do "
        "little."
    )
    measured = [one for one in summary.get("segmenters") or [] if one.get("effects")]
    if not measured:
        return Section(
            "hookpoints", "Where the network is opened", intro, (Paragraph("No hookpoint was measured.", "missing"),)
        )
    how = (
        "Bars: how far foreground pooled Dice falls, on the val slices of the model's own cohort. Blue and bold: the "
        "hookpoint that was chosen."
    )
    blocks: list[Block] = [Paragraph(how, "note"), *(_chart(one) for one in measured)]
    blocks.append(Fold("Every class at every hookpoint", tuple(_table(one) for one in measured)))
    return Section("hookpoints", "Where the network is opened", intro, tuple(blocks))


def _chart(one: Mapping[str, Any]) -> Chart:
    bars = []
    for effect in one["effects"]:
        before, after = defined(effect.get("dice_before")), defined(effect.get("dice_ablated"))
        if effect.get("class") != "foreground":
            continue
        chosen = effect["hookpoint"] == one.get("hookpoint")
        drop = None if before is None or after is None else before - after
        bars.append(
            Bar(
                plain(effect["hookpoint"]),
                drop,
                f"{signed(None if drop is None else -drop)}  ({number(before)} → {number(after)})",
                BLUE if chosen else MUTED,
                chosen,
            )
        )
    title = f"{plain(one['name'])}: fall of foreground Dice when a hookpoint is replaced by its mean"
    caption = f"{plain(one['name'])}: opened at {plain(one.get('hookpoint') or 'none of them')}."
    return Chart(title, bar_chart(title, bars), bar_chart(title, bars, width=NARROW), caption)


def _table(one: Mapping[str, Any]) -> Block:
    effects: Effects = one["effects"]
    classes = list(dict.fromkeys(str(effect["class"]) for effect in effects))
    places = list(dict.fromkeys(str(effect["hookpoint"]) for effect in effects))
    by_place = {(str(effect["hookpoint"]), str(effect["class"])): effect for effect in effects}
    rows = []
    for place in places:
        cells = []
        for name in classes:
            effect = by_place.get((place, name), {})
            cells.append(Cell(f"{number(effect.get('dice_before'))} → {number(effect.get('dice_ablated'))}"))
        rows.append((head(plain(place), "chosen" if place == one.get("hookpoint") else ""), *cells))
    return table(
        f"{plain(one['name'])}: pooled Dice untouched → with the hookpoint at its mean",
        ("Hookpoint", *(plain(name) for name in classes)),
        rows,
    )
