"""Attribution of a class to latents: by what they fire on, and by what they do to the class.

Class association alone picks weak latents (one may fire on edema and move nothing behind it), so it demands firing
mass and lift, and stands beside the signed causal effect: gradient x code, on errors and hits of the selection slices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from seglens.activations.cells import cell_shares
from seglens.activations.replay import Replay
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.decision import Decision
from seglens.segmenters.inference import each_batch
from seglens.segmenters.scoring import Scores
from seglens.semantics.atlas import LatentAtlas
from seglens.shapes import Images, Logits, Masks, TokenGrid, grid_of
from seglens.steering.edits import LatentEdit
from seglens.steering.sweep import UNEDITED, sweep

MIN_LIFT = 2.0
MIN_MASS_RATIO = 0.1
MIN_FIRING = 1e-4


@dataclass(frozen=True)
class LatentAttribution:
    """First-order effect of every latent on a class, per pixel of three regions, over the selection slices.

    ``scale[r][i]`` is the sum over tokens of code x gradient: how the class's log odds in region r rise when latent i
    is multiplied by 1 + epsilon. ``shift[r][i]`` is the sum of gradients along the latent's direction: the same for
    adding epsilon at every token. Both are divided by the region's pixels, and 0 where the region is empty.

    Attributes:
        scale: {"hit", "false_positive", "false_negative": [m]}.
        shift: likewise.
        pixels: {region: number of pixels}.
        firing: [m] share of tokens at which a latent fires on these slices.
        mass: [m] sum of its codes.
        within: {region: [m]} mean code over the tokens of a region, each token counted by the region's share of it.
        spread: [m] root mean square of the code over all tokens.
    """

    scale: dict[str, Float[Tensor, " m"]]
    shift: dict[str, Float[Tensor, " m"]]
    pixels: dict[str, int]
    firing: Float[Tensor, " m"]
    mass: Float[Tensor, " m"]
    within: dict[str, Float[Tensor, " m"]] = field(default_factory=dict)
    spread: Float[Tensor, " m"] = field(default_factory=lambda: torch.zeros(0))

    def repair(self, kind: str) -> Float[Tensor, " m"]:
        """Repair by scaling or shifting up each latent: false negatives gain log odds, false positives lose them.

        Each region counts with its share of the wrong pixels; with no wrong pixel at all the hits stand in.

        Args:
            kind: ``"scale"`` or ``"shift"``.
        """
        effects = self.scale if kind == "scale" else self.shift
        missed, invented = self.pixels["false_negative"], self.pixels["false_positive"]
        if missed + invented == 0:
            return effects["hit"]
        return (missed * effects["false_negative"] - invented * effects["false_positive"]) / (missed + invented)


REGIONS = ("hit", "false_positive", "false_negative")


def latent_attribution(
    lens: Lens,
    slices: SliceSet,
    *,
    target: int | None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> LatentAttribution:
    """Gradient x code of every latent: one backward pass from the logits to the hookpoint for each region.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        slices: selection slices with masks.
        target: label of the class or region; None for the whole foreground against background.
        batch_size: slices at once.
        progress: told after each batch.
    """
    replay = Replay(lens.segmenter, lens.hookpoint)
    dictionary, decision = lens.dictionary, lens.segmenter.decision

    def sums_of(rows: Sequence[int], images: Images) -> dict[str, Tensor]:
        replay.record(images)
        leaves: list[Tensor] = []

        def leaf(grid: TokenGrid) -> TokenGrid:
            leaves.append(grid.detach().clone().requires_grad_())
            return leaves[-1]

        with torch.enable_grad():
            logits = replay.logits(leaf)
            odds = decision.log_odds(logits, target)
        codes = dictionary.encode(leaves[0].detach().flatten(0, 3))
        token_rows, columns, values = codes.token_rows(), codes.latents.long(), codes.values.double()

        def over_tokens(weights: Tensor) -> Tensor:
            return torch.zeros(codes.n_latents, dtype=torch.float64, device=weights.device).index_add_(
                0, columns, weights
            )

        sums = {"fired": codes.firing_counts(), "mass": over_tokens(values), "squares": over_tokens(values**2)}
        sums["tokens"] = torch.tensor(codes.n)
        regions = _regions(decision, logits.detach(), slices.masks(rows).to(logits.device), target)
        for region, where in regions.items():
            sums[f"pixels {region}"] = where.sum()
            if not where.any():
                continue
            share = cell_shares(where.double(), grid_of(leaves[0])).flatten()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(odds[where].sum(), leaves[0], retain_graph=True)
            along = gradient.flatten(0, 3) @ dictionary.W_dec.T / dictionary.scale  # d odds / d code, [n m]
            sums[f"covered {region}"] = share.sum()
            sums[f"within {region}"] = over_tokens(share[token_rows] * values)
            sums[f"shift {region}"] = along.sum(0).double()
            sums[f"scale {region}"] = over_tokens((along[token_rows, columns] * codes.values).double())
        return {name: value.cpu() for name, value in sums.items()}

    totals: dict[str, Tensor] = {}
    for _, batch in each_batch(
        sums_of, lens.segmenter, slices, batch_size=batch_size, what="effects of latents", progress=progress
    ):
        for name, value in batch.items():
            totals[name] = totals[name] + value if name in totals else value
    pixels = {region: int(totals.get(f"pixels {region}", 0)) for region in REGIONS}
    n_tokens = max(1, int(totals.get("tokens", 0)))
    none = torch.zeros(dictionary.n_latents, dtype=torch.float64)

    def mean(kind: str, region: str, n: float | int) -> Float[Tensor, " m"]:
        return (totals.get(f"{kind} {region}", none) / (n or 1)).float()

    return LatentAttribution(
        {region: mean("scale", region, pixels[region]) for region in REGIONS},
        {region: mean("shift", region, pixels[region]) for region in REGIONS},
        pixels,
        totals.get("fired", none).float() / n_tokens,
        totals.get("mass", none).float(),
        {region: mean("within", region, float(totals.get(f"covered {region}", 0))) for region in REGIONS},
        (totals.get("squares", none) / n_tokens).sqrt().float(),
    )


def associated_latents(atlas: LatentAtlas, class_name: str) -> list[int]:
    """Live latents by association with a class (paper, section 7), strongest first.

    Only latents with lift >= 2 over the class's base rate and at least a tenth of the mean live latent's mass: without
    that the list is led by nearly dead ones.

    Raises:
        ValueError: the atlas does not know the class.
    """
    column, lift = f"p_{class_name}", f"lift_{class_name}"
    if column not in atlas.table.columns:
        known = [name[2:] for name in atlas.table.columns if name.startswith("p_") and not name.endswith("_top")]
        raise ValueError(f"no class {class_name!r} in the atlas; it has {', '.join(known)}")
    live = atlas.table.filter(~pl.col("dead") & (pl.col("mass") > 0))
    strong = live.filter((pl.col(lift) >= MIN_LIFT) & (pl.col("mass") >= MIN_MASS_RATIO * pl.col("mass").mean()))
    return strong.sort([column, "latent"], descending=[True, False])["latent"].to_list()


def causal_latents(effects: LatentAttribution, kind: str) -> tuple[list[int], list[int]]:
    """Latents whose strengthening repairs, and those whose weakening does, each by size of the effect.

    Args:
        effects: of the class on the selection slices.
        kind: ``"scale"`` for multiplying, ``"shift"`` for adding.
    """
    repair = torch.where(effects.firing >= MIN_FIRING, effects.repair(kind), 0.0)
    order = repair.abs().sort(descending=True, stable=True).indices
    order = order[repair[order] != 0]
    up = repair[order] > 0
    return order[up].tolist(), order[~up].tolist()


def contrast_latents(effects: LatentAttribution, region: str = "false_positive") -> list[int]:
    """Latents that fire more in a wrong region than where the class is rightly found, by their standardised difference.

    Args:
        effects: of the class on the selection slices.
        region: ``"false_positive"`` or ``"false_negative"``.
    """
    difference = (effects.within[region] - effects.within["hit"]) / effects.spread.clamp_min(1e-12)
    difference = torch.where(effects.firing >= MIN_FIRING, difference, 0.0)
    order = difference.sort(descending=True, stable=True).indices
    return order[difference[order] > 0].tolist()


def ablated_latents(
    lens: Lens,
    slices: SliceSet,
    latents: Sequence[int],
    *,
    objective: Callable[[Scores], Mapping[str, float]],
    batch_size: int = 16,
) -> tuple[list[int], list[int]]:
    """Ablate each latent alone and measure what becomes of the objective.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        slices: selection slices with masks.
        latents: each is ablated by itself.
        objective: from scores to one number an edit, larger is better.
        batch_size: slices at once.

    Returns:
        Latents whose loss costs most, and those whose loss gains most, each by size of the change.
    """
    edits = {str(latent): LatentEdit(lens.hookpoint, lens.dictionary_hash, (latent,), "zero") for latent in latents}
    values = objective(sweep(lens, slices, edits, batch_size=batch_size))
    gains = {latent: values[str(latent)] - values[UNEDITED] for latent in latents}
    useful = sorted((latent for latent in latents if gains[latent] < 0), key=lambda latent: (gains[latent], latent))
    harmful = sorted((latent for latent in latents if gains[latent] > 0), key=lambda latent: (-gains[latent], latent))
    return useful, harmful


def _regions(decision: Decision, logits: Logits, masks: Masks, target: int | None) -> dict[str, Tensor]:
    positive, true = decision.says(logits, target), decision.belongs(masks, target)
    return {"hit": positive & true, "false_positive": positive & ~true, "false_negative": ~positive & true}
