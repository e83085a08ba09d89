"""Ways to align two dictionaries, one row each: what is compared, how it is matched, which pairs count as shared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from seglens.diffing.matching import Matcher, greedy, hungarian, sinkhorn
from seglens.entry_points import with_installed

ENTRY_POINTS = "seglens.alignment_methods"


@dataclass(frozen=True)
class PairEvidence:
    """Evidence about the matched pairs of two dictionaries.

    Attributes:
        similarity: of each pair: cosines ``"encoder"`` and ``"decoder"`` for a method by weights, ``"correlation"`` of
            codes on common probe tokens for one by codes; -1..1.
        agrees: the decoder's matching pairs the same latents as the encoder's; True everywhere for a method by codes.
    """

    similarity: Mapping[str, Float[np.ndarray, " p"]]
    agrees: Bool[np.ndarray, " p"]


@dataclass(frozen=True)
class AlignmentMethod:
    """A way to align two dictionaries.

    Attributes:
        name: as it stands in tables, such as ``"greedy"``.
        title: as it stands in reports.
        needs: ``"weights"``: cosines of encoder and of decoder vectors, each matched alone; ``"codes"``: correlations
            of codes on the same probe tokens.
        match: from a similarity ``[n_a n_b]`` to the column of each row, -1 for none.
        accept: which matched pairs count as shared, given the threshold.
        threshold: least similarity where none is asked for, -1..1.
        dual: a latent is stable only if it keeps its partner in the encoder's and in the decoder's matching.
    """

    name: str
    title: str
    needs: Literal["weights", "codes"]
    match: Matcher
    accept: Callable[[PairEvidence, float], Bool[np.ndarray, " p"]]
    threshold: float = 0.8
    dual: bool = False


def both_projections(evidence: PairEvidence, tau: float) -> Bool[np.ndarray, " p"]:
    """Accept what encoder and decoder match alike with both cosines at least ``tau`` (paper, section 3.6)."""
    close = np.minimum(evidence.similarity["encoder"], evidence.similarity["decoder"]) >= np.float32(tau)
    return evidence.agrees & close


def encoder_alone(evidence: PairEvidence, tau: float) -> Bool[np.ndarray, " p"]:
    """Accept what has an encoder cosine of at least ``tau``, whatever the decoder says."""
    return evidence.similarity["encoder"] >= np.float32(tau)


def correlated(evidence: PairEvidence, correlation: float) -> Bool[np.ndarray, " p"]:
    """Accept pairs whose codes correlate by at least ``correlation``."""
    return evidence.similarity["correlation"] >= np.float32(correlation)


ROWS = (
    AlignmentMethod(
        "hungarian_dual", "Hungarian dual (the paper's)", "weights", hungarian, both_projections, dual=True
    ),
    AlignmentMethod("greedy", "greedy", "weights", greedy, both_projections),
    AlignmentMethod("sinkhorn", "Sinkhorn", "weights", sinkhorn, both_projections),
    AlignmentMethod("encoder_only", "Hungarian, encoder only", "weights", hungarian, encoder_alone),
    AlignmentMethod("functional", "by function", "codes", hungarian, correlated, threshold=0.5),
)


def alignment_methods(needs: Literal["weights", "codes"] | None = None) -> Mapping[str, AlignmentMethod]:
    """Every alignment method by name: the rows above, then those that installed packages add.

    A package adds rows by entry points of the group ``seglens.alignment_methods``, each an `AlignmentMethod`.

    Args:
        needs: only the methods by weights, or only those by codes; None: all.

    Raises:
        ValueError: an entry point that cannot be loaded, is no `AlignmentMethod`, or has the name of another row.
    """
    rows = with_installed(ENTRY_POINTS, ROWS, AlignmentMethod)
    return MappingProxyType({name: row for name, row in rows.items() if needs in (None, row.needs)})


def alignment_method(name: str, needs: Literal["weights", "codes"] | None = None) -> AlignmentMethod:
    """The method of that name.

    Raises:
        ValueError: there is none, or it needs something else; the message gives all there are.
    """
    rows = alignment_methods(needs)
    if name not in rows:
        raise ValueError(f"unknown method {name!r}; there are {', '.join(rows)}")
    return rows[name]
