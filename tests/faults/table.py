"""The rows of bad inputs and faults, the tests that hold them, and the page that says so.

python -m tests.faults.table      runs the tests of the rows and writes docs/robustness.md

How a row is held: by a function ``test_row_07_negative_dimensions`` in tests/faults/test_*.py. Its number is the row's;
the first line of its docstring says in one sentence what must happen, and becomes the page's text. Several tests a row
are welcome. Each builds its own bad input; none needs sample scans. A test without a row number is not on the page.
"""

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "robustness.md"
ELSEWHERE = {52: "the explorer's"}
"""Rows that other tests hold."""

ROWS: Mapping[int, str] = {
    1: "truncated .nii or .nii.gz",
    2: "flipped bit in a .nii.gz",
    3: "flipped bit in a plain .nii seen before",
    4: "0 bytes; HTML saved as .nii.gz",
    5: "gzip bomb",
    6: "header says 30000^3",
    7: "negative dimensions, unknown datatype or offset",
    8: "no slices",
    9: "NaN or infinite scale",
    10: "NaN or singular affine",
    11: "NaN or infinite voxels",
    12: "constant image",
    13: "image and mask of different shape",
    14: "same shape, other affine",
    15: "LAS beside RAS",
    16: "unknown label values",
    17: "masks as floats",
    18: "enhancing coded 4 in one cohort, 3 in another",
    19: "empty mask",
    20: "sequence missing or named in other capitals",
    21: "4-D where 3-D is due",
    22: "complex or RGB voxels",
    23: "link out of the data folder",
    24: "same case id twice, or differing by capitals",
    25: "one patient in train and test",
    26: "same voxels under two ids",
    27: "spaces, newlines, `<script>` in ids",
    28: "model's channels or classes are not the data's",
    29: "unknown hookpoint",
    30: "hooked module returns a tuple, or channels last",
    31: "non-finite activations",
    32: "k > m, k = 0",
    33: "needs more memory or disk than there is",
    34: "dead latents, a batch of zeros",
    35: "SAE loss NaN",
    36: "alpha NaN or infinite",
    37: "latent out of range, SAE of another layer or model",
    38: "dictionaries of unequal width, zero rows",
    39: "`kill -9` at any write",
    40: "disk full, read-only folder",
    41: "two processes, one folder",
    42: "resume with other settings or data",
    43: "SIGTERM with loader workers",
    44: "a rank dies or hangs",
    45: "out of memory",
    46: ".pt that runs code",
    47: ".pkl that runs code",
    48: "safetensors with an absurd header, overlap, shape",
    49: ".npy with a huge shape or objects",
    50: "zip slip, zip bomb",
    51: "settings: unknown key, wrong type, double key, alias bomb",
    52: "explorer: foreign requests, paths and scripts",
    53: "language model down, slow, malformed, prompt injection in ids",
    54: "model hub offline",
    55: "dark organ, such as a lung, in an image that is no brain",
    56: "slice in two pieces, the lesion in the smaller one",
    57: "crop that is filled to its edge, by the label too",
    58: "JPEG that is cut short, of inks, turned by EXIF",
    59: "mask with shades, from resizing or JPEG",
    60: "colour pictures as one sequence, grey ones as three",
    61: "layout of an installed package that cannot be used",
    62: "two classes of one name, or one called foreground",
    63: "key given twice, case in two splits, contradicting lists",
    64: "one patient by two spellings",
    65: "two paths that join to one case, or one slice",
    66: "settings and options that are no numbers",
    67: "labels outside 0..255",
    68: "names too long for a folder",
    69: "table of absurd size",
    70: "regular expression that does not end",
    71: "PNG or TIFF of 16-bit colours, signed, white is zero, few bits, large numbers",
    72: "PNG or TIFF with a false checksum, missing rows, stray bytes, absurd sizes",
    73: "finding whose text differs between runs",
    74: "lengths in metres or micron",
    75: "label that resampling thins out",
    76: "numbers that float32 does not hold",
    77: "file that holds more voxels than its header says",
    78: "orientation or voxel size said twice, or not at all",
    79: "output whose reader has gone, or whose disk is full",
    80: "encoding that lacks a character; names that are not UTF-8",
    81: "artifact whose bytes, manifest, format or kind are others",
    82: "record that was torn or edited: run.json, documents, tables",
    83: "link in a run where `--repair` would move things",
    84: "run that goes on with other jobs, threads or versions",
    85: ".pt that costs more memory, depth or time than it holds",
    86: "keys, numbers or shapes of weights that say two things, or nothing",
    87: "broken metadata in a SAELens folder",
    88: "pax header of a .tar that is absurd",
    89: "name or Host with characters that deceive",
    90: "nnU-Net folder whose plans name code, lead round, are absurd or of another version",
    91: "nnU-Net checkpoint that runs code, does not fit or says two things",
    92: "MONAI bundle that names code, leads round, or is absurd",
    93: "MONAI bundle whose weights run code or do not fit",
    94: "audit of cohorts that cannot be compared, or of one that is no other",
    95: "folder of transformers that names code, is absurd or holds other weights",
    96: "folder of a network of one's own that names code, an unknown row or other weights",
}

