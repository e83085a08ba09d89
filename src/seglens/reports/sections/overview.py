"""What was run, and what it showed."""

from collections.abc import Mapping
from typing import Any

from seglens.reports.blocks import Block, Bullets, Chart, Fold, Paragraph, Section, head, table
from seglens.reports.charts import NARROW, Bar, bar_chart
from seglens.reports.findings import plain_findings
from seglens.reports.wording import count, defined, dig, duration, listed, plain, plural


def findings_section(summary: Mapping[str, Any]) -> Section:
    """The findings, in plain language; written from the numbers at hand where the summary has none."""
    findings = summary.get("findings") or plain_findings(summary)
    blocks: tuple[Block, ...]
    if findings:
        blocks = (
            Bullets(tuple(str(finding) for finding in findings)),
            Paragraph(
                "These sentences are written by rules from the numbers below; nothing in them was expected beforehand. "
                "Dice is pooled over all evaluated slices unless another convention is named. There are no confidence "
                "intervals: over a handful of patients, a difference of a few hundredths may be chance.",
                "note",
            ),
        )
    else:
        blocks = (Paragraph("No stage with results has been run, so there is nothing to say yet.", "missing"),)
    return Section("findings", "What was found", "", blocks)


def run_section(summary: Mapping[str, Any], timings: Mapping[str, float]) -> Section:
    """Study, data, models, time and memory."""
    cohorts, segmenters = summary.get("cohorts") or [], summary.get("segmenters") or []
    rows = [
        ("Study", study_name(summary)),
        ("Seed", str(summary.get("seed", "–"))),
        ("Cohorts", listed(plain(one["name"]) for one in cohorts) or "none"),
        ("Segmenters", "; ".join(_described(one) for one in segmenters) or "none"),
        ("Dictionaries", _dictionaries(summary)),
        ("Time", duration(summary.get("seconds"))),
        ("Peak memory", _memory(summary.get("peak_rss_mib"))),
    ]
    blocks: list[Block] = [table("The run", ("", ""), [(head(name), head(value)) for name, value in rows])]
    seconds = dict(timings or summary.get("timings") or {})
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
        groups[kind] = groups.get(kind, 0.0) + (defined(value) or 0.0)
    bars = [Bar(plain(kind), value, duration(value)) for kind, value in sorted(groups.items(), key=lambda i: -i[1])]
    title = "Time of each kind of stage"
    caption = "Wall time when the stage was computed; stages taken over from an earlier run are counted with that time."
    return Chart(title, bar_chart(title, bars), bar_chart(title, bars, width=NARROW), caption)


def study_name(summary: Mapping[str, Any]) -> str:
    """The study's name, whether the summary holds the name or the whole settings."""
    study = summary.get("study")
    name = dig(study, "name") if isinstance(study, Mapping) else study
    return str(name) if name else "unnamed study"


def _described(one: Mapping[str, Any]) -> str:
    text = f"{plain(one['name'])} ({one.get('architecture', '–')}, trained on {plain(one.get('trained_on', '–'))}"
    start = one.get("init_from")
    return text + (f", started from {plain(start)})" if start else ", started from random weights)")


def _dictionaries(summary: Mapping[str, Any]) -> str:
    entries = summary.get("dictionaries") or []
    kinds = sorted({(one.get("n_latents"), one.get("k")) for one in entries}, key=str)
    sizes = listed(f"{count(n)} latents with {count(k)} active a token on average" for n, k in kinds)
    return f"{plural(len(entries), 'dictionary', 'dictionaries')}: {sizes}" if entries else "none"


def _memory(mib: Any) -> str:
    value = defined(mib)
    return "–" if value is None else f"{value / 1024:.1f} GiB"
