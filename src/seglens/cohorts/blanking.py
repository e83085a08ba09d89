"""Label pixels that a foreground rule blanks: the network is to find there what it is not shown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WARNED_SHARE = 1e-3
"""From this share of a label's pixels in a case on, blanking is a finding; below it is counted all the same."""
FIX = "set foreground: none, which keeps every pixel, if what is blanked belongs to the image"


@dataclass(frozen=True)
class BlankedLabel:
    """Pixels of one label that preprocessing blanks in one case.

    Attributes:
        case: its id.
        label: the class's name.
        blanked: how many of its pixels lie outside the foreground and are shown as 0.
        pixels: how many it has, on the file's own grid.
    """

    case: str
    label: str
    blanked: int
    pixels: int

    @property
    def share(self) -> float:
        """Blanked pixels of all, 0..1."""
        return self.blanked / self.pixels

    @property
    def text(self) -> str:
        """One clause for people."""
        return f"{self.blanked} of {self.pixels} pixels of {self.label} ({self.share:.2%})"


def blanked_labels(
    case: str, mask: NDArray[np.uint8], foreground: NDArray[np.bool_], labels: Mapping[int, str]
) -> list[BlankedLabel]:
    """Count label pixels outside the foreground; labels of which none is are left out.

    Args:
        case: its id.
        mask: labels [D H W].
        foreground: [D H W].
        labels: value to class name; 0 is the background.
    """
    n = max(labels) + 1
    pixels = np.bincount(mask.ravel(), minlength=n)
    outside = np.bincount(mask[~foreground], minlength=n)
    return [
        BlankedLabel(case, name, int(outside[value]), int(pixels[value]))
        for value, name in labels.items()
        if value and outside[value]
    ]


def blanked_text(blanked: Sequence[BlankedLabel]) -> str:
    """Say in one sentence how much is blanked in all, and where most of it is."""
    if not blanked:
        return "no label pixel is blanked"
    worst = max(blanked, key=lambda one: one.share)
    total, cases = sum(one.blanked for one in blanked), len({one.case for one in blanked})
    return f"{total} label pixels of {cases} cases are blanked, at most {worst.text} in {json.dumps(worst.case)}"


def blanked_json(blanked: Sequence[BlankedLabel]) -> list[dict[str, Any]]:
    """For a JSON document."""
    return [asdict(one) for one in blanked]


def read_blanked(document: Sequence[Mapping[str, Any]]) -> tuple[BlankedLabel, ...]:
    """Read what `blanked_json` wrote."""
    return tuple(BlankedLabel(one["case"], one["label"], one["blanked"], one["pixels"]) for one in document)
