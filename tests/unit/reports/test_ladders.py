from seglens.dictionaries.controls import LENS, RUNGS, Ladder, LeftOut
from seglens.reports.ladders import ladder_rows, ladder_table


def test_claims_are_printed_in_one_order_with_reasons() -> None:
    rungs = {rung: [0.1 * number] for number, rung in enumerate(RUNGS)}
    one = Ladder("a / b, shared", 0.6, dict(reversed(rungs.items())) | {"untrained network": [0.2, 0.3, None, 0.4]})
    other = Ladder("names", None, rungs | {"pixels": LeftOut("pixels have no names")})
    rows = ladder_rows([one, other])
    assert rows["features"].to_list() == [LENS, *RUNGS] * 2
    printed = ladder_table(rows)
    assert list(printed.columns) == ["claim", LENS, *RUNGS]
    first, second = ([cell.text for cell in row] for row in printed.rows)
    assert first[:3] == ["a / b, shared", "0.60", "0.30"] and printed.rows[0][2].sub == "0.20 to 0.40"
    assert second[1] == "–" and second[5] == "left out" and "pixels: pixels have no names." in printed.note
