from tests.records import alignment, dictionary, summary

from seglens.diffing.records import BoundRecord
from seglens.reports.sections.sharing import sharing_section
from seglens.runs import Run
from seglens.summaries import summary_of


def test_every_shared_share_stands_between_its_bounds(full_run: Run) -> None:
    section = sharing_section(summary_of(full_run))
    tables = [block for block in section.blocks if block.kind == "table"]
    matrix, numbers = tables
    filled = [cell for row in matrix.rows for cell in row[1:] if "shared" in cell.sub]
    assert len(filled) == 12
    assert all("[62% – 93%]" in cell.sub and "specific" in cell.sub for cell in filled)
    places = [numbers.columns.index(name) for name in ("Floor", "Raw share", "Ceiling", "Calibrated")]
    assert [numbers.rows[0][place].text for place in places] == ["62.0%", "84.0%", "93.0%", "0.71"]
    assert numbers.rows[0][0].sub == "tau 0.8, common start, same SAE seed"
    assert any(row[0].text == "healthy → adult-unet" and row[places[1]].text == "–" for row in numbers.rows)


def test_methods_are_given_with_and_without_the_filter(full_run: Run) -> None:
    fold = next(block for block in sharing_section(summary_of(full_run)).blocks if block.kind == "fold")
    table = fold.blocks[0]
    figures = ("agreement", "collision", "pairs", "predictability", "stability")
    kept = ("no filter", "the shared set only")
    assert table.columns == ("Method", *(f"{figure}, {words}" for words in kept for figure in figures))
    assert [cell.text for cell in table.rows[0][1:4]] == ["0.710", "0.100", "64"]
    assert [row[0].text for row in table.rows] == ["hungarian dual", "greedy", "sinkhorn", "encoder only"]


def test_every_method_stands_between_its_bounds() -> None:
    bounds = (BoundRecord("greedy", 0.6, 0.5, 0.7, 0.5), BoundRecord("functional", 0.4, 0.4, 0.4, None))
    section = sharing_section(summary(alignments=[alignment(0.6, bounds=bounds)]))
    table = next(block for block in section.blocks if block.kind == "fold").blocks[0]
    assert table.columns == ("Method", "Floor", "Raw share", "Ceiling", "Calibrated")
    assert [[cell.text for cell in row[:5]] for row in table.rows] == [
        ["greedy", "50.0%", "60.0%", "70.0%", "0.50"],
        ["functional", "40.0%", "40.0%", "40.0%", "–"],
    ]


def test_pairs_of_each_hookpoint_have_a_matrix_of_their_own() -> None:
    pairs = [("a", "b"), ("a@s2", "b@s2"), ("a@s2", "c"), ("b@s2", "c")]
    entries = [alignment(0.6, source=source, target=target) for source, target in pairs]
    places = {"a": "s3", "b": "s3", "a@s2": "s2", "b@s2": "s2", "c": "s2"}
    dictionaries = [dictionary(name, hookpoint=hookpoint) for name, hookpoint in places.items()]
    section = sharing_section(summary(alignments=entries, dictionaries=dictionaries))
    matrices = [one for one in section.blocks if one.kind == "table" and one.caption.startswith("Calibrated share")]
    assert [one.caption.rpartition("], ")[2] for one in matrices] == ["at s3", "at s2"]
    assert [one.columns for one in matrices] == [("", "a", "b"), ("", "a@s2", "b@s2", "c")]
    linked = [*entries, alignment(0.6, source="b", target="a@s2")]
    blocks = sharing_section(summary(alignments=linked, dictionaries=dictionaries)).blocks
    (one,) = [one for one in blocks if one.kind == "table" and one.caption.startswith("Calibrated share")]
    assert one.caption.endswith("[floor–ceiling]") and len(one.columns) == 6
