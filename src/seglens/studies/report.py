"""report.html of a study: a section for each analysis of the table, between what was found and how to do it again."""

from collections.abc import Mapping
from pathlib import Path

from seglens.artifacts import write_text_whole
from seglens.reports.blocks import Section
from seglens.reports.figures import main_figure
from seglens.reports.report import render
from seglens.reports.sections.closing import glossary_section, repeat_section
from seglens.reports.sections.generic import generic_section
from seglens.reports.sections.overview import findings_section, run_section
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
    write_text_whole(target, render(summary.study, sections_of(run, summary, analysis_table())))
    return target


def sections_of(run: Run, summary: Summary, analyses: Mapping[str, Analysis]) -> list[Section]:
    """Every chapter, in the order of reading."""
    sections = [
        generic_section(run, row.name, row.about) if row.section is None else row.section(run, summary)
        for row in analyses.values()
    ]
    return [
        findings_section(summary),
        run_section(summary, run.timings),
        *(section for section in sections if section is not None),
        glossary_section(),
        repeat_section(summary.settings, run.hashes, record_sentence(run.records) if run.hashes else ""),
    ]
