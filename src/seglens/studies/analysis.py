"""Analyses of a study: each is one row of a table, from which all else follows.

Order, resume, workers, the command's verbs, summary.json and the report read the table (`seglens.studies.table`).
A row is light to import: its functions import what they compute with when they are called.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Unit = tuple[str | int, ...]
"""One thing that an analysis is done for, by names: ``("adult",)`` for a segmenter, ``("adult", "ssa")`` for a pair."""
GROUP = "seglens.analyses"
"""Group of the entry points by which installed packages add rows."""


def joined(*unit: str | int) -> str:
    """A unit in the name of its stage: ``adult-ssa``."""
    return "-".join(map(str, unit))


def each_segmenter(settings: Any) -> list[Unit]:
    """Units of an analysis that is done for every segmenter of a study."""
    return [(name,) for name in settings.segmenters]


def same_unit(*names: str) -> Callable[[Any, Unit], list[tuple[str, Unit]]]:
    """The rule of `Analysis.reads` for what reads the same unit of other analyses."""
    return lambda settings, unit: [(name, unit) for name in names]


def nothing(*read: Any) -> None:
    """For a row that leaves no entry in summary.json, or no section in the report."""


@dataclass(frozen=True)
class Analysis:
    """One row of the table of analyses.

    Each of its units becomes a stage ``<name>/<label>`` with an artifact of its own, which is found again by the hash
    of its inputs. `seglens.studies.stages.Study` gives what other analyses found, and does it where it is not done.

    Attributes:
        name: first part of its stages' names, and the verb of the command unless ``verb`` says otherwise.
        about: a sentence that begins with a verb; the verb's help is made of it.
        units: of a study's settings, all units in the order of the results.
        inputs: ``inputs(study, *unit)`` gives JSON-able settings and the hashes of what is read; equal inputs mean an
            equal result. None where the unit cannot be done with the study's data: it is left out.
        run: ``run(study, work, *unit)`` computes and writes, most simply into ``with work.draft() as draft``.
        after: names of the analyses whose results it reads.
        reads: of settings and a unit, the units of those that it reads; None: all of them.
        settings: a pydantic model; an installed analysis is part of a study whose file has a block of its name, which
            ``study.block(name)`` gives. None: the block is empty.
        summary: of a run and its settings, entries of summary.json; None: under its name a list of its units, each
            with the content of its document ``<name>.json``, where it has one.
        section: of a run and its summary, the section of the report; None: a table for each of its tables.
        sentences: of a run, what the command prints when it is done.
        read: ``read(study, artifact, *unit)`` gives what `Study.result` returns; None: the artifact.
        label: a unit as the second part of its stage's name.
        kind: of its artifacts; None: its name.
        verb: of the command; several rows may share one, and are done in their order. "": it has none.
        subjects: so many of a unit's first names are what the verb's names choose by.
        by_default: part of every study; otherwise done for its own verb or a block of its name in the study file.
        together: ``run`` deals its work to all processes of a launcher; otherwise the first does it alone.
        apart: worth a worker of its own; otherwise done by whichever worker needs its result.
        kept: what ``read`` gives is held in memory as long as the study.
        weight: rough duration beside other rows: what longer chains wait for is begun first.
    """

    name: str
    about: str
    units: Callable[[Any], Sequence[Unit]]
    inputs: Callable[..., Mapping[str, Any] | None]
    run: Callable[..., None]
    after: tuple[str, ...] = ()
    reads: Callable[[Any, Unit], Iterable[tuple[str, Unit]]] | None = None
    settings: type[Any] | None = None
    summary: Callable[..., Mapping[str, Any] | None] | None = None
    section: Callable[..., Any] | None = None
    sentences: Callable[[Any], Iterable[str]] | None = None
    read: Callable[..., Any] | None = None
    label: Callable[..., str] = joined
    kind: str | None = None
    verb: str | None = None
    subjects: int = 1
    by_default: bool = False
    together: bool = False
    apart: bool = True
    kept: bool = False
    weight: float = 1.0

    @property
    def verb_name(self) -> str:
        """The command's verb that does it; "" where it has none."""
        return self.name if self.verb is None else self.verb

    def stage(self, unit: Unit) -> str:
        """Name of a unit's stage."""
        return f"{self.name}/{self.label(*unit)}"

    def part_of(self, settings: Any) -> bool:
        """Whether a study does it without being asked by a verb."""
        return self.by_default or self.name in (settings.model_extra or {})
