"""A plan for people: a table, sums, and what will not fit."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from seglens.runtime.resources import free_memory, readable_bytes
from seglens.studies.planning import Plan, StagePlan


def plan_text(plan: Plan, out: Path) -> str:
    """Plan as the command prints it.

    Args:
        plan: of a study.
        out: where its run would be.
    """
    lines = [f"{'slices of ' + name:<44} {count:>12,}" for name, count in plan.slices.items()]
    lines += [f"{'training steps of ' + name:<44} {count:>12,}" for name, count in plan.steps.items()]
    lines += [f"{'training tokens of ' + name:<44} {count:>12,}" for name, count in plan.tokens.items()]
    kinds = list(dict.fromkeys(stage.stage.partition("/")[0] for stage in plan.stages))
    lines += ["", f"{'stages':<20} {'how many':>8} {'time':>10} {'disk':>12}"]
    for kind in kinds:
        own = [stage for stage in plan.stages if stage.stage.startswith(f"{kind}/")]
        lines.append(_row(kind, own))
    lines += [_row("all, one by one", plan.stages), ""]
    lines.append(
        f"about {_time(plan.seconds)} with {plan.jobs} stages at once, {readable_bytes(round(plan.n_bytes))} of disk"
    )
    lines.append(f"about {readable_bytes(round(plan.memory))} of memory a stage, at most")
    lines += [f"hookpoint of {name}: auto is taken as {place} here" for name, place in plan.hookpoints.items()]
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.is_dir())
    return "\n".join([*lines, *unfit(plan, shutil.disk_usage(folder).free, free_memory())])


def unfit(plan: Plan, free_disk: int, free_memory: int) -> list[str]:
    """Name what will not fit, each with what to change.

    Args:
        plan: of a study.
        free_disk: bytes.
        free_memory: bytes.
    """
    found = []
    if plan.n_bytes > free_disk:
        found.append(
            f"DISK DOES NOT FIT: {readable_bytes(free_disk)} are free; set store: false, fewer slices_per_volume, or "
            "give another folder"
        )
    if plan.memory > free_memory:
        found.append(
            f"MEMORY DOES NOT FIT: {readable_bytes(free_memory)} are free; make batch_size of the segmenters, or size, "
            "smaller"
        )
    elif plan.memory * plan.jobs > free_memory:
        found.append(f"MEMORY DOES NOT FIT {plan.jobs} stages at once: give --jobs {int(free_memory // plan.memory)}")
    return found


def _row(name: str, stages: Sequence[StagePlan]) -> str:
    seconds, n_bytes = sum(one.seconds for one in stages), sum(one.n_bytes for one in stages)
    return f"{name:<20} {len(stages):>8} {_time(seconds):>10} {readable_bytes(round(n_bytes)):>12}"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 36000
        else f"{seconds / 3600:.1f} h"
    )
