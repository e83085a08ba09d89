"""Latent edits and their baselines, all chosen on the same labelled patients of a target cohort.

Everything that a method is made of (latents, strength, loss, learning rate, penalty, bias, threshold) is chosen on
the selection slices. Fitted ones get equal steps and the same inner split, whatever they fit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch

from seglens.cohorts.slice_set import SliceSet, evenly_spaced
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.runtime.progress import Progress, silent
from seglens.segmenters.scoring import Scores
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import describe
from seglens.shapes import TokenGrid
from seglens.steering import adjustables
from seglens.steering.adaptation import tune_on
from seglens.steering.attribution import ablated_latents, contrast_latents, latent_attribution
from seglens.steering.baselines import drop_class, predict_nothing
from seglens.steering.edits import LatentEdit, change_of
from seglens.steering.fitted import (
    Adjustable,
    Choice,
    Labelled,
    choose_settings,
    fitted_intervention,
    inner_split,
)
from seglens.steering.interventions import (
    Intervention,
    change_intervention,
    evaluate_interventions,
    rule_intervention,
)
from seglens.steering.policies import choose_edit, label_of
from seglens.steering.test_time import has_norms, norm_affines

Side = Literal["edit", "baseline", "control", "ceiling"]
"""A latent edit; what it must beat; what tells where an edit's gain comes from; what few parameters hardly reach."""

STEPS = 40
ABLATED = 32
ABLATION_SLICES = 24
GATES = 2
LONGER = 3
NORM_RATES = (0.03, 0.01, 0.1)
FITTED_EDITS = ("latents", "latent_scales", "top_latents", "latents_last_hidden", "latents_two_depths")
FITTED_BASELINES = ("logit_affine", "channel_affine", "last_layer", "channels_and_layer", "norm_affines")
FITTED_CONTROLS = ("untrained_two_depths",)
FITTED_CEILINGS = ("whole_suffix",)
FITTED = (*FITTED_EDITS, *FITTED_BASELINES, *FITTED_CONTROLS, *FITTED_CEILINGS)
NEED_DEEP = ("latents_last_hidden", "latents_two_depths")
NEED_UNTRAINED = ("untrained_two_depths",)


@dataclass(frozen=True)
class Method:
    """A way of correcting, chosen.

    Attributes:
        name: of the way.
        side: see `Side`.
        interventions: one a seed; named as the way, those of further seeds with the seed.
        chosen: JSON-able: what was chosen.
    """

    name: str
    side: Side
    interventions: Sequence[Intervention]
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_parameters(self) -> int:
        """Numbers fitted or chosen."""
        return self.interventions[0].n_parameters


def side_of(name: str) -> Side:
    """The side of a fitted method."""
    sides: Mapping[Side, Sequence[str]] = {"edit": FITTED_EDITS, "control": FITTED_CONTROLS, "ceiling": FITTED_CEILINGS}
    return next((side for side, names in sides.items() if name in names), "baseline")


def fitted_methods(
    lens: Lens,
    selection: SliceSet,
    names: Sequence[str] = FITTED,
    *,
    target: str,
    deep: SparseAutoencoder | None = None,
    untrained: Sequence[SparseAutoencoder] = (),
    steps: int = STEPS,
    longer: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    progress: Progress = silent,
) -> list[Method]:
    """Fit on labelled slices: latents, and what they must beat.

    ``latents``: scale and offset of every latent. ``latent_scales``: scales only. ``top_latents``: scale and offset of
    the latents with the largest gradient x code on the class, as many numbers as the last layer has.
    ``latents_last_hidden``: scale and offset of every latent of ``deep``. ``latents_two_depths``: of every latent of
    ``lens`` and of ``deep``; ``untrained_two_depths``: of every row of ``untrained``, which tells what of a gain
    needs a fitted dictionary. ``logit_affine``, ``channel_affine``, ``last_layer``, ``channels_and_layer``: see
    `adjustables`. ``norm_affines``: weights and biases of all normalisation layers. ``whole_suffix``: every weight
    behind the hookpoint.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        selection: labelled slices of the target cohort; all that is looked at.
        names: which, of `FITTED`.
        target: the class whose gradient ranks ``top_latents``.
        deep: of a hookpoint behind that of ``lens``, such as `adjustables.LAST_HIDDEN`.
        untrained: dictionaries of the same two hookpoints as they are drawn, with their thresholds set.
        steps: of every fit.
        longer: names that are fitted once more with the chosen settings and `LONGER` times the steps, as controls.
        seeds: of the final fits; settings are chosen with the first.
        progress: told after each method.
    """
    known = possible(FITTED, lens.segmenter, deep=deep is not None, untrained=bool(untrained))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no fitted method {', '.join(unknown)}; with these dictionaries: {', '.join(known)}")
    dictionaries = Dictionaries(lens, deep, untrained)
    labelled = Labelled(lens.segmenter, selection)
    found = []
    for number, name in enumerate(names):
        adjustable = _adjustable(name, dictionaries, labelled.slices, target)
        choice = choose_settings(adjustable, labelled, steps=steps, seed=seeds[0])
        interventions = [
            fitted_intervention(
                adjustable, labelled, choice, seed=seed, name=name if not place else f"{name}, seed {seed}"
            )
            for place, seed in enumerate(seeds)
        ]
        found.append(Method(name, side_of(name), interventions, _described(choice)))
        if name in longer:
            more = replace(choice, settings=replace(choice.settings, steps=LONGER * steps))
            named = f"{name}, {LONGER * steps} steps"
            again = fitted_intervention(adjustable, labelled, more, seed=seeds[0], name=named)
            found.append(Method(named, "control", [again], _described(more)))
        progress(number + 1, len(names))
    return found


