"""Findings in a cohort's files, for people and for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from seglens.artifacts import write_text_whole
from seglens.cohorts.blanking import BlankedLabel, blanked_json, blanked_text, read_blanked
from seglens.runtime.streams import printable

Severity = Literal["note", "quarantine", "refuse"]
"""The case is kept; it is left out and the rest goes on; nothing goes on before somebody has decided."""
OUTCOMES: Mapping[Severity, str] = {"note": "kept", "quarantine": "left out", "refuse": "refused: a decision is needed"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one case.

    Attributes:
        case: the case's id.
        file: the file, or None where it is missing.
        code: kind of fault, stable, for programs.
        what: what was found.
        fix: what to do.
        severity: what becomes of the case.
        duplicate: the other case, where the finding is about two.
    """

    case: str
    file: Path | None
    code: str
    what: str
    fix: str
    severity: Severity = "quarantine"
    duplicate: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """All findings of a cohort.

    Attributes:
        cohort: its name.
        cases: ids of every case looked at.
        findings: in order of the cases.
        sha256: of each file that could be read.
        foreground: the rule, ``auto`` settled; None where no case could be looked at.
        blanked: the label pixels that this rule blanks; None of a cohort without masks.
    """

    cohort: str
    cases: tuple[str, ...]
    findings: tuple[Finding, ...]
    sha256: Mapping[Path, str]
    foreground: str | None = None
    blanked: tuple[BlankedLabel, ...] | None = ()

    @property
    def quarantined(self) -> frozenset[str]:
        """Ids of the cases that must be left out."""
        return frozenset(finding.case for finding in self.findings if finding.severity == "quarantine")

    @property
    def refused(self) -> tuple[Finding, ...]:
        """Findings that must be decided before anything is done."""
        return tuple(finding for finding in self.findings if finding.severity == "refuse")

    def settle(self, *, strict: bool) -> None:
        """Go on only where nothing has to be decided first.

        Args:
            strict: also stop where a case would be left out.

        Raises:
            ValueError: what has to be decided; or which cases would be left out, and why.
        """
        if self.refused:
            raise ValueError(f"{self.cohort}: " + _listed(self.refused))
        found = [finding for finding in self.findings if finding.severity == "quarantine"]
        if strict and found:
            n = len(self.quarantined)
            raise ValueError(f"{self.cohort}: strict, and {n} of {len(self.cases)} cases are bad: {_listed(found)}")

    def to_json(self) -> dict[str, Any]:
        """For a JSON document; files by name only, so that it is the same on every machine."""
        return {
            "cohort": self.cohort,
            "n_cases": len(self.cases),
            "quarantined": sorted(self.quarantined),
            "refused": bool(self.refused),
            "foreground": self.foreground,
            "blanked": None if self.blanked is None else blanked_json(self.blanked),
            "findings": [
                {**asdict(finding), "file": finding.file.name if finding.file else None} for finding in self.findings
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "CheckReport":
        """Read what `to_json` wrote; the cases that nothing was found in are nameless, and there are no hashes."""
        findings = tuple(
            Finding(**{**finding, "file": Path(finding["file"]) if finding["file"] else None})
            for finding in document["findings"]
        )
        cases = ("",) * document["n_cases"]
        blanked = None if document["blanked"] is None else read_blanked(document["blanked"])
        return cls(document["cohort"], cases, findings, {}, document["foreground"], blanked)

    def text(self) -> str:
        """For people: a line a finding and its fix below it; control characters in names are spelt out."""
        n = len(self.quarantined)
        state = f"{n} quarantined" if self.findings else "nothing wrong"
        lines = [f"{printable(self.cohort)}: {len(self.cases)} cases, {state}"]
        if self.foreground is not None and self.blanked is not None:
            lines.append(f"  foreground {self.foreground}: {blanked_text(self.blanked)}")
        for one in self.findings:
            outcome = "" if one.severity == "quarantine" else f", {OUTCOMES[one.severity]}"
            place = one.case + (f" ({one.file})" if one.file else "")
            lines += [printable(f"  {place}: {one.what} [{one.code}{outcome}]"), printable(f"    {one.fix}")]
        return "\n".join(lines)


def write_quarantine(folder: Path, reports: Sequence[CheckReport]) -> None:
    """Write what was found in some cohorts: ``quarantine.json`` for programs, ``quarantine.txt`` for people."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"cohorts": [report.to_json() for report in reports]}
    write_text_whole(folder / "quarantine.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    write_text_whole(folder / "quarantine.txt", "\n".join(report.text() for report in reports) + "\n")


def _listed(findings: Sequence[Finding], most: int = 10) -> str:
    """In one message, the first ones in full."""
    lines = [
        printable(f"{one.case}{f' ({one.file.name})' if one.file else ''}: {one.what}; {one.fix}")
        for one in findings[:most]
    ]
    return "; ".join([*lines, *([f"and {len(findings) - most} more"] if len(findings) > most else [])])
