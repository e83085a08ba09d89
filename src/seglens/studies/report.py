"""report.html of a study: a section for each analysis of the table, between what was found and how to do it again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from seglens.artifacts import write_text_whole
from seglens.reports.blocks import Section
from seglens.reports.figures import main_figure
from seglens.reports.headline import cells_of
from seglens.reports.report import render
from seglens.reports.sections.class_matrix import matrix_section
from seglens.reports.sections.closing import about_blocks, glossary_section, repeat_section
from seglens.reports.sections.generic import generic_section
from seglens.reports.sections.interventions import interventions_section
from seglens.reports.sections.overview import run_section, sentences_section
from seglens.reports.sections.short_answer import short_section
from seglens.reports.sections.worst_cases import worst_section
from seglens.runs import Run
from seglens.runtime.provenance import record_sentence
from seglens.studies.analysis import Analysis
from seglens.studies.table import analysis_table
from seglens.summaries import Summary, summary_of

FILE = "report.html"
FIGURE = "shared.svg"


def write_report(run: Run, path: Path | None = None) -> Path:
    """Write the report of a run, and its main figure as shared.svg beside it.

    Nothing is computed: numbers come from summary.json, pictures from the finished artifacts. Stages that were not run
    leave a sentence that says so. The page needs no network, runs no script, and escapes every name.

    Args:
        run: with its summary written.
        path: the file; None puts report.html into the run's folder.

    Returns:
        Where it was written.

    Raises:
        ValueError: the run has no summary yet.
    """
    summary = summary_of(run)
    if summary is None:
        raise ValueError(
            f"{run.path}: no summary.json there; finish the study first, or give the folder of a finished run"
        )
    target = path if path is not None else run.path / FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(target.with_name(FIGURE), main_figure(summary))
    write_text_whole(target, page_of(run, summary))
    return target


def page_of(run: Run, summary: Summary) -> str:
    """Report of a run as HTML text."""
    sections = sections_of(run, summary, analysis_table())
    return render(summary.study, sections, about=about_blocks(run, summary))


def sections_of(run: Run, summary: Summary, analyses: Mapping[str, Analysis]) -> list[Section]:
    """Every chapter, in the order of reading: what was found, a figure a question, and all else folded."""
    cells = cells_of(run, summary)
    details = [
        generic_section(run, row.name, row.about) if row.section is None else row.section(run, summary)
        for row in analyses.values()
    ]
    folded = [
        sentences_section(summary),
        run_section(summary, run.timings),
        *(section for section in details if section is not None),
        glossary_section(),
        repeat_section(summary.settings, run.hashes, record_sentence(run.records) if run.hashes else ""),
    ]
    return [
        short_section(summary, cells),
        matrix_section(summary, cells),
        worst_section(run, summary, cells),
        interventions_section(run, summary),
        *(replace(section, folded=True) for section in folded),
    ]
