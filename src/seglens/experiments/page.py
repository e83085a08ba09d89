"""reproduction.html: every experiment that a run holds, on one page that can be sent."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from seglens.artifacts import finite, write_text_whole
from seglens.experiments import EXPERIMENTS
from seglens.experiments.experiment import Experiment, ExperimentResult
from seglens.experiments.reproduction import FILE as DOCUMENT
from seglens.experiments.reproduction import finished, outcome_of
from seglens.reports.blocks import Block, Bullets, Fold, Paragraph, Section, head, table
from seglens.reports.experiment_figures import figure_blocks
from seglens.reports.ladders import CONTROLS, ladder_table
from seglens.reports.report import render
from seglens.reports.sections.latent_steps import latent_blocks
from seglens.reports.tables import table_block
from seglens.reports.wording import UNDEFINED, duration, number, plain, plural
from seglens.runs import Run

FILE = "reproduction.html"
SUBTITLE = "The paper's tables and figures on this study's cohorts, each between its floor and its ceiling."


def write_reproduction(run: Run, *, experiments: Mapping[str, Experiment] = EXPERIMENTS) -> Path:
    """Write the page of a run's finished experiments; nothing is computed.

    Args:
        run: after `reproduce`.
        experiments: in the order of the page.

    Returns:
        Where it was written.
    """
    names = finished(run, experiments)
    sections = [_overview(run, [experiments[name] for name in names])]
    cohorts = json.loads((run.path / DOCUMENT).read_text(encoding="utf-8"))["trained on"]
    sections += [_section(run, experiments[name], cohorts) for name in names]
    target = run.path / FILE
    write_text_whole(target, render("Reproduction", sections, subtitle=SUBTITLE))
    return target


def _overview(run: Run, experiments: Sequence[Experiment]) -> Section:
    intro = (
        "Figures of the paper stand beside ours where a comparison makes sense. Ours come from the cohorts of this run "
        "and its training budget; they say nothing about other data."
    )
    if not experiments:
        return Section("findings", "Overview", intro, (Paragraph("No experiment was run.", "missing"),))
    beside, alone, absent = [], [], []
    for experiment in experiments:
        outcome = outcome_of(run, experiment.name)
        if outcome.finding is None:
            absent.append(f"{experiment.title}: {outcome.not_applicable}")
            continue
        for name, value in outcome.finding.headline.items():
            label = head(plain(name), experiment.title)
            if name in experiment.published:
                published = experiment.published[name]
                beside.append((label, _figure(value), _figure(published.value), head(published.where)))
            else:
                alone.append((label, _figure(value)))
    blocks: list[Block] = []
    if beside:
        columns = ("figure", "ours", "paper", "where in the paper, and by which convention")
        blocks.append(table("Beside the paper's own figures", columns, beside))
    if alone:
        blocks.append(Fold("Headline figures without a counterpart", (table("", ("figure", "ours"), alone),)))
    if absent:
        blocks += [Paragraph("This study's data cannot carry:", "key"), Bullets(tuple(absent))]
    seconds = sum(run.timings.get(f"experiment/{experiment.name}", 0.0) for experiment in experiments)
    blocks.append(Paragraph(f"{plural(len(experiments), 'experiment')}, computed in {duration(seconds)}.", "note"))
    return Section("findings", "Overview", intro, tuple(blocks))


def _section(run: Run, experiment: Experiment, cohorts: Mapping[str, str]) -> Section:
    outcome = outcome_of(run, experiment.name)
    intro = f"Paper: {experiment.paper}." if experiment.paper != "beyond the paper" else "Beyond the paper."
    if outcome.finding is None:
        text = f"This study cannot carry it: {outcome.not_applicable}."
        return Section(experiment.name, experiment.title, intro, (Paragraph(text, "missing"),))
    found = outcome.finding
    blocks: list[Block] = [Paragraph(text) for text in found.paragraphs]
    for figure in experiment.figures:
        if figure.table in found.tables:
            blocks += figure_blocks(figure, found.tables[figure.table])
    if experiment.name == "interpretation":
        blocks += latent_blocks(run, cohorts)
    for name, rows in found.tables.items():
        blocks.append(
            ladder_table(rows) if name == CONTROLS else table_block(name, rows, folded=name in experiment.folded)
        )
    blocks += _left_out(found)
    seconds = run.timings.get(f"experiment/{experiment.name}")
    blocks.append(Paragraph(f"seglens reproduce {experiment.name}: {duration(seconds)} when it was computed.", "note"))
    return Section(experiment.name, experiment.title, intro, tuple(blocks))


def _left_out(found: ExperimentResult) -> list[Block]:
    return [Paragraph("Left out:", "key"), Bullets(tuple(found.left_out))] if found.left_out else []


def _figure(value: float | None) -> str:
    value = finite(value)
    if value is None:
        return UNDEFINED
    return number(value, 0) if value == round(value) and abs(value) >= 2 else number(value, 3)