HEAD = """\
# Bad inputs and faults

Three promises: no input file runs code; no input file silently changes a number; every stage survives `kill -9` with
the same result. Each row below is held by tests, which build the bad input themselves.

Written by `python -m tests.faults.table`, which runs these tests; do not edit by hand. What exit codes mean and what
stops, checkpoints and repairs do: [exit-codes.md](exit-codes.md).

| row | input or fault | what happens | test | result |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class RowTest:
    """A test of a row.

    Attributes:
        row: its number.
        place: ``file::function``, from tests/faults.
        expectation: the first line of its docstring.
    """

    row: int
    place: str
    expectation: str


def row_tests(folder: Path = FOLDER) -> list[RowTest]:
    """The tests of all rows, read from the source files, by row and place.

    Raises:
        ValueError: a test without a docstring.
    """
    found, mute = [], []
    for file in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            named = isinstance(node, ast.FunctionDef) and re.match(r"test_row_(\d\d)_", node.name)
            if isinstance(node, ast.FunctionDef) and named:
                place = f"{file.name}::{node.name}"
                said = (ast.get_docstring(node) or "").partition("\n")[0].strip()
                if said:
                    found.append(RowTest(int(named.group(1)), place, said))
                else:
                    mute.append(place)
    if mute:
        raise ValueError(f"{', '.join(mute)}: say in the docstring's first line what must happen")
    return sorted(found, key=lambda test: (test.row, test.place))


def page(tests: Sequence[RowTest], results: Mapping[str, str]) -> str:
    """The page's text.

    Args:
        tests: of all rows.
        results: place to ``"pass"``, ``"fail"`` or ``"skipped"``.
    """
    lines = []
    for row, what in ROWS.items():
        own = [test for test in tests if test.row == row]
        for number, test in enumerate(own):
            first = (str(row), what) if number == 0 else ("", "")
            lines.append((*first, test.expectation, f"`{test.place}`", results.get(test.place, "not run")))
        if not own:
            lines.append((str(row), what, "", ELSEWHERE.get(row, "none"), ""))
    return HEAD + "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


class _Results:
    """A pytest plugin that keeps what became of each test; of a parametrised one the worst."""

    def __init__(self) -> None:
        self.by_place: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        place = report.nodeid.rpartition("/")[2].partition("[")[0]
        result = {"passed": "pass", "failed": "fail"}.get(report.outcome, report.outcome)
        worst = ("pass", "skipped", "fail")
        self.by_place[place] = max(result, self.by_place.get(place, "pass"), key=worst.index)


def main() -> int:
    """Run the rows' tests, write the page; exit 1 where one fails."""
    results = _Results()
    code = pytest.main(["-q", "-k", "test_row_", str(FOLDER)], plugins=[results])
    PAGE.write_text(page(row_tests(), results.by_place))
    print(PAGE)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
