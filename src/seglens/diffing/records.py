"""Records of comparing two dictionaries, as each is written, read and reported. Shares are in 0..1."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PairFigures:
    """Figures of a pair, means over both sides; None where they were not measured or are undefined.

    Attributes:
        functional: mean correlation of codes matched by function.
        functional_floor: the same with codes of other slices at the same places.
        floor: shared share of the null (one side fitted to rotated activations).
        ceiling: shared share of one model with itself, other token order.
        ceiling_other_seed: the same with another SAE seed.
        functional_ceiling: correlation by function of one model with itself.
        function: mean correlation of codes matched by weights.
    """

    functional: float | None
    functional_floor: float | None
    floor: float | None = None
    ceiling: float | None = None
    ceiling_other_seed: float | None = None
    functional_ceiling: float | None = None
    function: float | None = None


@dataclass(frozen=True)
class PairRecord:
    """How two dictionaries were compared, ``pair.json``.

    Attributes:
        source: one segmenter.
        target: the other.
        comparable_by_weights: both live in one activation space; then the artifact holds an `Alignment` too.
        figures: of the pair.
        bounds_by_side: the floors and ceilings of which `figures` are means, source first.
        n_probe_slices: on which codes were compared.
        same_shape: both have as many latents and the same token grid; only such pairs compare by raw correlation.
    """

    source: str
    target: str
    comparable_by_weights: bool
    figures: PairFigures
    bounds_by_side: Mapping[str, tuple[float, ...]]
    n_probe_slices: int
    same_shape: bool


@dataclass(frozen=True)
class FunctionRecord:
    """Mean correlation of codes: of pairs matched by weight and by function, and the latter's bounds.

    Attributes:
        matched_by_weight: of the shared pairs; None where weights cannot be compared or nothing is shared.
        matched_by_function: of the optimal assignment.
        floor: the same with codes of other slices.
        ceiling: the same of two dictionaries of one model.
        same_shape: see `PairRecord`.
    """

    matched_by_weight: float | None
    matched_by_function: float | None
    floor: float | None
    ceiling: float | None
    same_shape: bool

    @property
    def calibrated(self) -> float | None:
        """Correlation by function between the pair's own bounds: 0 the floor, 1 the ceiling; None without both."""
        from seglens.diffing.functional import calibrated_correlation

        if self.matched_by_function is None or self.floor is None or self.ceiling is None:
            return None
        return calibrated_correlation(self.matched_by_function, self.floor, self.ceiling)


@dataclass(frozen=True)
class MatchingRecord:
    """Figures of one way to match, with one filter; None where undefined (see `alignment_metrics`)."""

    agreement: float | None
    collision: float | None
    n: int
    predictability: float | None
    stability: float | None


@dataclass(frozen=True)
class BoundRecord:
    """The shared latents of a pair by one alignment method, between floor and ceiling.

    Attributes:
        method: its name.
        share: of the live latents of the narrower side, 0..1.
        floor: the same between sides that have nothing in common.
        ceiling: the same between two fits of one model.
        calibrated: 0 is the floor, 1 the ceiling; None where they do not part.
    """

    method: str
    share: float
    floor: float
    ceiling: float
    calibrated: float | None


@dataclass(frozen=True)
class AlignmentRecord:
    """Record of a pair of dictionaries: what they share.

    Attributes:
        source: one segmenter.
        target: the other.
        shared: share of live latents of the narrower side; None where weights cannot be compared.
        floor: see `PairFigures`.
        ceiling: see `PairFigures`.
        ceiling_other_seed: see `PairFigures`.
        calibrated: 0 is the floor, 1 the ceiling; None where they do not part.
        functional: correlation of codes.
        tau: cosine threshold; None, as all below, where weights cannot be compared.
        dead_source: latents left out as dead.
        dead_target: the same of the target.
        n_source: width.
        n_target: width of the target.
        methods: way to match -> filter -> figures.
        bounds: of every way to match, by weights and by codes.
        same_segmenter_start: both segmenters go back to the same weights.
        same_sae_seed: both dictionaries began at the same weights.
    """

    source: str
    target: str
    shared: float | None
    floor: float | None
    ceiling: float | None
    ceiling_other_seed: float | None
    calibrated: float | None
    functional: FunctionRecord
    tau: float | None = None
    dead_source: int | None = None
    dead_target: int | None = None
    n_source: int | None = None
    n_target: int | None = None
    methods: Mapping[str, Mapping[str, MatchingRecord]] | None = None
    bounds: tuple[BoundRecord, ...] | None = None
    same_segmenter_start: bool | None = None
    same_sae_seed: bool | None = None


@dataclass(frozen=True)
class UniversalRecord:
    """Latents shared in every pair of some segmenters.

    Attributes:
        n: how many.
        share: of the live latents of the narrowest side.
        pair_floors: smallest and largest floor of the pairs; None where none was measured.
        segmenters: that were compared.
    """

    n: int
    share: float
    pair_floors: tuple[float, float] | None
    segmenters: tuple[str, ...]
