import itertools
import math

import pytest
import torch

from seglens.segmenters.decision import most_likely
from seglens.steering.baselines import (
    BIASES,
    ENTROPIES,
    component_filter,
    drop_class,
    entropy_filter,
    flip_logits,
    keep_components,
    logit_bias,
    mean_slice_foreground,
    normalised_entropy,
    pooled_counts,
    pooled_dice,
    predict_nothing,
    random_latents,
    slice_counts,
    target_dice,
    tune_rules,
)


def random_masks(seed, count=4, size=12, classes=3, depth=1):
    shape, generator = (count, depth, size, size), torch.Generator().manual_seed(seed)
    return torch.randint(0, classes, shape, generator=generator).to(torch.uint8)


def random_logits(seed, count=4, size=12, classes=3):
    return torch.randn(count, classes, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2


def flood(group):
    """Components by flood fill over all neighbours, corners too: a list of sets of pixels."""
    left = {tuple(pixel) for pixel in group.nonzero().tolist()}
    found = []
    while left:
        queue = [min(left)]
        left.remove(queue[0])
        component = set(queue)
        while queue:
            place = queue.pop()
            for step in itertools.product((-1, 0, 1), repeat=3):
                pixel = tuple(at + by for at, by in zip(place, step, strict=True))
                if pixel in left:
                    left.remove(pixel)
                    component.add(pixel)
                    queue.append(pixel)
        found.append(component)
    return sorted(found, key=min)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("scope", ["class", "foreground"])
@pytest.mark.parametrize("minimum", [None, 1, 4])
def test_components_equal_a_flood_fill(scope, minimum, depth):
    masks = random_masks(0, depth=depth) * (random_masks(1, depth=depth) == 0)
    masks *= random_masks(2, depth=depth) < 3 - (depth > 1)
    expected = masks.clone()
    for number, mask in enumerate(masks):
        groups = [mask > 0] if scope == "foreground" else [mask == label for label in (1, 2)]
        for group in groups:
            components = flood(group)
            largest = max(map(len, components))
            keep = next(part for part in components if len(part) == largest)
            for component in components:
                if (component is not keep) if minimum is None else (len(component) < minimum):
                    for place in component:
                        expected[number][place] = 0
    assert torch.equal(keep_components(masks, scope, minimum), expected)


def test_components_of_nothing():
    empty = torch.zeros(2, 1, 5, 5, dtype=torch.uint8)
    assert torch.equal(keep_components(empty, "class", None), empty)
    assert torch.equal(keep_components(empty, "foreground", None), empty)


def test_component_filter_works_on_the_most_likely_classes():
    logits = random_logits(0)
    assert torch.equal(
        component_filter("class", 3)(logits), keep_components(logits.argmax(1).to(torch.uint8), "class", 3)
    )


def test_entropy_of_certain_and_uniform_pixels():
    certain = torch.tensor([100.0, 0.0, 0.0]).view(1, 3, 1, 1, 1)
    assert float(normalised_entropy(certain)) == pytest.approx(0.0, abs=1e-6)
    assert float(normalised_entropy(torch.zeros(1, 3, 1, 1, 1))) == pytest.approx(1.0, abs=1e-6)


def test_the_entropy_filter_removes_uncertain_foreground_only():
    logits = random_logits(0)
    filtered, plain = entropy_filter(0.5)(logits), most_likely(logits)
    uncertain = normalised_entropy(logits) > 0.5
    assert bool((filtered[uncertain] == 0).all())
    assert torch.equal(filtered[~uncertain], plain[~uncertain])


def test_simple_rules():
    logits = random_logits(0)
    assert not bool((drop_class(1)(logits) == 1).any())
    others = most_likely(logits) != 1
    assert torch.equal(drop_class(1)(logits)[others], most_likely(logits)[others])
    assert int(predict_nothing(logits).max()) == 0
    assert torch.equal(logit_bias([0.0, 0.0, 1e6])(logits), torch.full_like(most_likely(logits), 2))
    assert torch.equal(logit_bias([0.0, 0.0, 0.0])(logits), most_likely(logits))


def test_mirror_augmentation_of_a_symmetric_slice_is_symmetric(segmenter):
    images = torch.randn(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = flip_logits(segmenter, images)
        mirrored = flip_logits(segmenter, images.flip(-1))
    assert torch.allclose(logits.flip(-1), mirrored, atol=1e-5)
    assert torch.allclose(logits.exp().sum(1), torch.ones(2, 1, 16, 16), atol=1e-5)


def test_pooled_counts_and_dice_equal_sets():
    predictions, masks = random_masks(0), random_masks(1)
    counts = pooled_counts(predictions, masks, 3)
    dices = []
    for label in range(3):
        said = {tuple(p) for p in (predictions == label).nonzero().tolist()}
        true = {tuple(p) for p in (masks == label).nonzero().tolist()}
        assert counts[label].tolist() == [len(said & true), len(said), len(true)]
        dices.append(2 * len(said & true) / (len(said) + len(true)))
        assert target_dice(counts, label) == pytest.approx(dices[-1])
    assert target_dice(counts, None) == pytest.approx((dices[1] + dices[2]) / 2)


def test_a_class_that_is_nowhere_has_no_dice():
    nothing = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    counts = pooled_counts(nothing, nothing, 3)
    assert math.isnan(target_dice(counts, 1))
    assert math.isnan(target_dice(counts, None))


def test_tuning_finds_a_planted_bias():
    logits = random_logits(0, size=24)
    masks = logit_bias([0.0, 1.0, -2.0])(logits)
    for target in (1, None):
        tuned = tune_rules(logits, masks, target=target)
        assert set(tuned) == {
            "ccf",
            "ccf_untuned",
            "uf",
            "logit_bias",
            "logit_bias_foreground" if target else "drop_class",
        }
        before = target_dice(pooled_counts(most_likely(logits), masks, 3), target)
        for name in ("ccf", "uf", "logit_bias"):
            assert tuned[name].dice >= before
        bias = tuned["logit_bias"]
        achieved = target_dice(pooled_counts(bias.rule(logits), masks, 3), target)
        assert achieved == pytest.approx(bias.dice)
        assert bias.dice > 0.97
        assert not bias.setting["at_bound"]
    assert tuned["logit_bias"].setting["bias"] == [0.0, 1.0, -2.0]


def test_a_bias_between_grid_points_and_beyond_them():
    logits = torch.randn(1, 2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    between = tune_rules(logits, logit_bias([0.0, 1.25])(logits), target=1)["logit_bias"]
    assert between.setting == {"bias": [0.0, 1.25], "at_bound": False}
    assert between.dice == 1.0
    far = tune_rules(logits * 20, logit_bias([0.0, 30.0])(logits * 20), target=1)["logit_bias"]
    assert far.setting == {"bias": [0.0, max(BIASES)], "at_bound": True}


def test_rules_are_tuned_on_the_objective_they_are_judged_by():
    # a large slice and a small one want opposite biases: pooled Dice follows the large, the mean the small
    logits = torch.zeros(3, 2, 1, 20, 20)
    logits[:, 1] = -5.0
    logits[0, 1, ..., :10] = -1.0
    logits[1:, 1, :, :2, :2] = 1.0
    logits[1:, 1, :, 4:9, 4:9] = -1.0
    masks = torch.zeros(3, 1, 20, 20, dtype=torch.uint8)
    masks[0, ..., :10] = 1
    masks[1:, :, :2, :2] = 1
    pooled = tune_rules(logits, masks, target=None)["logit_bias"]
    mean = tune_rules(logits, masks, target=None, objective=mean_slice_foreground)["logit_bias"]
    assert pooled.setting["bias"][1] > 0
    assert mean.setting["bias"] == [0.0, 0.0]
    assert mean.dice == pytest.approx(2 / 3)
    for rule in (pooled, mean):
        counts = slice_counts(rule.rule(logits), masks, 2)
        assert rule.dice == pytest.approx((mean_slice_foreground if rule is mean else pooled_dice(None))(counts))


def test_mean_slice_foreground_equals_loops():
    predictions, masks = random_masks(0), random_masks(1)
    masks[0][masks[0] == 2] = 0
    masks[1] = 0
    found = []
    for said, true in zip(predictions, masks, strict=True):
        present = [label for label in (1, 2) if (true == label).any()]
        dices = [
            float(2 * ((said == one) & (true == one)).sum() / ((said == one).sum() + (true == one).sum()))
            for one in present
        ]
        found += [sum(dices) / len(dices)] if dices else []
    assert mean_slice_foreground(slice_counts(predictions, masks, 3)) == pytest.approx(sum(found) / len(found))
    assert math.isnan(mean_slice_foreground(slice_counts(predictions[1:2], masks[1:2], 3)))


def test_tuning_is_the_best_of_the_grid():
    logits, masks = random_logits(0), random_masks(5)
    tuned = tune_rules(logits, masks, target=2)
    plain = target_dice(pooled_counts(most_likely(logits), masks, 3), 2)
    entropies = [target_dice(pooled_counts(entropy_filter(t)(logits), masks, 3), 2) for t in ENTROPIES]
    assert tuned["uf"].dice == pytest.approx(max([plain, *entropies]))
    assert target_dice(pooled_counts(tuned["uf"].rule(logits), masks, 3), 2) == pytest.approx(tuned["uf"].dice)
    assert target_dice(pooled_counts(tuned["ccf"].rule(logits), masks, 3), 2) == pytest.approx(tuned["ccf"].dice)


def test_tuning_may_choose_to_do_nothing_and_filters_when_they_help():
    logits = torch.zeros(1, 3, 1, 20, 20)
    logits[:, 0] = 5.0
    logits[0, 1, 0, 2:9, 2:9] = 20.0
    masks = most_likely(logits)
    perfect = tune_rules(logits, masks, target=1)
    assert perfect["ccf"].setting == {"kept": "all"}
    assert perfect["uf"].setting == {"threshold": None}
    assert perfect["logit_bias"].setting == {"bias": [0.0, 0.0, 0.0], "at_bound": False}
    speck = logits.clone()
    speck[0, 1, 0, 15, 15] = 5.5  # small and uncertain
    tuned = tune_rules(speck, masks, target=1)
    assert tuned["ccf"].dice == tuned["uf"].dice == 1.0
    assert tuned["ccf"].setting["scope"] == "foreground"


def test_random_latents_fire_about_as_often():
    rates = torch.rand(200, generator=torch.Generator().manual_seed(0)).pow(4)
    rates[:20] = 0
    latents = [30, 77, 150]
    draws = random_latents(rates, latents, draws=20, seed=3, neighbours=6)
    assert draws == random_latents(rates, latents, draws=20, seed=3, neighbours=6)
    assert draws != random_latents(rates, latents, draws=20, seed=4, neighbours=6)
    assert len(set(draws)) > 10
    allowed = [latent for latent in range(20, 200) if latent not in latents]
    near = {
        other
        for latent in latents
        for other in sorted(allowed, key=lambda o: abs(float(rates[o].log() - rates[latent].log())))[:8]
    }
    for drawn in draws:
        assert len(set(drawn)) == 3
        assert set(drawn) <= near


def test_random_latents_have_as_much_mass_where_it_is_known():
    """Half of the latents fire as often as the matched one, and with a hundredth of its mass."""
    rates = torch.full((60,), 0.1)
    masses = torch.ones(60)
    masses[::2] = 100.0
    drawn = random_latents(rates, [0, 2], draws=10, seed=0, masses=masses)
    assert all(latent % 2 == 0 for latents in drawn for latent in latents)
    by_rate = random_latents(rates, [0, 2], draws=10, seed=0)
    assert any(latent % 2 for latents in by_rate for latent in latents)


def test_the_untuned_filter_may_harm_and_the_tuned_one_may_not():
    """Two lesions in one slice: keeping the largest component loses the other."""
    masks = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    masks[..., 2:6, 2:6] = masks[..., 10:13, 10:13] = 1
    logits = torch.nn.functional.one_hot(masks.long(), 2).movedim(-1, 1).float()
    tuned = tune_rules(logits, masks, target=1)
    assert tuned["ccf"].dice == 1.0
    assert tuned["ccf_untuned"].setting == {"kept": "largest", "scope": "class"}
    assert tuned["ccf_untuned"].dice == pytest.approx(2 * 16 / (16 + 25))
    assert bool((tuned["ccf_untuned"].rule(logits)[..., 10:13, 10:13] == 0).all())


def test_too_few_latents_to_match():
    with pytest.raises(ValueError, match="only 1 others"):
        random_latents(torch.tensor([0.1, 0.2, 0.3, 0.0]), [0, 1], draws=1, seed=0)
