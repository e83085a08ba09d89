"""How latents, operation and alpha are chosen, and what each way of choosing may look at.

``held_out`` sees masks of selection patients only. ``oracle`` takes, slice by slice, the best alpha by that slice's own
Dice (the paper, as far as it says): not a method that can be deployed.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.runtime.distributed import broadcast_from_main
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.scoring import Scores
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import LatentAtlas
from seglens.steering.attribution import associated_latents, latent_attribution
from seglens.steering.edits import Operation
from seglens.steering.searching import ChosenEdit, Objective, candidates_of, search
from seglens.steering.sweep import UNEDITED

ALPHAS: Mapping[str, tuple[float, ...]] = {
    "multiply": (-1.0, 0.0, 0.5, 1.5, 2.0, 3.0),
    "add": (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0),
}
"""In the dictionary's scaled units; beyond about -2..3 a segmentation is destroyed."""
N_LATENTS = (10, 60)


def choose_edit(
    lens: Lens,
    atlas: LatentAtlas,
    selection: SliceSet,
    *,
    target: str,
    n_latents: Sequence[int] = N_LATENTS,
    operations: Sequence[Operation] = ("multiply", "add"),
    alphas: Mapping[str, Sequence[float]] = ALPHAS,
    candidates: Sequence[int] | None = None,
    rankings: Sequence[tuple[str, Sequence[int]]] = (),
    gates: Sequence[int] = (),
    objective: Objective | None = None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> ChosenEdit:
    """Choose latents, operation and alpha for one class on labelled selection slices, and on nothing else.

    Latents are ranked by class association (with firing mass and lift demanded) and by signed causal effect (gradient x
    code on hits, false positives and false negatives). Every ranking's first n, with every alpha that goes the way its
    effect points, is scored on evenly spaced selection slices; the best ones on all of them. The winner has the highest
    ``objective``; where nothing beats the untouched network, the winner is an identity.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        atlas: of that dictionary.
        selection: slices of the target cohort's selection patients, with masks.
        target: name of the class.
        n_latents: how many latents to try together.
        operations: of ``multiply`` and ``add``.
        alphas: values of each operation.
        candidates: only these latents may be chosen; None for all.
        rankings: further ways of choosing latents, by name, best latent first (see `attributions`); tried with every
            alpha.
        gates: latents; the causal rankings are also tried only where each of them fires.
        objective: what an edit is chosen for; None: the pooled Dice of the class.
        batch_size: slices at once.
        progress: told while candidates are scored.

    Raises:
        ValueError: an unknown class or operation.
    """
    label = label_of(lens.segmenter, target)
    unknown = [operation for operation in operations if operation not in alphas]
    if unknown:
        raise ValueError(f"no alphas for {', '.join(unknown)}; give them, or choose among {', '.join(alphas)}")
    # gradients may differ in their last bits between GPUs: one process ranks the latents for all
    effects = broadcast_from_main(lambda: latent_attribution(lens, selection, target=label, batch_size=batch_size))
    allowed = set(range(lens.dictionary.n_latents) if candidates is None else candidates)
    return search(
        lens,
        selection,
        candidates_of(
            lens,
            effects,
            [("association", associated_latents(atlas, target)), *rankings],
            operations={operation: alphas[operation] for operation in operations},
            n_latents=n_latents,
            allowed=allowed,
            gates=gates,
        ),
        effects,
        objective=objective or (lambda scores: scores.pooled_by_edit(target)),
        operations=operations,
        batch_size=batch_size,
        progress=progress,
    )


def oracle_scores(scores: Scores, edits: Sequence[str], *, target: int | None, name: str = "oracle") -> Scores:
    """Of several edits the best on each slice, by the slice's own mask (see `oracle_choice`), as rows of their own.

    Args:
        scores: with all ``edits`` and ``none`` on the same slices.
        edits: names to choose among; ``none`` always belongs to them.
        target: label whose Dice is compared; None for the mean over the foreground classes in the slice's mask.
        name: what the new rows are called.
    """
    best = oracle_choice(scores, edits, target=target)
    chosen = scores.table.join(best, on=["row", "edit"], how="semi", maintain_order="left")
    return Scores(chosen.sort("row", "label").with_columns(pl.lit(name).alias("edit")))


def oracle_choice(scores: Scores, edits: Sequence[str], *, target: int | None) -> pl.DataFrame:
    """The edit with the highest Dice on each slice: columns row, edit; in the order of the rows.

    A tie goes to the edit with the fewest false-positive pixels (where a class is not in the mask every edit that
    predicts it has Dice 0), then to the untouched network, then to the edit that is listed first.
    """
    order = [UNEDITED, *(edit for edit in edits if edit != UNEDITED)]
    label = pl.col("label")
    wrong = (
        scores.table.filter(label > 0 if target is None else label == target)
        .group_by("edit", "row")
        .agg((pl.col("predicted") - pl.col("tp")).sum().alias("wrong"))
    )
    places = pl.DataFrame({"edit": order, "order": range(len(order))}, schema={"edit": pl.String, "order": pl.Int64})
    ranked = _slice_dice(scores, target).join(places, on="edit").join(wrong, on=["edit", "row"])
    best = ranked.sort(["row", "dice", "wrong", "order"], descending=[False, True, False, False])
    return best.unique("row", keep="first", maintain_order=True).select("row", "edit")


def _slice_dice(scores: Scores, target: int | None) -> pl.DataFrame:
    if target is None:
        return scores.slice_dice(convention="slice_present")
    return scores.slice_dice(scores.table.filter(pl.col("label") == target)["class"][0])


def label_of(segmenter: Segmenter, target: str) -> int:
    """The label of a foreground class.

    Raises:
        ValueError: no such class.
    """
    known = {name: label for label, name in segmenter.labels.items() if label != 0}
    if target not in known:
        raise ValueError(f"no class {target!r} to steer; this segmenter has {', '.join(known)}")
    return known[target]
