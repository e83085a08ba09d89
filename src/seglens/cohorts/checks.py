"""Check a cohort's files: all that is wrong at once, each with its fix."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from seglens.cohorts.blanking import FIX, WARNED_SHARE, BlankedLabel, blanked_labels
from seglens.cohorts.case import Case, Cohort
from seglens.cohorts.case_reader import CaseContent, read_contents
from seglens.cohorts.findings import CheckReport, Finding, Severity
from seglens.cohorts.foreground import AUTO, RULES, check_rule, is_stripped_brain
from seglens.cohorts.label_names import alike
from seglens.cohorts.normalisation_groups import groups_of
from seglens.cohorts.volumes import VolumeError
from seglens.runtime.progress import Progress, silent

_WITHOUT_FILE = ("missing_sequence", "no_mask")
_TO_BE_DECIDED = ("four_dimensions", "enhancing_code")
"""What is refused: to leave the cases out would be a decision too, and nobody made it."""
NOTHING_KNOWN: Mapping[Path, str] = {}


def check_cohort(
    cohort: Cohort,
    *,
    known: Mapping[Path, str] = NOTHING_KNOWN,
    foreground: str = AUTO,
    progress: Progress = silent,
) -> CheckReport:
    """Read every file of every case once, to its end, and list what is wrong.

    Args:
        cohort: to be checked, in the sequences that it names. Where it is ``labelled`` the masks must be there too,
            and label pixels that the foreground rule blanks are counted; else a note says where the rule ``brain`` is
            used on what is no stripped brain.
        known: sha256 of files that were looked at before; one that has changed since is a finding.
        foreground: the rule, see `Preprocessing`.
        progress: told of each case.

    Returns:
        The findings; the cases they name are to be left out of `prepare_slices`.

    Raises:
        ValueError: no such foreground rule.
    """
    check_rule(foreground)
    findings = [*_labels_alike(cohort), *(_outside(link) for link in cohort.unfollowed)]
    sha256: dict[Path, str] = {}
    duplicates = _Duplicates()
    shown = _Foreground(foreground, cohort)
    n_read = 0
    for unit in groups_of(cohort.cases):
        sound = []
        for case in unit:
            content = read_contents(case, cohort.sequences, cohort.labels, with_mask=cohort.labelled)
            findings += dict.fromkeys(_findings(case, content))  # a file's fault is one, however many channels it has
            findings += [
                _changed(case, path) for path, digest in content.sha256.items() if known.get(path, digest) != digest
            ]
            findings += duplicates.found(case, content)
            sha256 |= content.sha256
            if not content.faults:
                sound.append((case, content))
            n_read += 1
            progress(n_read, len(cohort.cases), findings=float(len(findings)))
        if sound:
            shown.look(sound)
    findings += shown.findings()
    cases = tuple(case.id for case in cohort.cases)
    order = {name: number for number, name in enumerate(cases)}
    findings.sort(key=lambda finding: order.get(finding.case, -1))
    rule, blanked = (shown.rule if shown.looked else None), (tuple(shown.blanked) if cohort.labelled else None)
    report = CheckReport(cohort.name, cases, tuple(findings), sha256, rule, blanked)
    split = cohort.without(report.quarantined).split_of()
    return replace(report, findings=tuple(_with_split_severity(finding, split) for finding in findings))


def _findings(case: Case, content: CaseContent) -> Iterable[Finding]:
    for fault in content.faults:
        yield _finding(case, fault, "refuse" if fault.code in _TO_BE_DECIDED else "quarantine")
    for note in content.notes:
        yield _finding(case, note, "note")


def _finding(case: Case, fault: VolumeError, severity: Severity) -> Finding:
    file = None if fault.code in _WITHOUT_FILE else fault.path
    return Finding(case.id, file, fault.code, fault.what, fault.fix, severity)


def _changed(case: Case, path: Path) -> Finding:
    return Finding(
        case.id,
        path,
        "changed",
        "is not the file that was looked at before: its sha256 differs",
        "restore it; if the change is meant, forget what was known of it",
    )


def _labels_alike(cohort: Cohort) -> Iterable[Finding]:
    for names in alike(cohort.labels.values()):
        what = f"its classes {' and '.join(names)} differ only by capitals, Unicode form or blanks"
        yield Finding(cohort.name, None, "labels_alike", what, "give them other names by `labels`", "note")


def _outside(link: Path) -> Finding:
    return Finding(
        link.name,
        link,
        "outside_link",
        "is a link to a folder outside of the data set's, which was not looked into",
        "copy the folder there, or read the cohort with follow_links if it is to be trusted",
    )


class _Duplicates:
    """Finds images that are the same, voxel for voxel, in two cases."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, tuple[int, ...]], tuple[Case, str]] = {}

    def found(self, case: Case, content: CaseContent) -> Iterable[Finding]:
        """Find what this case has in common with those before it; the first of its sequences is named."""
        if content.faults:  # it is left out anyway
            return
        for sequence, stack in content.stacks.items():
            key = (hashlib.sha256(stack.values.data).hexdigest(), stack.values.shape)
            other, named = self._first.setdefault(key, (case, sequence))
            if other.id == case.id:
                continue
            yield Finding(
                case.id,
                case.images[sequence].path,
                "same_voxels",
                f"its {sequence} is, voxel for voxel, the {named} of the case {other.id}",
                "remove one of the two cases, or name their patient by `patient` so that they share a split",
                "note",
                other.id,
            )
            return


class _Foreground:
    """Settles the foreground rule, and counts the label pixels that it blanks."""

    def __init__(self, rule: str, cohort: Cohort):
        self.rule = "brain" if rule == AUTO else rule
        self.blanked: list[BlankedLabel] = []
        self.looked = False
        self._body: list[str] = []
        self._automatic = rule == AUTO
        self._cohort = cohort

    def look(self, unit: Sequence[tuple[Case, CaseContent]]) -> None:
        """Take the sound cases of one volume into account."""
        parts = [[content.stacks[name].values for name in self._cohort.sequences] for _, content in unit]
        masks = [content.mask for _, content in unit if content.mask is not None]
        if self.rule == "brain" and (self._automatic or not masks) and not is_stripped_brain(parts):
            if self._automatic:
                self.rule, self.blanked = "none", []
            else:
                self._body += [case.id for case, _ in unit]
        self.looked = True
        if masks:
            for (case, _), mask, inside in zip(unit, masks, RULES[self.rule](parts), strict=True):
                self.blanked += blanked_labels(case.id, mask, inside, self._cohort.labels)

    def findings(self) -> Iterable[Finding]:
        """One a case and label of which more than a trace is blanked."""
        for one in self.blanked:
            if one.share >= WARNED_SHARE:
                what = f"the foreground rule {self.rule} blanks {one.text}: the network is not shown what it is to find"
                yield Finding(one.case, None, "label_blanked", what, FIX, "note")
        for case in self._body:
            what = "is no stripped brain: the rule brain shows the body only, and blanks smaller pieces and dark edges"
            yield Finding(case, None, "not_stripped", what, "look at it, or train with another foreground", "note")


def _with_split_severity(finding: Finding, split: Mapping[str, str]) -> Finding:
    """Duplicates in two splits are refused: what a model learns on one it is judged on in the other."""
    if finding.duplicate is None:
        return finding
    places = {split[case] for case in (finding.case, finding.duplicate) if case in split}
    if len(places) < 2:
        return finding
    where = f"{finding.what}, and they are in the splits {' and '.join(sorted(places))}"
    return replace(finding, what=where, severity="refuse")
