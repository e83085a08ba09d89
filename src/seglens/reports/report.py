"""report.html: one file that can be sent, with everything a run found and every control beside it."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from seglens.artifacts import write_text_whole
from seglens.reports.blocks import Section
from seglens.reports.figures import main_figure
from seglens.reports.sections.closing import glossary_section, repeat_section
from seglens.reports.sections.cohorts import cohorts_section
from seglens.reports.sections.dictionaries import dictionaries_section
from seglens.reports.sections.failures import failures_section
from seglens.reports.sections.gallery import gallery_section
from seglens.reports.sections.hookpoints import hookpoints_section
from seglens.reports.sections.overview import findings_section, run_section, study_name
from seglens.reports.sections.segmentation import segmentation_section
from seglens.reports.sections.sharing import sharing_section
from seglens.reports.sections.steering import steering_section
from seglens.runs import Run

FILE = "report.html"
FIGURE = "shared.svg"
SUBTITLE = (
    "What the segmentation models of this study look at inside, what they share, and what happens when it is changed."
)


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
    summary = run.summary
    if not summary:
        raise ValueError(
            f"{run.path}: no summary.json there; finish the study first, or give the folder of a finished run"
        )
    target = path if path is not None else run.path / FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(target.with_name(FIGURE), main_figure(summary))
    write_text_whole(target, render(study_name(summary), sections_of(run, summary)))
    return target


def sections_of(run: Run, summary: dict[str, Any]) -> list[Section]:
    """Every chapter, in the order of reading."""
    return [
        findings_section(summary),
        run_section(summary, run.timings),
        cohorts_section(run, summary),
        segmentation_section(summary),
        hookpoints_section(summary),
        dictionaries_section(summary),
        gallery_section(run, summary),
        sharing_section(summary),
        steering_section(run, summary),
        failures_section(run, summary),
        glossary_section(),
        repeat_section(summary, run.hashes),
    ]


def render(title: str, sections: list[Section], *, subtitle: str = SUBTITLE) -> str:
    """The page as HTML text.

    Args:
        title: of the study.
        sections: in order.
        subtitle: under the title.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("seglens.reports", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup(loader.get_source(environment, "report.css")[0])
    return environment.get_template("report.html.j2").render(
        title=title, subtitle=subtitle, sections=sections, style=style
    )
