"""What a benchmark is: cases, and the subjects that are timed on them.

Every module of this folder that has a module-level `BENCHMARK` is a benchmark. This file is imported by workers in the
peers' own environments too, so it needs nothing but the standard library.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Repeat = Callable[[], object]


class Unavailable(Exception):  # noqa: N818 - not an error: a row that is left out
    """Raised by `Subject.make` where a peer is not installed or cannot do the case; the row is listed as left out."""


@dataclass(frozen=True)
class Subject:
    """One thing that is timed.

    Attributes:
        name: as it stands in the table, unique in its benchmark.
        role: "ours", "peer" (another library that does the same), "other" (does something else; no ratio is taken to
            it) or "floor" (what no correct answer can undercut).
        make: takes the case's parameters and returns the function that does one repeat. All it does itself (imports,
            inputs, warm-up) is set-up: not timed. It may raise `Unavailable`.
        environment: in whose Python it runs: a name of `benchmarks.environments`, or "own" for the one that runs the
            benchmarks.
        share: of the case that one repeat does, where all of it would take too long: times are divided by it. Its name
            must say so.
        load: imports what `make` will use. The memory that libraries themselves take is not counted as the subject's.
    """

    name: str
    role: Literal["ours", "peer", "other", "floor"]
    make: Callable[[Mapping[str, Any]], Repeat]
    environment: str = "own"
    share: float = 1.0
    load: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Benchmark:
    """Subjects that are timed on the same cases.

    Attributes:
        name: the name of its module.
        title: one sentence: what is timed.
        cases: case name -> parameters for `make`, JSON-able.
        subjects: what is timed.
        repeats: timed repeats of every subject; the medians are reported.
        growth: axis ("tokens") -> the names of the cases at 1x, 2x, 4x, 8x.
        threads: threads a subject may use.
    """

    name: str
    title: str
    cases: Mapping[str, Mapping[str, Any]]
    subjects: Sequence[Subject]
    repeats: int = 7
    growth: Mapping[str, Sequence[str]] = field(default_factory=dict)
    threads: int = 1

    def __post_init__(self) -> None:
        names = [subject.name for subject in self.subjects]
        if len(set(names)) < len(names):
            raise ValueError(f"benchmark {self.name!r} has two subjects of one name: {sorted(names)}")
        unknown = sorted({case for cases in self.growth.values() for case in cases} - set(self.cases))
        if unknown:
            raise ValueError(f"benchmark {self.name!r}: growth names cases {unknown}; it has {sorted(self.cases)}")

    def subject(self, name: str) -> Subject:
        """The subject of that name."""
        return next(subject for subject in self.subjects if subject.name == name)
