"""The section of an analysis that brings none of its own: every table and figure that its stages left."""

from seglens.artifacts import finite
from seglens.reports.blocks import Block, Cell, Heading, Paragraph, Section, head, table
from seglens.reports.tables import table_block
from seglens.reports.wording import number, plain
from seglens.runs import Run


def generic_section(run: Run, name: str, about: str) -> Section | None:
    """Show an analysis as it is.

    Args:
        run: with its finished stages.
        name: of the analysis.
        about: what it does.

    Returns:
        For each of its units a table of the numbers and words in ``<name>.json`` and one for each parquet file; None
        where no unit is finished.
    """
    blocks: list[Block] = []
    for stage in run.stages(f"{name}/"):
        artifact = run.artifact(stage)
        found: list[Block] = []
        if artifact.has(f"{name}.json"):
            figures = [
                (head(plain(key)), Cell(_written(value)))
                for key, value in artifact.document(name).items()
                if isinstance(value, str | int | float)
            ]
            found += [table("", ("", "value"), figures)] if figures else []
        tables = sorted(file.removesuffix(".parquet") for file in artifact.sha256 if file.endswith(".parquet"))
        found += [table_block(one, artifact.table(one)) for one in tables]
        blocks += [Heading(plain(stage.removeprefix(f"{name}/"))), *(found or [Paragraph("No table is kept.", "note")])]
    title = plain(name)
    return Section(name, title[:1].upper() + title[1:], about, tuple(blocks)) if blocks else None


def _written(value: str | int | float | bool) -> str:
    """A number with three digits; what is none, or has no end, as it stands."""
    if isinstance(value, str | bool) or finite(value) is None:
        return str(value)
    return number(value, 3)
