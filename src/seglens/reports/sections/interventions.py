"""Corrections that were tried against a failure: the gain of each with its interval, sorted."""

from collections.abc import Iterable

import polars as pl

from seglens.lens_names import segmenter_of
from seglens.reports.blocks import Block, Chart, Heading, Key, Paragraph, Section
from seglens.reports.charts import NARROW, WIDE, Dot, dot_chart
from seglens.reports.headline import chosen_steering, helped_sentence
from seglens.reports.palette import BLUE, MUTED, ORANGE
from seglens.reports.verdicts import CONTROLS, named, unchanged
from seglens.reports.wording import bracketed, number, plain, plural, signed
from seglens.runs import Run
from seglens.segmenters.intervals import patient_bootstrap
from seglens.segmenters.scoring import Scores
from seglens.steering.records import GainRecord, SteeringRecord
from seglens.steering.sweep import UNEDITED
from seglens.summaries import Summary

TITLE = "What helped?"
INTRO = (
    "Gain in Dice over the untouched model, for latents that were changed and for what can be had without them. "
    "Everything was chosen on some patients of the cohort and judged on others."
)
KEYS = (
    Key("latents changed", BLUE, "dot"),
    Key("correction at the output, no latents", ORANGE, "dot"),
    Key("control of the latents", MUTED, "dot"),
)
USELESS = ("drop_class", "predict_nothing", "mean_ablation")
"""Bounds that stretch the axis and help nobody; the folded tables hold them."""


def interventions_section(run: Run, summary: Summary) -> Section:
    """One plot for each class that was steered.

    Args:
        run: with the scores of every correction.
        summary: of the run.
    """
    entries = chosen_steering(summary)
    if not entries:
        return Section("helped", TITLE, INTRO, (Paragraph("No correction was tried.", "missing"),))
    blocks: list[Block] = []
    for entry in entries:
        blocks += _plot(run, entry)
    return Section("helped", TITLE, INTRO, tuple(blocks))


def _plot(run: Run, entry: SteeringRecord) -> Iterable[Block]:
    name = plain(entry.class_name)
    title = f"{name} of {plain(segmenter_of(entry.source))} on {plain(entry.target)}"
    dots = sorted(_dots(run, entry), key=lambda one: -one.value)
    if not dots:
        return
    untouched = number(entry.before.dice(entry.class_name).value)
    label = f"gain in pooled Dice (untouched: {untouched})"
    wide, narrow = (dot_chart(f"Gain in Dice, {title}", dots, x_label=label, width=w) for w in (WIDE, NARROW))
    caption = (
        f"{plural(entry.evaluation.patients, 'patient')}, {plural(entry.evaluation.slices, 'slice')}; lines: 95% "
        "intervals over patients; a ring has none. What crosses 0 may be chance."
    )
    yield Heading(title[:1].upper() + title[1:])
    yield Paragraph(helped_sentence(entry), "key")
    yield Chart(f"Gain in Dice, {title}", wide, narrow, caption, KEYS)


def _dots(run: Run, entry: SteeringRecord) -> Iterable[Dot]:
    gain = entry.gains[UNEDITED]
    if gain.value is not None:
        label = "latents (nothing was chosen)" if unchanged(entry) else f"latents ({len(entry.latents)} changed)"
        yield _dot(label, gain.value, gain.low, gain.high, BLUE, strong=True)
    stage = f"steering/{entry.source}-{entry.target}-{entry.class_name}"
    table = run.artifact(stage).table("scores") if stage in run else pl.DataFrame({"edit": []}, {"edit": pl.String})
    scored = set(table["edit"].unique())
    before = entry.before.dice(entry.class_name).value
    for key, after in entry.baselines.items():
        value = after.dice(entry.class_name).value
        if key in USELESS or value is None or before is None:
            continue
        gain = GainRecord(value - before, None, None)
        if {key, UNEDITED} <= scored:
            gain = GainRecord.of(patient_bootstrap(Scores(table), key, UNEDITED, entry.class_name))
        yield _dot(named(key), value - before, gain.low, gain.high, MUTED if key in CONTROLS else ORANGE)


def _dot(label: str, value: float, low: float | None, high: float | None, colour: str, *, strong: bool = False) -> Dot:
    return Dot(label, value, low, high, f"{signed(value)} {bracketed(low, high, signed)}".strip(), colour, strong)
