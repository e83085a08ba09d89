"""Record of what computes: one seed gives the same bits under the same versions, threads and kind of processor."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from seglens.runtime.devices import bf16_saves

PACKAGES = ("med-seglens", "torch", "transformers", "monai", "numpy", "scipy", "scikit-learn", "lapx")
"""Packages whose arithmetic ends up in figures."""


class OtherRecordWarning(UserWarning):
    """A run holds artifacts that were computed otherwise than the rest, or goes on with another number of threads."""


@dataclass(frozen=True)
class Provenance:
    """Record of what computed an artifact: versions, kernels, threads.

    Attributes:
        versions: package to version, "absent" where it is not installed.
        instruction_set: of the CPU that torch's kernels use, such as "AVX2"; with "bfloat16 products" where these
            screen a dictionary's step.
        device: name of the GPU at hand, else "cpu".
        threads: of torch; sums over several threads round otherwise than over one.
    """

    versions: Mapping[str, str]
    instruction_set: str
    device: str
    threads: int

    @classmethod
    def current(cls) -> "Provenance":
        """Record of this process."""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        kernels = torch.backends.cpu.get_cpu_capability() + (", bfloat16 products" if bf16_saves() else "")
        return cls(_versions(), kernels, device, torch.get_num_threads())

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Provenance":
        """Read what `dataclasses.asdict` wrote.

        Raises:
            LookupError, TypeError, ValueError: it is no record.
        """
        versions = {str(name): str(version) for name, version in dict(value["versions"]).items()}
        return cls(versions, str(value["instruction_set"]), str(value["device"]), int(value["threads"]))

    @property
    def text(self) -> str:
        """All of it in a line; equal texts mean equal records."""
        versions = ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''} a stage"
        return f"{versions}; {self.instruction_set}; {self.device}; {threads}"


def by_record(records: Mapping[str, Provenance | None]) -> dict[str, list[str]]:
    """Stages by the text of their record, the record of most stages first; "no record" where there is none."""
    groups: dict[str, list[str]] = {}
    for stage, record in records.items():
        groups.setdefault(record.text if record else "no record", []).append(stage)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def record_sentence(groups: Mapping[str, list[str]]) -> str:
    """One sentence on what computed a run; stages that another record computed are named.

    Args:
        groups: of `by_record`; at least one.
    """
    (first, _), *others = groups.items()
    rest = "".join(f"; but {', '.join(stages)} by {record}" for record, stages in others)
    return f"Computed by {first}{rest}{': their figures may differ in the last digits' if others else ''}."


@cache
def _versions() -> Mapping[str, str]:
    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "absent"

    return {name: version(name) for name in PACKAGES}