def constant_methods(
    lens: Lens,
    selection: SliceSet,
    *,
    target: str,
    specific: Sequence[int] = (),
    batch_size: int = 16,
) -> list[Method]:
    """A constant strength for some latents, the best of all ways of choosing them; and the rules at the output.

    What the rules and the whole-activation baselines are worth in the inner split, tuned on one part of it and judged
    on the other, is ``inner_dice`` in ``chosen``, as it is of fitted methods.

    Ways of choosing: class association, gradient x code, ablation one by one, contrast of false positives and of false
    negatives with hits, ``specific``; and gradient x code only where a latent fires that marks errors. The class ranks
    latents; the edit and the rules are chosen for the pooled Dice of the foreground, as the fitted ones are.

    Args:
        lens: a segmenter through the dictionary of one of its hookpoints.
        selection: labelled slices of the target cohort; all that is looked at.
        target: name of the class.
        specific: latents that diffing calls specific, best first.
        batch_size: slices at once.
    """
    label = label_of(lens.segmenter, target)
    edit, chosen_by = choose_constant(lens, selection, target=target, specific=specific, batch_size=batch_size)
    change = change_of(lens.dictionary, [edit])
    n_chosen = len(edit.latents) + 1 + (edit.gate is not None)
    found = [
        Method(
            "constant_edit",
            "edit",
            [
                change_intervention(
                    "constant_edit", lens.hookpoint, change, n_parameters=n_chosen, supervision="held_out"
                )
            ],
            {"edit": edit.description(), "chosen_by": chosen_by},
        )
    ]
    counts = {
        "ccf": 2,
        "ccf_untuned": 0,
        "uf": 1,
        "logit_bias": lens.segmenter.n_classes - 1,
    }  # the background keeps its logit

    def rules(slices: SliceSet) -> list[Method]:
        tuned = tune_on(lens.segmenter, slices, target=None, batch_size=batch_size)
        return [
            Method(
                name,
                "baseline",
                [rule_intervention(name, tuned[name].rule, n_parameters=count, supervision="held_out")],
                dict(tuned[name].setting),
            )
            for name, count in counts.items()
        ]

    def to_mean(grid: TokenGrid) -> TokenGrid:
        return lens.dictionary.centre.to(grid.dtype).expand_as(grid)

    plain = [
        change_intervention("mean_ablation", lens.hookpoint, to_mean, n_parameters=0, supervision="none"),
        rule_intervention("drop_class", drop_class(label), n_parameters=0, supervision="none"),
        rule_intervention("predict_nothing", predict_nothing, n_parameters=0, supervision="none"),
    ]
    untuned = [Method(baseline.name, "baseline", [baseline]) for baseline in plain]
    training, evaluated = inner_split(selection)
    inner = inner_dice([method.interventions[0] for method in (*rules(training), *untuned)], lens.segmenter, evaluated)
    baselines = [*rules(selection), *untuned]
    return [*found, *(replace(one, chosen={**one.chosen, "inner_dice": inner[one.name]}) for one in baselines)]


def inner_dice(interventions: Sequence[Intervention], segmenter: Segmenter, slices: SliceSet) -> dict[str, float]:
    """Pooled Dice of the foreground of interventions, and of the untouched network, by name.

    Args:
        interventions: that were chosen without these slices.
        segmenter: untouched.
        slices: of the patients that `inner_split` leaves to judge on.
    """
    return evaluate_interventions(interventions, segmenter, slices).pooled_by_edit()


