"""Top of the page: the answer in a paragraph, and every claim with its verdict."""

from collections.abc import Sequence

from seglens.reports.blocks import Block, Claims, Paragraph, Section
from seglens.reports.headline import claims_of, short_answer
from seglens.segmenters.class_falls import ClassCell
from seglens.summaries import Summary

NOTE = (
    "Written by rules from the figures below. “Holds”: the interval over patients excludes chance; “does not hold”: it "
    "does not, so this may be chance or nothing."
)


def short_section(summary: Summary, cells: Sequence[ClassCell]) -> Section:
    """The paragraph and the verdicts.

    Args:
        summary: of a run.
        cells: its classes on its cohorts.
    """
    sentences, claims = short_answer(summary, cells), claims_of(summary, cells)
    if not sentences and not claims:
        text = "No stage with results has been run, so there is nothing to say yet."
        return Section("findings", "In short", "", (Paragraph(text, "missing"),))
    blocks: list[Block] = [Paragraph(" ".join(sentences), "answer")] if sentences else []
    if claims:
        blocks += [Claims(tuple(claims)), Paragraph(NOTE, "note")]
    return Section("findings", "In short", "", tuple(blocks))
