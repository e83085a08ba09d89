"""Cost of a study on this machine: its own stages are done in miniature, and their times extended by line."""

import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from seglens.dictionaries.fit_settings import FitSettings
from seglens.lens_names import segmenter_of
from seglens.runs import Run
from seglens.runtime.progress import Announce, unseen
from seglens.studies.analysis import Analysis, Unit
from seglens.studies.hookpoints import AUTO, each_lens, hookpoints_of
from seglens.studies.miniature import MAX_BATCH, Miniature, depth_of, like_unit, middle_place, miniature
from seglens.studies.settings import StudySettings

CONSTANT = ("alignment", "verdict")
"""Stages whose time does not depend on steps or slices."""
SAMPLED_GROUPS = 4
"""Volumes, or patients of 2-D files, of a real cohort that are read to count its slices."""
WARM_UP, SMALL, LARGE = Miniature(6, 1, 2), Miniature(6, 2, 10), Miniature(12, 6, 40)


@dataclass(frozen=True)
class StagePlan:
    """One stage of a study: what drives its time, and an estimate.

    Attributes:
        stage: its name.
        work: how much of what drives it, such as steps times slices a step.
        seconds: of one job.
        n_bytes: that its artifact takes on disk.
        after: stages that it reads.
    """

    stage: str
    work: float
    seconds: float
    n_bytes: float
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Estimates of a study.

    Attributes:
        slices: of each cohort, all splits.
        steps: of training each segmenter that is not opened.
        tokens: of each lens that is fitted, in its training split.
        stages: in the order of the results.
        memory: bytes that one job may take at most.
        hookpoints: that ``auto`` was taken for, by segmenter.
        jobs: stages at once.
    """

    slices: Mapping[str, int]
    steps: Mapping[str, int]
    tokens: Mapping[str, int]
    stages: tuple[StagePlan, ...]
    memory: float
    hookpoints: Mapping[str, str]
    jobs: int

    @property
    def seconds(self) -> float:
        """Of the whole study: all stages over the jobs, or its longest chain of stages that read one another."""
        return max(sum(stage.seconds for stage in self.stages) / self.jobs, self.chain)

    @property
    def chain(self) -> float:
        """Seconds of the longest chain of stages that read one another, which no number of jobs makes shorter."""
        ends: dict[str, float] = {}
        for stage in self.stages:  # a stage stands behind those that it reads
            ends[stage.stage] = stage.seconds + max((ends.get(name, 0.0) for name in stage.after), default=0.0)
        return max(ends.values(), default=0.0)

    @property
    def n_bytes(self) -> float:
        """Of all artifacts."""
        return sum(stage.n_bytes for stage in self.stages)


def extended(small: tuple[float, float], large: tuple[float, float], work: float) -> float:
    """Extend two measurements by a line that neither falls nor begins below 0.

    Args:
        small: work and what it took.
        large: more work and what it took.
        work: to be estimated.
    """
    (x1, y1), (x2, y2) = small, large
    if x2 <= x1:
        return max(y1, y2)
    slope = max(0.0, (y2 - y1) / (x2 - x1))
    if slope * x2 > y2:  # the line would begin below 0
        return y2 * work / x2
    return y2 + slope * (work - x2)


def plan_study(settings: StudySettings, *, jobs: int, announce: Announce = unseen) -> Plan:
    """Estimate what a study takes, from miniatures of it on phantoms of its size.

    Args:
        settings: of the study; of real cohorts the headers and a few masks are read.
        jobs: stages at once.
        announce: shown the stages of the miniatures.

    Raises:
        ValueError: settings or cohorts that cannot be used.
    """
    from seglens.runtime.resources import peak_rss_mib
    from seglens.studies.study import run_study
    from seglens.studies.table import analysis_table

    sizes = {name: _cohort_size(settings, name) for name in settings.cohorts}
    with tempfile.TemporaryDirectory(prefix="seglens-plan-") as folder:
        before = peak_rss_mib()
        small = miniature(settings, WARM_UP, None)
        warm = run_study(small, Path(folder) / "warm", announce=announce)
        counts = {name: _slices(warm, name) for name in small.cohorts}
        typical = sum(counts.values()) / len(counts)
        slices = {
            name: round(counts.get(name, typical) / WARM_UP.subjects * own.phantom.subjects)
            if own.phantom
            else sizes[name][0]
            for name, own in settings.cohorts.items()
        }
        tokens, expansion = _tokens(settings, small, warm, slices)
        measured = []
        for size in (SMALL, LARGE):
            small = miniature(settings, size, expansion)
            run = run_study(small, Path(folder) / f"{size.subjects}", announce=announce)
            kept = {name: _slices(run, name) for name in small.cohorts}
            voxels = {name: float(size.subjects * depth_of(settings, name)) for name in small.cohorts}
            measured.append((small, run, kept, voxels))
        peak = peak_rss_mib()
        stages = []
        whole = {name: sizes[name][1] for name in settings.cohorts}
        table = analysis_table()
        for row in table.values():
            if not row.part_of(settings):
                continue
            done = row.units(measured[0][0])
            for unit in row.units(settings):
                own = like_unit(settings, unit, done)
                if own is None:
                    continue
                work = _work(settings, row.name, unit, slices, whole)
                points = [
                    (
                        _work(less, row.name, own, kept, voxels),
                        run.timings.get(row.stage(own), 0.0),
                        _bytes(run, row.stage(own)),
                    )
                    for less, run, kept, voxels in measured
                ]
                seconds, n_bytes = (
                    extended((points[0][0], points[0][at]), (points[1][0], points[1][at]), work) for at in (1, 2)
                )
                above = tuple(table[name].stage(other) for name, other in _read_by(settings, table, row, unit))
                stages.append(StagePlan(row.stage(unit), work, seconds, n_bytes, above))
    batches = max(own.batch_size / min(own.batch_size, MAX_BATCH) for own in settings.segmenters.values())
    memory = (before + (peak - before) * batches) * 2**20
    automatic = [name for name in settings.segmenters if hookpoints_of(settings, name) == (AUTO,)]
    chosen = {name: middle_place(settings, name) for name in automatic}
    trained = [name for name, own in settings.segmenters.items() if own.model is None]
    steps = {name: _steps(settings, name, slices) for name in trained}
    return Plan(slices, steps, tokens, tuple(stages), memory, chosen, jobs)


def _read_by(
    settings: StudySettings, table: Mapping[str, Analysis], row: Analysis, unit: Unit
) -> Iterable[tuple[str, Unit]]:
    """Analyses and units that a unit reads."""
    if row.reads is not None:
        return row.reads(settings, unit)
    return [(name, other) for name in row.after for other in table[name].units(settings)]


def _cohort_size(settings: StudySettings, name: str) -> tuple[int, float]:
    """Slices of a cohort that are kept (0 for a phantom), and slices of the study's size that are read."""
    own = settings.cohorts[name]
    if own.phantom:
        return 0, float(own.phantom.subjects * own.phantom.slices)
    from seglens.cohorts.normalisation_groups import groups_of, read_group
    from seglens.cohorts.preprocessing import Preprocessing
    from seglens.studies.cohorts import read_sources

    cohort = read_sources(settings, name)
    groups = groups_of([case for case in cohort.cases if case.mask is not None or not own.labelled])
    if not groups:
        raise ValueError(f"{name}: none of {len(cohort.cases)} cases has a mask; a plan needs some to count slices")
    preprocessing = Preprocessing(tuple(settings.sequences), settings.size, settings.clip_percentiles, "none")
    kept = read = 0.0
    sampled = groups[:: math.ceil(len(groups) / SAMPLED_GROUPS)]
    for group in sampled:
        members = read_group(group, preprocessing, cohort.labels, with_masks=own.labelled)
        masks = [member.masks for member in members]
        read += sum(one.size for one in masks) / settings.size**2
        if not own.labelled:
            shown = sum(map(len, masks))  # those at the ends, of little foreground, too
            kept += min(shown, own.slices_per_volume or shown)
            continue
        lesion = sum(int(one.reshape(len(one), -1).any(axis=1).sum()) for one in masks)
        free = sum(map(len, masks)) - lesion
        lesion = min(lesion, own.slices_per_volume or lesion)
        share = own.lesion_free_share
        kept += lesion + (min(free, lesion * share / (1 - share)) if share < 1 else free)
    times = len(groups) / len(sampled)
    return round(kept * times), read * times