def choose_constant(
    lens: Lens,
    selection: SliceSet,
    *,
    target: str,
    specific: Sequence[int] = (),
    batch_size: int = 16,
) -> tuple[LatentEdit, str]:
    """The best constant edit on the selection slices by foreground Dice, and how its latents were chosen."""
    label = label_of(lens.segmenter, target)
    effects = latent_attribution(lens, selection, target=label, batch_size=batch_size)
    strongest = effects.scale["hit"].abs() + effects.repair("scale").abs()
    leading = strongest.sort(descending=True, stable=True).indices[:ABLATED].tolist()

    def objective(scores: Any) -> dict[str, float]:
        return scores.pooled_by_edit(target)

    few = selection.select(evenly_spaced(len(selection), ABLATION_SLICES))
    useful, harmful = ablated_latents(lens, few, leading, objective=objective, batch_size=batch_size)
    invented, missed = (contrast_latents(effects, region) for region in ("false_positive", "false_negative"))
    chosen = choose_edit(
        lens,
        describe(lens, selection, top_k=1),
        selection,
        target=target,
        rankings=[
            ("ablation, useful", useful),
            ("ablation, harmful", harmful),
            ("contrast, false positives", invented),
            ("contrast, false negatives", missed),
            ("specific", list(specific)),
        ],
        gates=list(dict.fromkeys([*invented[:GATES], *missed[:GATES]])),
        objective=Scores.pooled_by_edit,
        batch_size=batch_size,
    )
    return chosen.edit, chosen.chosen_by(chosen.edit)


def possible(names: Sequence[str], segmenter: Segmenter, *, deep: bool, untrained: bool) -> list[str]:
    """Methods for which there are dictionaries, and layers in the network."""
    lacking = (() if deep else NEED_DEEP) + (() if untrained else NEED_UNTRAINED)
    lacking += () if has_norms(segmenter) else ("norm_affines",)
    return [name for name in names if name not in lacking]


class Dictionaries(NamedTuple):
    """Of one segmenter: at a hookpoint, behind it, and at both as they are drawn."""

    lens: Lens
    deep: SparseAutoencoder | None
    untrained: Sequence[SparseAutoencoder]

    @property
    def both(self) -> list[SparseAutoencoder]:
        """The fitted ones."""
        return [self.lens.dictionary] if self.deep is None else [self.lens.dictionary, self.deep]


def _adjustable(name: str, dictionaries: Dictionaries, slices: SliceSet, target: str) -> Adjustable:
    lens = dictionaries.lens
    segmenter, dictionary = lens.segmenter, lens.dictionary
    one = slices.images([0]).to(segmenter.device)
    makers: dict[str, Callable[[], Adjustable]] = {
        "latents": lambda: adjustables.latents([dictionary]),
        "latent_scales": lambda: adjustables.latents([dictionary], offsets=False, name=name),
        "top_latents": lambda: adjustables.latents(
            [dictionary],
            [_leading(lens, slices, target, adjustables.layer(segmenter, one))],
            name=name,
        ),
        "latents_last_hidden": lambda: adjustables.latents(dictionaries.both[1:], name=name),
        "latents_two_depths": lambda: adjustables.latents(dictionaries.both, name=name),
        "untrained_two_depths": lambda: adjustables.latents(dictionaries.untrained, name=name),
        "logit_affine": lambda: adjustables.logits(segmenter),
        "channel_affine": lambda: adjustables.channels(lens),
        "last_layer": lambda: adjustables.layer(segmenter, one),
        "channels_and_layer": lambda: adjustables.channels_and_layer(lens, one),
        "norm_affines": lambda: replace(norm_affines(segmenter, name), learning_rates=NORM_RATES),
        "whole_suffix": lambda: adjustables.suffix(segmenter, lens.hookpoint, one),
    }
    return makers[name]()


def _leading(lens: Lens, slices: SliceSet, target: str, like: Adjustable) -> list[int]:
    """Latents with the largest gradient x code; scale and offset of all of them are as many numbers as ``like`` has."""
    few = slices.select(evenly_spaced(len(slices), ABLATION_SLICES))
    effects = latent_attribution(lens, few, target=label_of(lens.segmenter, target))
    size = torch.stack([effect.abs() for effect in effects.scale.values()]).sum(0)
    return sorted(size.sort(descending=True, stable=True).indices[: max(1, like.n_parameters // 2)].tolist())


def _described(choice: Choice) -> dict[str, Any]:
    settings = choice.settings
    return {
        "loss": settings.loss,
        "learning_rate": settings.learning_rate,
        "penalty": settings.penalty,
        "steps": settings.steps,
        "fitted": choice.helps,
        "inner_dice": choice.best,
    }
