from seglens.reports.sections.sharing import flattened, sharing_section
from seglens.runs import Run


def test_nested_figures_become_one_level() -> None:
    nested = {"filtered": {"agreement": 1.0}, "agreement": 0.7, "deep": {"er": {"x": 2}}}
    assert flattened(nested) == {"agreement, filtered": 1.0, "agreement": 0.7, "x, deep, er": 2}
    assert flattened(None) == {}


def test_every_shared_share_stands_between_its_bounds(full_run: Run) -> None:
    section = sharing_section(full_run.summary)
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
    fold = next(block for block in sharing_section(full_run.summary).blocks if block.kind == "fold")
    table = fold.blocks[0]
    assert table.columns == (
        "Method",
        "agreement, filtered",
        "collision, filtered",
        "agreement, unfiltered",
        "collision, unfiltered",
    )
    assert [row[0].text for row in table.rows] == ["hungarian dual", "greedy", "sinkhorn", "encoder only"]
