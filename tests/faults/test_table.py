"""The page of faults: it lists the tests that there are, and every row has one."""

import re

from tests.faults.table import ELSEWHERE, PAGE, ROWS, RowTest, page, row_tests

CURE = "run python -m tests.faults.table and commit docs/robustness.md"


def test_every_row_is_held_by_a_test():
    assert set(ROWS) - set(ELSEWHERE) - {test.row for test in row_tests()} == set()


def test_the_committed_page_lists_the_tests_that_there_are():
    rows = [line for line in PAGE.read_text().splitlines() if "::test_row_" in line]
    listed = [re.sub(r" \| \w[\w ]* \|$", "", line) for line in rows]
    results = {test.place: "pass" for test in row_tests()}
    wanted = [line for line in page(row_tests(), results).splitlines() if "::test_row_" in line]
    assert listed == [line.removesuffix(" | pass |") for line in wanted], CURE
    assert not [line for line in rows if not line.endswith(("| pass |", "| skipped |"))], CURE


def test_a_page_of_two_rows(tmp_path):
    (tmp_path / "test_toy.py").write_text(
        'def test_row_02_bits():\n    """It is | caught.\n\n    More."""\n\n\ndef test_other(): ...\n'
    )
    (found,) = row_tests(tmp_path)
    assert found == RowTest(2, "test_toy.py::test_row_02_bits", "It is | caught.")
    lines = page([found], {found.place: "pass"}).splitlines()
    assert "| 2 | flipped bit in a .nii.gz | It is &#124; caught. | `test_toy.py::test_row_02_bits` | pass |" in lines
    assert "| 3 | flipped bit in a plain .nii seen before |  | none |  |" in lines
