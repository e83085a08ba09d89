"""Colours that any reader can tell apart (Okabe and Ito 2008), and a scale of even lightness steps (viridis)."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

INK = "#1f2933"
MUTED = "#52606d"
GRID = "#d9dee3"
PAPER = "#ffffff"
BLUE = "#0072b2"
ORANGE = "#e69f00"
GREEN = "#009e73"
SKY = "#56b4e9"
VERMILLION = "#d55e00"
PURPLE = "#cc79a7"
YELLOW = "#f0e442"

SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "#7a5195", "#444444")
"""For lines on white paper: enough contrast, so without yellow."""
DASHES = ("", "7 4", "2 3", "9 3 2 3", "5 2", "1 2", "12 3", "4 4 1 4")
"""Beside its colour every baseline has a dash of its own."""
CLASSES = (VERMILLION, SKY, YELLOW, GREEN, PURPLE, ORANGE, BLUE, "#ffffff")
"""For regions on a grey scan, by order of the label value."""

MISSED, INVENTED, CONFUSED = "#ff40c8", "#7dff3a", "#fffffe"
"""For errors on a grey scan: of no class's colour."""

_VIRIDIS = (
    "#440154",
    "#482878",
    "#3e4989",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6ece58",
    "#b5de2b",
    "#fde725",
)
_INFERNO = (
    "#000004",
    "#1b0c41",
    "#4a0c6b",
    "#781c6d",
    "#a52c60",
    "#cf4446",
    "#ed6925",
    "#fb9b06",
    "#f7d13d",
    "#fcffa4",
)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue (0..255) of ``#rrggbb``."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _interpolated(anchors: tuple[str, ...]) -> UInt8[np.ndarray, "256 3"]:
    points = np.array([rgb(colour) for colour in anchors], dtype=np.float64)
    places = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(places, np.arange(len(anchors)), points[:, channel]) for channel in range(3)]
    return np.stack(columns, axis=1).round().astype(np.uint8)


VIRIDIS = _interpolated(_VIRIDIS)
INFERNO = _interpolated(_INFERNO)


def heat(value: float, low: float = 0.0, high: float = 1.0) -> tuple[str, str]:
    """Fill and readable ink for a cell of a heat map.

    Args:
        value: the cell's number.
        low: value of the dark end.
        high: value of the light end.
    """
    share = 0.0 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))
    red, green, blue = (int(channel) for channel in VIRIDIS[round(share * 255)])
    ink = "#ffffff" if luminance(red, green, blue) < 0.179 else "#000000"
    return f"#{red:02x}{green:02x}{blue:02x}", ink


def luminance(red: int, green: int, blue: int) -> float:
    """Relative luminance (0..1) of WCAG 2."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (red / 255, green / 255, blue / 255)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def class_colours(labels: Mapping[int, str]) -> dict[int, str]:
    """Label value to colour, background left out; more classes than colours begin again."""
    values = sorted(value for value in labels if value != 0)
    return {value: CLASSES[place % len(CLASSES)] for place, value in enumerate(values)}


def intensities(values: Float[np.ndarray, "H W"], low: float, high: float) -> UInt8[np.ndarray, "H W"]:
    """Values between ``low`` and ``high`` as grey levels."""
    span = high - low if high > low else 1.0
    return (np.clip((values - low) / span, 0, 1) * 255).round().astype(np.uint8)
