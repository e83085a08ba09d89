"""Section of hookpoints: the worth of each place to the masks, measured before anything was fitted there."""

from seglens.cohorts.label_names import FOREGROUND
from seglens.reports.blocks import Block, Cell, Chart, Fold, Paragraph, Section, head, table
from seglens.reports.charts import NARROW, Bar, bar_chart
from seglens.reports.palette import BLUE, MUTED
from seglens.reports.wording import listed, number, plain, signed
from seglens.summaries import SegmenterRecord, Summary


def hookpoints_section(summary: Summary) -> Section:
    """One chart for each segmenter, one table for all."""
    intro = (
        "A hookpoint is a place in the network where its activation can be read and changed. Here each one is replaced "
        "by its mean: if Dice hardly falls, hardly anything passes through it, and changing latents there can do "
        "little."
    )
    measured = [one for one in summary.segmenters if one.effects]
    if not measured:
        return Section(
            "hookpoints", "Where the network is opened", intro, (Paragraph("No hookpoint was measured.", "missing"),)
        )
    how = (
        "Bars: how far foreground pooled Dice falls, on the val slices of the model's own cohort. Blue and bold: "
        "where it is opened."
    )
    blocks: list[Block] = [Paragraph(how, "note"), *(_chart(one) for one in measured)]
    blocks.append(Fold("Every class at every hookpoint", tuple(_table(one) for one in measured)))
    return Section("hookpoints", "Where the network is opened", intro, tuple(blocks))


def _chart(one: SegmenterRecord) -> Chart:
    bars = []
    for effect in one.effects:
        before, after = effect.dice_before, effect.dice_ablated
        if effect.class_name != FOREGROUND:
            continue
        chosen = effect.hookpoint in one.hookpoints
        drop = None if before is None or after is None else before - after
        bars.append(
            Bar(
                plain(effect.hookpoint),
                drop,
                f"{signed(None if drop is None else -drop)}  ({number(before)} → {number(after)})",
                BLUE if chosen else MUTED,
                chosen,
            )
        )
    title = f"{plain(one.name)}: fall of foreground Dice when a hookpoint is replaced by its mean"
    opened = listed(plain(name) for name in one.hookpoints) or "none of them"
    caption = f"{plain(one.name)}: opened at {opened}."
    if one.hookpoints and one.hookpoint_reason is not None:
        caption += (
            f" Chosen for all models of its architecture, by the weakest effect among them: {one.hookpoint_reason}"
        )
    return Chart(title, bar_chart(title, bars), bar_chart(title, bars, width=NARROW), caption)


def _table(one: SegmenterRecord) -> Block:
    classes = list(dict.fromkeys(effect.class_name for effect in one.effects))
    places = list(dict.fromkeys(effect.hookpoint for effect in one.effects))
    by_place = {(effect.hookpoint, effect.class_name): effect for effect in one.effects}
    rows = []
    for place in places:
        effects = [by_place[place, name] for name in classes]
        cells = [Cell(f"{number(effect.dice_before)} → {number(effect.dice_ablated)}") for effect in effects]
        rows.append((head(plain(place), "chosen" if place in one.hookpoints else ""), *cells))
    return table(
        f"{plain(one.name)}: pooled Dice untouched → with the hookpoint at its mean",
        ("Hookpoint", *(plain(name) for name in classes)),
        rows,
    )
