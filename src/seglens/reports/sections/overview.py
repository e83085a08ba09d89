"""Section of the run itself, and what it showed."""

from collections.abc import Mapping

from seglens.reports.blocks import Block, Bullets, Chart, Fold, Paragraph, Section, head, table
from seglens.reports.charts import NARROW, Bar, bar_chart
from seglens.reports.findings import plain_findings
from seglens.reports.wording import count, duration, listed, plain, plural
from seglens.summaries import SegmenterRecord, Summary


def sentences_section(summary: Summary) -> Section:
    """Every finding as a sentence with its figures."""
    findings = plain_findings(summary)
    blocks: tuple[Block, ...]
    if findings:
        blocks = (
            Bullets(tuple(findings)),
            Paragraph(
                "These sentences are written by rules from the numbers below; nothing in them was expected beforehand. "
                "Dice is pooled over all evaluated slices unless another convention is named. Brackets are 95% "
                "intervals over patients, and an edit is said to raise Dice or to beat something only where they "
                "exclude 0; what stands without one may be chance over a handful of patients.",
                "note",
            ),
        )
    else:
        blocks = (Paragraph("No stage with results has been run, so there is nothing to say yet.", "missing"),)
    return Section("sentences", "Every finding in sentences", "", blocks)


def run_section(summary: Summary, timings: Mapping[str, float]) -> Section:
    """Study, data, models, time and memory."""
    rows = [
        ("Study", summary.study),
        ("Seed", str(summary.seed)),
        ("Cohorts", listed(plain(one.name) for one in summary.cohorts) or "none"),
        ("Segmenters", "; ".join(_described(one) for one in summary.segmenters) or "none"),
        ("Dictionaries", _dictionaries(summary)),
        ("Time", duration(summary.seconds)),
        ("Peak memory", f"{summary.peak_rss_mib / 1024:.1f} GiB"),
    ]
    blocks: list[Block] = [table("The run", ("", ""), [(head(name), head(value)) for name, value in rows])]
    seconds = dict(timings or summary.timings)
    if seconds:
        blocks.append(Fold("Time of each stage", (stage_times(seconds),)))
    intro = (
        "Each cohort has its own segmentation model. A sparse dictionary splits a model's inner activation into "
        "“latents”; the latents are named, compared between models, and changed to see what that does to the masks."
    )
    return Section("run", "What was run", intro, tuple(blocks))


def stage_times(seconds: Mapping[str, float]) -> Chart:
    """The time of each kind of stage."""
    groups: dict[str, float] = {}
    for stage, value in seconds.items():
        kind = stage.split("/")[0]
        groups[kind] = groups.get(kind, 0.0) + value
    bars = [Bar(plain(kind), value, duration(value)) for kind, value in sorted(groups.items(), key=lambda i: -i[1])]
    title = "Time of each kind of stage"
    caption = "Wall time when the stage was computed; stages taken over from an earlier run are counted with that time."
    return Chart(title, bar_chart(title, bars), bar_chart(title, bars, width=NARROW), caption)


def _described(one: SegmenterRecord) -> str:
    if one.opened_from is not None:
        origin = f"opened from {plain(one.opened_from)}, its own cohort is {plain(one.trained_on)}"
        if not one.unseen_is_known:
            origin += ", whose test patients it may have been trained on: the study cannot know"
        return f"{plain(one.name)} ({one.architecture}, {origin})"
    text = f"{plain(one.name)} ({one.architecture}, trained on {plain(one.trained_on)}"
    return text + (f", started from {plain(one.init_from)})" if one.init_from else ", started from random weights)")


def _dictionaries(summary: Summary) -> str:
    entries = summary.dictionaries
    kinds = sorted({(one.n_latents, one.k) for one in entries}, key=str)
    sizes = listed(f"{count(n)} latents with {count(k)} active a token on average" for n, k in kinds)
    return f"{plural(len(entries), 'dictionary', 'dictionaries')}: {sizes}" if entries else "none"
