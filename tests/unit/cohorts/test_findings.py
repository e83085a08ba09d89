import json
from pathlib import Path

import pytest

from seglens.cohorts.findings import CheckReport, Finding, write_quarantine

NOTE = Finding("a", Path("/data/a.nii"), "resampled", "was resampled", "nothing", "note")
BAD = Finding("b", Path("/data/b\n.nii"), "truncated", "holds 3 bytes", "download it again")
OPEN = Finding("c", None, "four_dimensions", "has four dimensions", "sequence or time?", "refuse")


def report(*findings: Finding) -> CheckReport:
    return CheckReport("adults", ("a", "b", "c"), findings, {})


def test_what_becomes_of_each_finding() -> None:
    found = report(NOTE, BAD, OPEN)
    assert found.quarantined == {"b"}
    assert found.refused == (OPEN,)
    report(NOTE, BAD).settle(strict=False)
    report(NOTE).settle(strict=True)
    with pytest.raises(ValueError, match=r"adults: c: has four dimensions; sequence or time\?"):
        found.settle(strict=False)
    with pytest.raises(ValueError, match=r"strict, and 1 of 3 cases are bad: b .*holds 3 bytes; download it again"):
        report(BAD).settle(strict=True)


def test_long_lists_are_cut() -> None:
    many = [Finding(f"case{number}", None, "x", "is bad", "mend it") for number in range(30)]
    with pytest.raises(ValueError, match="and 20 more"):
        report(*many).settle(strict=True)


def test_json_and_text(tmp_path: Path) -> None:
    write_quarantine(tmp_path, [report(NOTE, BAD), report()])
    first, second = json.loads((tmp_path / "quarantine.json").read_text())["cohorts"]
    assert (first["quarantined"], second["findings"]) == (["b"], [])
    assert first["findings"][1] == {
        "case": "b", "file": "b\n.nii", "code": "truncated", "what": "holds 3 bytes", "fix": "download it again",
        "severity": "quarantine", "duplicate": None,
    }  # fmt: skip
    again = CheckReport.from_json(first)
    assert [finding.code for finding in again.findings] == ["resampled", "truncated"]
    assert (again.quarantined, len(again.cases)) == (frozenset({"b"}), 3)
    text = (tmp_path / "quarantine.txt").read_text()
    assert "a (/data/a.nii): was resampled [resampled, kept]" in text
    assert "b (/data/b\\n.nii): holds 3 bytes [truncated]\n    download it again" in text
    assert "adults: 3 cases, nothing wrong" in text
