"""Latents that two dictionaries share, between floor and ceiling."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seglens.documents import to_document
from seglens.lens_names import segmenter_of
from seglens.studies.analysis import Analysis, Unit
from seglens.studies.hookpoints import aligned_pairs, alike

if TYPE_CHECKING:
    import polars as pl

    from seglens.artifacts import Artifact
    from seglens.diffing.records import AlignmentRecord, MatchingRecord, UniversalRecord
    from seglens.reports.blocks import Section
    from seglens.runs import Run
    from seglens.studies.settings import StudySettings
    from seglens.studies.stages import Study, Work
    from seglens.summaries import Summary


def units(settings: "StudySettings") -> list[Unit]:
    """Every pair of segmenters at their first hookpoints, and the entries of ``alignment``."""
    return list(aligned_pairs(settings))


def reads(settings: "StudySettings", unit: Unit) -> list[tuple[str, Unit]]:
    """Both dictionaries and their variants."""
    source, target = map(str, unit)
    variants = [("variant", (name, variant)) for variant in _variants(settings, source, target) for name in unit]
    return [("dictionary", (source,)), ("dictionary", (target,)), *variants]


def inputs(study: "Study", source: str, target: str) -> dict[str, Any]:
    """The dictionaries, their variants and the slices on which codes are compared."""
    from seglens.studies.compared import probe_of

    variants, sides = _variants(study.settings, source, target), (source, target)
    return {
        "dictionaries": [study.dictionary(name).hash for name in sides],
        "probes": [probe_of(study.own_slices(name, "test")).hash for name in sides],
        "variants": [{variant: study.dictionary(name, variant).hash for variant in variants} for name in sides],
        "tau": study.settings.tau,
        "seed": study.settings.seed,
        "notes": _notes(study.settings, source, target),
        "version": 2,
    }


def run(study: "Study", work: "Work", source: str, target: str) -> None:
    """Align the dictionaries."""
    from seglens.dictionaries.lens import Lens
    from seglens.studies.compared import Compared, compare, probe_of

    variants = _variants(study.settings, source, target)
    sides = []
    with work.draft() as draft:
        for name in (source, target):
            dictionary, alive = study.with_alive(name)
            bounds = {variant: study.with_alive(name, variant) for variant in variants}
            probe = probe_of(study.own_slices(name, "test"))
            sides.append(Compared(name, Lens(study.segmenter(name), dictionary), alive, probe, bounds))
        compare(
            *sides,
            tau=study.settings.tau,
            seed=study.settings.seed,
            notes=_notes(study.settings, source, target),
            draft=draft,
            progress=work.progress,
        )


def _variants(settings: "StudySettings", source: str, target: str) -> tuple[str, ...]:
    """Fits that bound what a shared fraction can mean; none where the two do not live in one activation space."""
    from seglens.studies.variants import VARIANTS

    return VARIANTS if settings.dictionaries.controls and target in alike(settings, source) else ()


def _notes(settings: "StudySettings", source: str, target: str) -> dict[str, bool]:
    from seglens.studies.compared import same_start

    start = same_start(settings.segmenters, segmenter_of(source), segmenter_of(target))
    return {"same_segmenter_start": start, "same_sae_seed": True}


def summary(run: "Run", settings: "StudySettings") -> dict[str, Any]:
    """Every pair, and the latents shared in all pairs."""
    universal = _universal(run)
    return {
        "alignments": [to_document(_record(run.artifact(stage))) for stage in run.stages("alignment/")],
        "universal": None if universal is None else to_document(universal),
    }


def _record(artifact: "Artifact") -> "AlignmentRecord":
    from seglens.diffing.alignment import Alignment
    from seglens.diffing.records import AlignmentRecord, BoundRecord, FunctionRecord, PairRecord

    pair = artifact.record("pair", PairRecord)
    figures = pair.figures
    record = AlignmentRecord(
        source=pair.source,
        target=pair.target,
        shared=None,
        floor=figures.floor,
        ceiling=figures.ceiling,
        ceiling_other_seed=figures.ceiling_other_seed,
        calibrated=None,
        functional=FunctionRecord(
            figures.function,
            figures.functional,
            figures.functional_floor,
            figures.functional_ceiling,
            pair.same_shape,
        ),
    )
    if not pair.comparable_by_weights:
        return record
    alignment = Alignment.read(artifact)
    return replace(
        record,
        shared=alignment.shared_share,
        calibrated=alignment.calibrated,
        tau=alignment.tau,
        dead_source=alignment.dead_source,
        dead_target=alignment.dead_target,
        n_source=alignment.n_source,
        n_target=alignment.n_target,
        methods=_methods(artifact.table("methods")),
        bounds=tuple(BoundRecord(**row) for row in artifact.table("bounds").to_dicts()),
        same_segmenter_start=bool(alignment.notes["same_segmenter_start"]),
        same_sae_seed=bool(alignment.notes["same_sae_seed"]),
    )


def _methods(table: "pl.DataFrame") -> "dict[str, dict[str, MatchingRecord]]":
    """Method -> filter -> figures."""
    from seglens.diffing.records import MatchingRecord

    nested: dict[str, dict[str, MatchingRecord]] = {}
    for row in table.to_dicts():
        method, kept = row.pop("method"), row.pop("filter")
        nested.setdefault(method, {})[kept] = MatchingRecord(**row)
    return nested


def _universal(run: "Run") -> "UniversalRecord | None":
    """Latents shared in every pair of segmenters that live in one activation space; None for fewer than three.

    Of all segmenters at their first hookpoints.
    """
    from seglens.diffing.alignment import Alignment
    from seglens.diffing.records import PairRecord, UniversalRecord
    from seglens.diffing.universal import universal_latents

    artifacts = [run.artifact(stage) for stage in run.stages("alignment/") if "@" not in stage]
    alignments = [Alignment.read(a) for a in artifacts if a.record("pair", PairRecord).comparable_by_weights]
    names = {name for alignment in alignments for name in (alignment.source, alignment.target)}
    if len(names) < 3 or len(alignments) != len(names) * (len(names) - 1) // 2:
        return None
    found = universal_latents(alignments)
    live = min(alignment.n_comparable for alignment in alignments)
    floors = [alignment.floor for alignment in alignments if alignment.floor is not None]
    return UniversalRecord(
        n=found.height,
        share=found.height / live if live else 0.0,
        pair_floors=(min(floors), max(floors)) if floors else None,
        segmenters=tuple(sorted(names)),
    )


def section(run: "Run", summary: "Summary") -> "Section":
    """Shared and specific latents."""
    from seglens.reports.sections.sharing import sharing_section

    return sharing_section(summary)


ALIGNMENT = Analysis(
    "alignment",
    "Align the dictionaries of all pairs of segmenters, between floor and ceiling.",
    units,
    inputs,
    run,
    after=("dictionary", "variant"),
    reads=reads,
    label="{}~{}".format,
    verb="diff",
    subjects=2,
    summary=summary,
    section=section,
    by_default=True,
    weight=2.0,
)
