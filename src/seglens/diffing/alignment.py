"""Alignment: the correspondence between two dictionaries, with the bounds without which it says nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html import escape

import polars as pl

from seglens.artifacts import Artifact, Draft

_FIGURES = (
    "floor",
    "floor_untrained",
    "floor_noise",
    "ceiling",
    "ceiling_other_seed",
    "function",
    "functional",
    "functional_floor",
    "functional_ceiling",
)


@dataclass(frozen=True)
class Alignment:
    """One-to-one correspondence between the latents of two dictionaries.

    Attributes:
        source: name of the source.
        target: name of the target.
        pairs: columns source_latent, target_latent (Int32, the method's match: by the encoder), target_dec (Int32, the
            match by the decoder, null where there is none), similarity_enc, similarity_dec (cosines of the pair,
            Float32), shared (Boolean, in S).
        n_source: width of the source dictionary.
        n_target: width of the target dictionary.
        dead_source: source latents left out as dead or with a zero row.
        dead_target: the same of the target.
        tau: cosine threshold of S.
        method: "hungarian_dual", "greedy", "sinkhorn" or "encoder_only".
        unmatched_source: live source latents in no pair.
        unmatched_target: live target latents in no pair.
        floor: share that means nothing: same SAE seed, randomly rotated activations.
        floor_untrained: two untrained SAEs of one seed.
        floor_noise: an SAE of the same seed fitted to white noise.
        ceiling: same model and data, same SAE seed, other token order.
        ceiling_other_seed: same model and data, other SAE seed.
        function: mean code correlation of the shared pairs on common probe slices.
        functional: mean code correlation of pairs matched by function instead.
        functional_floor: ``functional`` on the null (tokens of other slices).
        functional_ceiling: ``functional`` of the same model and data, other SAE seed.
        notes: what the reader must know, such as same_segmenter_start and same_sae_seed.
    """

    source: str
    target: str
    pairs: pl.DataFrame
    n_source: int
    n_target: int
    dead_source: int
    dead_target: int
    tau: float
    method: str
    unmatched_source: tuple[int, ...] = ()
    unmatched_target: tuple[int, ...] = ()
    floor: float | None = None
    floor_untrained: float | None = None
    floor_noise: float | None = None
    ceiling: float | None = None
    ceiling_other_seed: float | None = None
    function: float | None = None
    functional: float | None = None
    functional_floor: float | None = None
    functional_ceiling: float | None = None
    notes: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)

    @property
    def n_comparable(self) -> int:
        """Pairs that could be shared at most: the live latents of the narrower side."""
        return min(self.n_source - self.dead_source, self.n_target - self.dead_target)

    @property
    def shared(self) -> pl.DataFrame:
        """The pairs in S."""
        return self.pairs.filter(pl.col("shared"))

    @property
    def shared_share(self) -> float:
        """|S| over the live latents of the narrower side, 0..1 (0 where nothing is alive)."""
        return self.shared.height / self.n_comparable if self.n_comparable else 0.0

    @property
    def calibrated(self) -> float | None:
        """S* of this alignment; None while the floor or the ceiling is missing, or where they do not part."""
        return calibrated_share(self.shared_share, self.floor, self.ceiling)

    def _repr_html_(self) -> str:
        figures = ("floor", "shared_share", "ceiling", "calibrated", "function", "functional_floor", "functional")
        table = pl.DataFrame({"figure": figures, "value": [getattr(self, name) for name in figures]})
        title = f"Alignment of {self.source} and {self.target} by {self.method}, tau {self.tau:g}"
        return escape(title) + table._repr_html_()

    def with_figures(self, **figures: float | None) -> "Alignment":
        """A copy with floors, ceilings or functional figures filled in.

        Raises:
            ValueError: a figure that an Alignment does not hold.
        """
        unknown = sorted(set(figures) - set(_FIGURES))
        if unknown:
            raise ValueError(f"unknown figures {', '.join(unknown)}; an alignment holds {', '.join(_FIGURES)}")
        return replace(self, **figures)  # type: ignore[arg-type]

    def with_notes(self, notes: Mapping[str, bool | int | float | str | None]) -> "Alignment":
        """A copy with more notes."""
        return replace(self, notes={**self.notes, **notes})

    def write(self, draft: Draft) -> None:
        """Write into an artifact of kind ``"alignment"``."""
        draft.save_table("pairs", self.pairs)
        plain = ("source", "target", "n_source", "n_target", "dead_source", "dead_target", "tau", "method", *_FIGURES)
        document = {name: getattr(self, name) for name in plain}
        document["unmatched_source"] = list(self.unmatched_source)
        document["unmatched_target"] = list(self.unmatched_target)
        document["notes"] = dict(self.notes)
        draft.save_document("alignment", document)

    @classmethod
    def read(cls, artifact: Artifact) -> "Alignment":
        """Read what ``write`` wrote."""
        document = artifact.document("alignment")
        for name in ("unmatched_source", "unmatched_target"):
            document[name] = tuple(document[name])
        return cls(pairs=artifact.table("pairs"), **document)


def calibrated_share(raw: float, floor: float | None, ceiling: float | None) -> float | None:
    """S* = (S - floor) / (ceiling - floor): 0 is what chance and a common seed give, 1 what one model gives twice.

    Args:
        raw: shared share, 0..1.
        floor: the share of the null.
        ceiling: the share of the same model and data.

    Returns:
        S*, not clipped (below 0: less than the null); None where a bound is missing or the ceiling does not exceed the
        floor by at least 0.01, for then the share says nothing.
    """
    if floor is None or ceiling is None or ceiling - floor < 0.01:
        return None
    return (raw - floor) / (ceiling - floor)
