"""Circuits: edges that the segmentations of every cohort rest on, and whether they are others than at home."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from seglens.studies.analysis import Analysis, Unit

if TYPE_CHECKING:
    from seglens.circuits.circuit import Circuit
    from seglens.circuits.edge_scores import EdgeScores
    from seglens.cohorts.slice_set import SliceSet
    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import Summary

VERSION = 1
MAX_SLICES = 48
"""Of a cohort, spread over its patients: each is run once an edge, and again for the curves."""
N_RANDOM = 10


def units(settings: "StudySettings") -> list[Unit]:
    """Every segmenter on every cohort, its own first."""
    return [
        (name, cohort)
        for name, own in settings.segmenters.items()
        for cohort in sorted(settings.cohorts, key=lambda cohort, home=own.cohort: cohort != home)  # type: ignore[misc]
    ]


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """The segmenter, both cohorts' slices, and the circuit at home."""
    name, cohort = map(str, unit)
    own = settings.segmenters[name].cohort
    home: list[tuple[str, Unit]] = [] if cohort == own else [("circuits", (name, own))]
    return [("segmenter", (name,)), *(("slices", (each,)) for each in dict.fromkeys((own, cohort))), *home]


def shown(study: "Study", cohort: str) -> "SliceSet":
    """Val and test slices of a cohort, at most `MAX_SLICES`, at even steps."""
    from seglens.studies.stages import unseen_rows

    slices = study.slices(cohort)
    rows = unseen_rows(slices)
    return slices.select(rows[:: -(-len(rows) // MAX_SLICES)])


def inputs(study: "Study", name: str, cohort: str) -> dict[str, Any]:
    """The segmenter, its training slices, the slices that are looked at, and those at home."""
    home = study.settings.segmenters[name].cohort
    return {
        "segmenter": study.segmenter(name).hash,
        "source": study.own_slices(name, "train").hash,
        "slices": [study.slices(cohort).split(split).hash for split in ("val", "test")],
        "home": [study.slices(home).split(split).hash for split in ("val", "test")],
        "seed": study.settings.seed,
        "version": VERSION,
    }


def run(study: "Study", work: "Work", name: str, cohort: str) -> None:
    """Write circuits.json, and edges.parquet and curves.parquet where the network predicts anything there."""
    from seglens.circuits.circuit import find_circuit
    from seglens.circuits.edge_scores import UndefinedTargetError

    source, seed = study.own_slices(name, "train"), study.settings.seed
    home = study.settings.segmenters[name].cohort
    with work.draft() as draft:
        try:
            found = find_circuit(
                study.segmenter(name),
                shown(study, cohort),
                source=source,
                over="channel" if source.of_windows else "position",  # those of windows cannot be compared
                n_random=N_RANDOM,
                seed=seed,
                progress=work.progress,
            )
        except UndefinedTargetError as error:
            draft.save_document("circuits", {"undefined": str(error)})
            return
        draft.save_table("edges", found.scores.table)
        draft.save_table("curves", found.curves.table(seed=seed))
        shift = _shift(study, found, name, home) if cohort != home else {}
        draft.save_document("circuits", _figures(found) | shift)


def _figures(found: "Circuit") -> dict[str, Any]:
    from seglens.artifacts import finite

    kept, missing = found.curves.areas()
    return {
        "edges": len(found.scores.edges),
        "patients": len(found.scores.patients),
        "left_out": found.scores.left_out,
        "exact": found.exact,
        "reliability": finite(found.reliability),
        "area": finite(kept),
        "distance_from_1": finite(missing),
        "idle": found.curves.idle,
    }


def _shift(study: "Study", found: "Circuit", name: str, home: str) -> dict[str, Any]:
    """Shift from the circuit at home, where there is one."""
    from seglens.artifacts import finite
    from seglens.circuits.shift import circuit_shift

    artifact = study.result("circuits", name, home)
    if not artifact.has("edges.parquet"):
        return {}
    shift = circuit_shift(_scores(artifact), found.scores, seed=study.settings.seed)
    return {"shift": finite(shift.cohort), "p": shift.p}


def _scores(artifact: Any) -> "EdgeScores":
    from seglens.circuits.edge_scores import EdgeScores

    return EdgeScores.of_table(artifact.table("edges"))


def section(run: "Run", summary: "Summary") -> "Section | None":
    """Edges, curves and shifts."""
    from seglens.reports.sections.circuits import circuits_section

    return circuits_section(run)


def sentences(run: "Run") -> Iterator[str]:
    """The heaviest edges of each segmenter on each cohort."""
    for stage in run.stages("circuits/"):
        artifact, unit = run.artifact(stage), stage.removeprefix("circuits/")
        if not artifact.has("edges.parquet"):
            yield f"{unit}: {artifact.document('circuits')['undefined']}"
            continue
        scores = _scores(artifact)
        mean = scores.mean()
        heaviest = ", ".join(f"{edge[0]} > {edge[1]} {mean[edge]:+.2f}" for edge in scores.ranking()[:3])
        yield f"soft Dice lost by an ablated edge, {unit}: {heaviest}"


CIRCUITS = Analysis(
    "circuits",
    "Measure what every edge of a segmenter's graph is worth on every cohort.",
    units,
    inputs,
    run,
    after=("segmenter", "slices"),
    reads=reads,
    section=section,
    sentences=sentences,
    label="{}@{}".format,
    weight=5.0,
)
