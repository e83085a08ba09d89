from tests.records import counted, summary

from seglens.reports.sections.short_answer import short_section
from seglens.segmenters.class_falls import class_cells


def test_paragraph_then_verdicts() -> None:
    tables = {("m", "a"): counted({"core": 0.8}), ("m", "b"): counted({"core": 0.0})}
    answer, claims, note = short_section(summary(), class_cells(tables, {"m": "a"})).blocks
    assert (answer.tone, note.tone) == ("answer", "note")
    assert answer.text.startswith("Model m loses core on b")
    assert [one.verdict for one in claims.items] == ["holds"]


def test_without_results_there_is_nothing_to_say() -> None:
    assert short_section(summary(), []).blocks[0].tone == "missing"