def _slices(run: Run, cohort: str) -> int:
    from seglens.cohorts.slice_set import SliceSet

    return len(SliceSet.read(run.artifact(f"slices/{cohort}")))


def _tokens(
    settings: StudySettings, small: StudySettings, run: Run, slices: Mapping[str, int]
) -> tuple[dict[str, int], int]:
    """Tokens of each lens in its training split, and the expansion that the fewest of them leave ``auto``."""
    from seglens.activations.store import ActivationStore

    tokens, expansions, done = {}, [], each_lens(small)
    for unit in each_lens(settings):
        lens, own = str(unit[0]), like_unit(settings, unit, done)
        if own is None or f"store/{own[0]}" not in run:
            continue
        cohort = settings.segmenters[segmenter_of(lens)].cohort
        store = ActivationStore.read(run.artifact(f"store/{own[0]}"))
        n_slices = slices[cohort] * settings.cohorts[cohort].fractions.train
        tokens[lens] = round(n_slices * store.n_tokens / store.n_slices)
        width = store.d_in
        fit = FitSettings(k=1, expansion=settings.dictionaries.expansion).size(width, tokens[lens])
        expansions.append(fit.n_latents // width)
    return tokens, max(expansions, default=2)


def _bytes(run: Run, stage: str) -> float:
    if stage not in run:
        return 0.0
    return float(sum(file.stat().st_size for file in run.artifact(stage).path.rglob("*") if file.is_file()))


def _work(settings: StudySettings, row: str, unit: Unit, slices: Mapping[str, int], read: Mapping[str, float]) -> float:
    """How much of what drives its time a stage has to do."""
    subject = segmenter_of(str(unit[0]))
    if row in CONSTANT:
        return 1.0
    if row == "segmenter":
        own = settings.segmenters[subject]
        return 0.0 if own.model is not None else float(_steps(settings, subject, slices) * own.batch_size)
    if row in ("dictionary", "variant"):
        return float(settings.dictionaries.steps)
    if row in ("phantom", "check", "slices"):
        return read[str(unit[0])]
    cohorts = [str(name) for name in unit[1:] if name in settings.cohorts]
    return float(sum(slices[name] for name in cohorts or [settings.segmenters[subject].cohort]))


def _steps(settings: StudySettings, segmenter: str, slices: Mapping[str, int]) -> int:
    """Steps of a segmenter's training, by its epochs where it has such."""
    own = settings.segmenters[segmenter]
    if own.epochs is None:
        return own.steps
    train = slices[own.cohort] * settings.cohorts[own.cohort].fractions.train
    return math.ceil(own.epochs * train / own.batch_size)
