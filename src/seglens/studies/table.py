"""The table of analyses: every stage of a study, in the order of the results, and what installed packages add."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from seglens.entry_points import with_installed
from seglens.runtime.suggestions import did_you_mean
from seglens.studies.analyses.alignment import ALIGNMENT
from seglens.studies.analyses.atlas import ATLAS
from seglens.studies.analyses.check import CHECK
from seglens.studies.analyses.circuits import CIRCUITS
from seglens.studies.analyses.dictionary import DICTIONARY, VARIANT
from seglens.studies.analyses.effects import EFFECTS
from seglens.studies.analyses.failures import FAILURES
from seglens.studies.analyses.phantom import PHANTOM
from seglens.studies.analyses.quality import QUALITY
from seglens.studies.analyses.scores import SCORES
from seglens.studies.analyses.segmenter import SEGMENTER
from seglens.studies.analyses.slices import SLICES
from seglens.studies.analyses.steering import STEERING
from seglens.studies.analyses.store import STORE
from seglens.studies.analyses.verdict import VERDICT
from seglens.studies.analyses.volume_scores import VOLUME_SCORES
from seglens.studies.analysis import GROUP, Analysis

BUILT_IN = (
    *(PHANTOM, CHECK, SLICES),
    *(SEGMENTER, SCORES, VOLUME_SCORES, EFFECTS, STORE),
    *(DICTIONARY, QUALITY, ATLAS, VARIANT, ALIGNMENT),
    *(STEERING, FAILURES, VERDICT, CIRCUITS),
)


def analysis_table() -> dict[str, Analysis]:
    """All analyses by name, each after those that it reads; otherwise the project's own in their order come first.

    Raises:
        ValueError: an installed row that cannot be loaded, or does not fit the others.
    """
    return in_order(with_installed(GROUP, BUILT_IN, Analysis).values())


def in_order(rows: Iterable[Analysis]) -> dict[str, Analysis]:
    """Sort rows so that each comes after those that it reads, and keep the given order where that leaves a choice.

    Raises:
        ValueError: a row comes after one that is not there, or after itself by way of others.
    """
    table = {row.name: row for row in rows}
    for row in table.values():
        for other in row.after:
            if other not in table:
                raise ValueError(
                    f"the analysis {row.name} comes after {other!r}, which there is not; "
                    f"{did_you_mean(other, table)}there are {', '.join(table)}"
                )
    sorter = TopologicalSorter({row.name: row.after for row in table.values()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise ValueError(
            f"the analyses {' > '.join(reversed(error.args[1]))} come after each other in a circle; remove one name "
            "from an `after`"
        ) from None
    place = {name: number for number, name in enumerate(table)}
    ordered: dict[str, Analysis] = {}
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=place.__getitem__)
        name = ready.pop(0)
        ordered[name] = table[name]
        sorter.done(name)
    return ordered


def verbs_of(table: Mapping[str, Analysis]) -> dict[str, list[Analysis]]:
    """Verbs of the command, each with the rows that it does, in their order."""
    verbs: dict[str, list[Analysis]] = {}
    for row in table.values():
        if row.verb_name:
            verbs.setdefault(row.verb_name, []).append(row)
    return verbs
