"""What is wrong with a cohort's files: everything at once, each with its cure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.stacks import Stack, grid_problem, map_mask, read_stack
from seglens.cohorts.volumes import VolumeError
from seglens.progress import Progress, silent


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one case, which keeps the case out.

    Attributes:
        case: the case's id.
        file: the file, or None where it is missing.
        code: kind of fault, stable, for programs.
        what: what was found.
        cure: what to do.
    """

    case: str
    file: Path | None
    code: str
    what: str
    cure: str


@dataclass(frozen=True)
class CheckReport:
    """All findings of a cohort.

    Attributes:
        cohort: its name.
        cases: ids of every case looked at.
        findings: in order of the cases.
        sha256: of each file that could be read.
    """

    cohort: str
    cases: tuple[str, ...]
    findings: tuple[Finding, ...]
    sha256: Mapping[Path, str]

    @property
    def quarantined(self) -> frozenset[str]:
        """Ids of the cases that must be left out."""
        return frozenset(finding.case for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """For a JSON document; files by name only, so that it is the same on every machine."""
        return {
            "cohort": self.cohort,
            "n_cases": len(self.cases),
            "quarantined": sorted(self.quarantined),
            "findings": [
                {
                    "case": finding.case,
                    "file": finding.file.name if finding.file else None,
                    "code": finding.code,
                    "what": finding.what,
                    "cure": finding.cure,
                }
                for finding in self.findings
            ],
        }

    def text(self) -> str:
        """For people: a line a finding."""
        n = len(self.quarantined)
        head = f"{self.cohort}: {len(self.cases)} cases, " + (f"{n} quarantined" if n else "nothing wrong")
        lines = [
            f"  {finding.case}{f' ({finding.file})' if finding.file else ''}: {finding.what} [{finding.code}]\n"
            f"    {finding.cure}"
            for finding in self.findings
        ]
        return "\n".join([head, *lines])


def check_cohort(cohort: Cohort, *, progress: Progress = silent) -> CheckReport:
    """Read every file of every case once, to its end, and list what is wrong.

    Args:
        cohort: to be checked, in the sequences that it names.
        progress: told of each case.

    Returns:
        The findings; the cases they name are to be left out of `prepare_slices`.
    """
    findings: list[Finding] = []
    sha256: dict[Path, str] = {}
    for number, case in enumerate(cohort.cases):
        findings += _check_case(case, cohort, sha256)
        progress(number + 1, len(cohort.cases), findings=float(len(findings)))
    return CheckReport(cohort.name, tuple(case.id for case in cohort.cases), tuple(findings), sha256)


def _check_case(case: Case, cohort: Cohort, sha256: dict[Path, str]) -> list[Finding]:
    findings: list[Finding] = []

    def note(error: VolumeError) -> None:
        findings.append(Finding(case.id, error.path, error.code, error.what, error.cure))

    first: tuple[Path, Stack] | None = None
    for sequence in cohort.sequences:
        ref = case.images.get(sequence)
        if ref is None:
            what, cure = f"the sequence {sequence} is missing", "add its file, or read the cohort without that sequence"
            findings.append(Finding(case.id, None, "missing_sequence", what, cure))
            continue
        try:
            stack = read_stack(ref)
        except VolumeError as error:
            note(error)
            continue
        sha256[ref.path] = stack.sha256
        if first is None:
            first = (ref.path, stack)
        elif (problem := grid_problem(ref.path, stack, first[1], first[0])) is not None:
            note(problem)
    if case.mask is None:
        findings.append(Finding(case.id, None, "no_mask", "the mask is missing", "add its file or leave out the case"))
        return findings
    try:
        mask = read_stack(case.mask, constant=True)
    except VolumeError as error:
        note(error)
        return findings
    sha256[case.mask.path] = mask.sha256
    if first is not None and (problem := grid_problem(case.mask.path, mask, first[1], first[0])) is not None:
        note(problem)
    try:
        map_mask(case.mask.path, mask.values, case.mask_values, cohort.labels)
    except VolumeError as error:
        note(error)
    return findings
