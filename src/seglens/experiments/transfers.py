"""Transfers of a segmenter to another cohort, and the division of its patients into choosing and judging.

The target cohort's patients were never seen by the segmenter, so all of them can be used: those of its val split and
every second one of its train split are for choosing, all others for judging. Where a segmenter's start was trained on
the target cohort, only that cohort's val (choosing) and test patients (judging) are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from seglens.cohorts.slice_set import SliceSet
from seglens.experiments.experiment import NotApplicableError
from seglens.studies.settings import StudySettings
from seglens.studies.stages import Study


@dataclass(frozen=True)
class Transfer:
    """A segmenter on another cohort.

    Attributes:
        segmenter: name.
        cohort: name.
        label: name of the class whose failure is steered.
        in_full: with the learning curve, the alphas and every method; otherwise the main ones only.
        names_label: another transfer differs in the label alone.
    """

    segmenter: str
    cohort: str
    label: str
    in_full: bool
    names_label: bool = False

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.segmenter} on {self.cohort}{f', {self.label}' if self.names_label else ''}"


def transfers_of(study: Study) -> list[Transfer]:
    """The study's steering entries in full; then their first segmenter elsewhere, and other architectures.

    Raises:
        NotApplicableError: the study steers nothing.
    """
    settings = study.settings
    if not settings.steering:
        raise NotApplicableError("needs an entry under steering: a segmenter, another cohort and a class")
    asked = [(entry.segmenter, entry.cohort) for entry in settings.steering]
    found = [
        Transfer(entry.segmenter, entry.cohort, entry.label, True, asked.count((entry.segmenter, entry.cohort)) > 1)
        for entry in settings.steering
    ]
    first = settings.steering[0]
    own = settings.segmenters[first.segmenter]
    labels = dict(study.segmenter(first.segmenter).labels)
    known = {*asked, (first.segmenter, own.cohort)}
    for cohort in settings.cohorts:
        if (first.segmenter, cohort) not in known and dict(study.slices(cohort).labels) == labels:
            found.append(Transfer(first.segmenter, cohort, first.label, False))
    for name, other in settings.segmenters.items():
        alike = other.cohort != own.cohort or other.architecture == own.architecture
        if not alike and (name, first.cohort) not in known:
            found.append(Transfer(name, first.cohort, first.label, False))
    return found


def by_transfer(do: Callable[[Study, Transfer], None], settings: StudySettings) -> list[Callable[[Study], None]]:
    """A part for each transfer that a study may have: a segmenter on a cohort takes as long as a whole experiment.

    Args:
        do: a function of a module, which does a transfer.
        settings: of the study; where it has fewer transfers, the last parts do nothing.
    """
    most = len(settings.steering) + len(settings.cohorts) + len(settings.segmenters)
    return [partial(_numbered, do, number) for number in range(most if settings.steering else 0)]


def _numbered(do: Callable[[Study, Transfer], None], number: int, study: Study) -> None:
    for transfer in transfers_of(study)[number : number + 1]:
        do(study, transfer)


def patients_of(study: Study, transfer: Transfer) -> tuple[SliceSet, SliceSet]:
    """Slices for choosing, and slices of other patients for judging (see the module)."""
    slices = study.slices(transfer.cohort)
    seen, name = set(), transfer.segmenter
    while name:
        seen.add(study.settings.segmenters[name].cohort)
        name = study.settings.segmenters[name].init_from or ""
    split_of = dict(slices.index.select("patient", "split").iter_rows())
    training = sorted(patient for patient, split in split_of.items() if split == "train")
    if transfer.cohort in seen:
        return slices.split("val"), slices.split("test")
    chosen = {patient for patient, split in split_of.items() if split == "val"} | set(training[::2])
    rows = [patient in chosen for patient in slices.index["patient"]]
    return (
        slices.select([row for row, inside in enumerate(rows) if inside]),
        slices.select([row for row, inside in enumerate(rows) if not inside]),
    )
