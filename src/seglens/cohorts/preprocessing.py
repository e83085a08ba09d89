"""Rules from a case's files to a network's input: part of the model, saved with it and loaded with it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from seglens.cohorts.foreground import AUTO, check_rule


@dataclass(frozen=True)
class Preprocessing:
    """How a case's files become what a network is shown.

    Attributes:
        sequences: which, in the order of the channels.
        size: rows and columns of a slice after padding to a square and resizing.
        clip_percentiles: intensities are clipped to these percentiles (0..100) of the foreground's, then z-scored over
            it, a volume at a time.
        foreground: which pixels are normalised and shown, by a name of `seglens.cohorts.foreground.RULES`; the others
            become 0. ``brain``: the stripped brain, or the body; ``nonzero``: what is not zero; ``none``: every pixel.
            ``auto`` is settled when a cohort is prepared: ``brain`` where every volume is a stripped brain, else
            ``none``.
    """

    sequences: tuple[str, ...]
    size: int = 256
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    foreground: str = AUTO

    def __post_init__(self) -> None:
        check_rule(self.foreground)
        low, high = self.clip_percentiles
        problems = [
            message
            for bad, message in (
                (not self.sequences, "sequences is empty; name at least one"),
                (len(set(self.sequences)) < len(self.sequences), f"sequences {self.sequences} has one twice"),
                (self.size < 8, f"size {self.size} must be at least 8"),
                (not 0 <= low < high <= 100, f"clip_percentiles {(low, high)} must rise within 0..100"),
            )
            if bad
        ]
        if problems:
            raise ValueError("; ".join(problems))

    def differences(self, other: "Preprocessing") -> list[str]:
        """Name what differs, ``other``'s value first; empty where both are the same."""
        return [
            f"{field.name} is {getattr(other, field.name)}, not {getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]

    def to_json(self) -> dict[str, Any]:
        """For a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | None) -> "Preprocessing | None":
        """Read what `to_json` wrote; None stays None."""
        if document is None:
            return None
        return cls(
            tuple(document["sequences"]),
            document["size"],
            (document["clip_percentiles"][0], document["clip_percentiles"][1]),
            document["foreground"],
        )
