"""Names of latents by rule: always available, and each word follows from a number and a threshold given here.

A name is "what, side, depth, extent", such as "edema, left, deep, localised":

- what: the class with most mass among those with ``lift >= MIN_LIFT`` and ``p >= MIN_SHARE``; else "background" where
  its lift is at least ``BACKGROUND_LIFT`` (about as much background as by chance, or more); else "(mixed)".
  ", boundary" follows from ``MIN_BOUNDARY`` on. A background latent with less than ``MIN_BRAIN`` of its mass in the
  brain is "background, outside the brain".
- side: from the centroid of the highly activated pixels of its exemplars (patient's left and right).
- depth: "brain edge" from ``MIN_EDGE`` on (", ring" where the responses surround the brain); else "deep" or
  "superficial".
- extent: "localised" or "diffuse" by the share of the brain that an exemplar covers.

A word whose number lies between the thresholds, or is missing, is left out.
"""

from collections.abc import Mapping
from typing import Any

MIN_LIFT = 2.0
"""Twice the class's base rate."""
MIN_SHARE = 0.2
"""A fifth of the latent's mass."""
BACKGROUND_LIFT = 0.95
"""A latent that fires everywhere alike is background; below this it leans to a class, but to none clearly."""
MIN_BOUNDARY = 0.75
"""Labels are small: an even latent on a tumour already has 0.5 to 0.7 of its mass within the band."""
MIN_BRAIN = 0.2
MIN_EDGE = 0.5
"""Half of the mass in the brain; the edge band is about a quarter of the brain."""
MIN_RING = 0.5
DEEP, SUPERFICIAL = 0.5, 0.25
"""Mean depth; an even map over a disc has 1/3."""
LOCALISED, DIFFUSE = 0.1, 0.35
"""Spread: share of the brain."""
MIDLINE = 0.1
"""Half width of the midline over the brain's width."""
BILATERAL = 0.15
"""Mean distance from the midline from which a centred response lies on both sides instead of on the midline."""

DEAD, MIXED, BACKGROUND = "dead", "mixed", "background"

Facts = Mapping[str, Any]


def top_class(facts: Facts, labels: Mapping[int, str]) -> str:
    """The class that a latent stands for, "mixed" where none has lift.

    Args:
        facts: ``p_<class>`` and ``lift_<class>`` of a live latent; missing ones are None.
        labels: label value to class name; 0 is the background.
    """
    shares = {
        name: facts[f"p_{name}"]
        for value, name in sorted(labels.items())
        if value != 0 and (facts[f"lift_{name}"] or 0) >= MIN_LIFT and facts[f"p_{name}"] >= MIN_SHARE
    }
    if shares:
        return max(shares, key=lambda name: shares[name])
    if 0 in labels and (facts[f"lift_{labels[0]}"] or 0) >= BACKGROUND_LIFT:
        return labels[0]
    return MIXED


def side(centroid_column: float | None, lateral_spread: float | None) -> str | None:
    """The patient's side: "left", "right", "midline", "bilateral"; None where nothing was measured.

    Args:
        centroid_column: 0 the patient's right, 1 left (columns run from right to left).
        lateral_spread: mean distance from the midline, same unit.
    """
    if centroid_column is None or lateral_spread is None:
        return None
    offset = centroid_column - 0.5
    if abs(offset) > MIDLINE:
        return "left" if offset > 0 else "right"
    return "bilateral" if lateral_spread >= BILATERAL else "midline"


def name_latent(facts: Facts, labels: Mapping[int, str]) -> str:
    """The name of one latent.

    Args:
        facts: a row of the atlas's table: dead, p_*, lift_*, boundary, brain, edge, depth, side, spread,
            angular_coverage.
        labels: label value to class name.

    Example:
        >>> name_latent({"dead": True}, {0: "background"})
        'dead'
    """
    if facts["dead"]:
        return DEAD
    what = top_class(facts, labels)
    is_background = 0 in labels and what == labels[0]
    if is_background and _below(facts["brain"], MIN_BRAIN):
        return f"{_words(what)}, outside the brain"
    words = ["(mixed)" if what == MIXED else _words(what)]
    if _above(facts["boundary"], MIN_BOUNDARY):
        words.append("boundary")
    if facts["side"] is not None and not (is_background and facts["side"] == "bilateral"):
        words.append(facts["side"])
    if _above(facts["edge"], MIN_EDGE):
        words.append("brain edge")
        if _above(facts["angular_coverage"], MIN_RING):
            words.append("ring")
    elif _above(facts["depth"], DEEP):
        words.append("deep")
    elif _below(facts["depth"], SUPERFICIAL):
        words.append("superficial")
    if _above(facts["spread"], DIFFUSE):
        words.append("diffuse")
    elif _below(facts["spread"], LOCALISED):
        words.append("localised")
    return ", ".join(words)


def _words(label: str) -> str:
    return label.replace("_", " ")


def _above(value: float | None, threshold: float) -> bool:
    return value is not None and value >= threshold


def _below(value: float | None, threshold: float) -> bool:
    return value is not None and value < threshold
