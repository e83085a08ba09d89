"""Names of latents by rule: always available, and each word follows from a number and a threshold given here.

A name is "what, side, depth, extent", such as "edema, left, deep, localised":

- what: the class with most mass among those with ``lift >= MIN_LIFT`` and ``p >= MIN_SHARE``; else "background" where
  its lift is at least ``BACKGROUND_LIFT`` (about as much background as by chance, or more); else "(mixed)".
- ", boundary": at least ``MIN_BOUNDARY`` of the mass in the band around the boundaries of labels, and at most
  ``MAX_OFF_BOUNDARY`` of what an even response over the class would have outside it: of a thin class all is boundary.
- side: from the centroid of the highly activated pixels of its exemplars (patient's left and right).
- depth: "brain edge" from ``MIN_EDGE`` on (", ring" where the responses surround the brain); else "deep" or
  "superficial". A background latent with less than ``MIN_BRAIN`` of its mass in the brain is "outside the brain".
- extent: "localised" or "diffuse" by the share of the brain that an exemplar covers.

A word whose number lies between the thresholds, or is missing, is left out; so is one that does not come back in both
halves of the patients (`replicated`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

MIN_LIFT = 2.0
"""Twice the class's base rate."""
MIN_SHARE = 0.2
"""A fifth of the latent's mass."""
BACKGROUND_LIFT = 0.95
"""A latent that fires everywhere alike is background; below this it leans to a class, but to none clearly."""
MIN_BOUNDARY = 0.75
MAX_OFF_BOUNDARY = 0.5
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

DEAD, MIXED, UNREPLICATED = "dead", "mixed", "unreplicated"
OUTSIDE = "outside the brain"

CLASS, BOUNDARY, SIDE, DEPTH, RING, EXTENT = PARTS = ("class", "boundary", "side", "depth", "ring", "extent")
"""Parts of a name, in its order."""

Facts = Mapping[str, Any]
Words = Mapping[str, str | None]
"""Part to word; None where there is none."""


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


def words_of(facts: Facts, labels: Mapping[int, str]) -> Words | None:
    """Words that a latent's figures give, by part of the name; None of a dead one.

    Args:
        facts: a row of the atlas's table: dead, p_*, lift_*, boundary, boundary_even, brain, edge, depth, side, spread,
            angular_coverage.
        labels: label value to class name.
    """
    if facts["dead"]:
        return None
    what = top_class(facts, labels)
    depth = None
    if what == labels.get(0) and _below(facts["brain"], MIN_BRAIN):
        depth = OUTSIDE
    elif _above(facts["edge"], MIN_EDGE):
        depth = "brain edge"
    elif _above(facts["depth"], DEEP):
        depth = "deep"
    elif _below(facts["depth"], SUPERFICIAL):
        depth = "superficial"
    extent = (
        "diffuse" if _above(facts["spread"], DIFFUSE) else "localised" if _below(facts["spread"], LOCALISED) else None
    )
    return {
        CLASS: what,
        BOUNDARY: BOUNDARY if _on_boundary(facts) else None,
        SIDE: facts["side"],
        DEPTH: depth,
        RING: RING if depth == "brain edge" and _above(facts["angular_coverage"], MIN_RING) else None,
        EXTENT: extent,
    }


def replicated(words: Words, halves: Sequence[Words | None]) -> Words:
    """The words that come back, each on its own, in both halves of the patients.

    Args:
        words: of all patients.
        halves: of each half; None where the latent is silent there.
    """
    return {
        part: word if all(half is not None and half[part] == word for half in halves) else None
        for part, word in words.items()
    }


def name_latent(words: Words | None, labels: Mapping[int, str]) -> str:
    """Join the words of a latent to its name.

    Args:
        words: as `words_of` or `replicated` gives them.
        labels: label value to class name.

    Example:
        >>> name_latent(None, {0: "background"})
        'dead'
    """
    if words is None:
        return DEAD
    what = words[CLASS]
    shown = f"({UNREPLICATED})" if what is None else "(mixed)" if what == MIXED else _words(what)
    if words[DEPTH] == OUTSIDE:
        return f"{shown}, {OUTSIDE}"
    bilateral_background = words[SIDE] == "bilateral" and what == labels.get(0)
    parts = [None if part == SIDE and bilateral_background else words[part] for part in PARTS[1:]]
    return ", ".join([shown, *(word for word in parts if word is not None)])


def withheld(words: Words, kept: Words) -> str | None:
    """Words that did not come back, such as ``"left, diffuse"``; None where all did."""
    lost = [_words(word) for part, word in words.items() if word is not None and kept[part] is None]
    return ", ".join(lost) or None


def _on_boundary(facts: Facts) -> bool:
    share, even = facts["boundary"], facts["boundary_even"]
    if not _above(share, MIN_BOUNDARY):
        return False
    return even is None or 1 - share <= MAX_OFF_BOUNDARY * (1 - even)


def _words(label: str) -> str:
    return label.replace("_", " ")


def _above(value: float | None, threshold: float) -> bool:
    return value is not None and value >= threshold


def _below(value: float | None, threshold: float) -> bool:
    return value is not None and value < threshold
