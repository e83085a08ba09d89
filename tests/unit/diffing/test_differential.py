import numpy as np
import pytest
import torch

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.differential import (
    Responses,
    auroc,
    calibrated_threshold,
    called_in_words,
    differential_latents,
    false_discoveries,
    function_scores,
    patient_responses,
    response_to_factor,
    specific_below,
    weight_scores,
)
from seglens.diffing.functional import functional_alignment
from seglens.diffing.rank_test import strata_of
from seglens.diffing.sharing import align

PATIENTS, LATENTS = 24, 40


def _responses(seed: int, *, shifted: int | None = None, by: float = 0.0, region: int = 1) -> Responses:
    """Log-normal responses in two regions; one latent is stronger in one of them."""
    values = np.exp(np.random.default_rng(seed).normal(size=(PATIENTS, 2, LATENTS)))
    if shifted is not None:
        values[:, region, shifted] *= np.exp(by)
    return Responses(tuple(f"p{number}" for number in range(PATIENTS)), ("rest", "lesion"), values)


def test_responses_are_the_means_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(30, 5, generator=generator) * (torch.rand(30, 5, generator=generator) < 0.4)
    patients = torch.arange(30) % 3
    inside = torch.arange(30) < 12
    found = patient_responses(Codes.from_dense(dense), patients, {"in": inside, "out": ~inside}, ["a", "b", "c"])
    for patient in range(3):
        for number, region in enumerate((inside, ~inside)):
            tokens = [token for token in range(30) if patients[token] == patient and region[token]]
            wanted = sum(dense[token].double() for token in tokens) / len(tokens)
            np.testing.assert_allclose(found.values[patient, number], wanted, rtol=1e-6)


def test_a_patient_without_the_region_is_named() -> None:
    codes = Codes.from_dense(torch.ones(4, 2))
    lesion = torch.tensor([True, True, False, False])
    with pytest.raises(ValueError, match="'lesion' in second"):
        patient_responses(codes, torch.tensor([0, 0, 1, 1]), {"lesion": lesion}, ["first", "second"])


def test_auroc_is_the_share_of_pairs_that_are_in_order() -> None:
    generator = np.random.default_rng(1)
    off, on = generator.integers(0, 5, (7, 3)).astype(float), generator.integers(1, 6, (9, 3)).astype(float)
    for column in range(3):
        pairs = [(a, b) for a in off[:, column] for b in on[:, column]]
        wanted = sum(1.0 if b > a else 0.5 if b == a else 0.0 for a, b in pairs) / len(pairs)
        assert auroc(off, on)[column] == pytest.approx(wanted)


def test_the_planted_latent_is_found_in_its_region_and_no_other() -> None:
    table = differential_latents(_responses(0), _responses(1, shifted=7, by=2.0))
    found = table.filter("differential")
    assert found["latent"].to_list() == [7]
    assert found["region"].to_list() == ["lesion"]
    assert found["auroc"].item() > 0.8


def test_a_latent_that_falls_is_found_too() -> None:
    found = differential_latents(_responses(0), _responses(1, shifted=3, by=-2.0)).filter("differential")
    assert found["latent"].to_list() == [3]
    assert found["auroc"].item() < 0.2


def test_a_small_effect_is_not_called_however_sure_it_is() -> None:
    off, on = _responses(0), _responses(1, shifted=7, by=2.0)
    assert differential_latents(off, on, minimum_auroc=0.99).filter("differential").height == 0


def test_equal_populations_give_no_discovery_in_95_of_100_splits() -> None:
    pool = Responses.pooled([_responses(2), _responses(3)])
    table = false_discoveries(pool, splits=60, seed=0, minimum_auroc=0.5)
    assert (table["called"] > 0).mean() <= 0.05
    assert table["testable"].unique().to_list() == [LATENTS]


def test_what_hardly_fires_is_not_tested() -> None:
    off, on = _responses(0), _responses(1)
    for side in (off, on):
        side.values[2:, :, 5] = 0
    assert 5 not in differential_latents(off, on)["latent"].to_list()


def test_constant_responses_have_no_difference() -> None:
    same = Responses(("a", "b"), ("all",), np.ones((2, 1, 3)))
    table = differential_latents(same, same)
    assert table["p"].to_list() == [1.0] * 3
    assert not table["differential"].any()


def test_a_planted_latent_answers_in_every_held_out_patient_and_a_null_one_in_half() -> None:
    discovery = _responses(0), _responses(1, shifted=7, by=3.0)
    off = _responses(5)
    on = Responses(off.patients, off.regions, off.values.copy())
    on.values[:, 1, 7] *= 4
    planted = response_to_factor([7], discovery=discovery, held_out=(off, on))
    assert planted.within == 1.0
    assert planted.between == pytest.approx(auroc(off.values[:, 1, 7], on.values[:, 1, 7]).item())
    assert planted.together == pytest.approx(planted.between)
    null = response_to_factor([4], discovery=discovery, held_out=(off, on))
    assert (null.within, null.between, null.together) == (0.5, 0.5, 0.5)
    both = response_to_factor([4, 7], discovery=discovery, held_out=(off, on))
    assert both.within == pytest.approx(0.75)


def test_the_direction_is_that_of_the_discovery_patients() -> None:
    off = _responses(5)
    on = Responses(off.patients, off.regions, off.values * 2)
    falling = _responses(0), _responses(1, shifted=7, by=-5.0)
    assert response_to_factor([7], discovery=falling, held_out=(off, on)).within == 0.0


def test_nothing_called_is_chance() -> None:
    pair = _responses(0), _responses(0)
    assert response_to_factor([], discovery=pair, held_out=pair).within == 0.5


def test_held_out_patients_must_be_paired() -> None:
    off = _responses(0)
    with pytest.raises(ValueError, match="must be the same"):
        response_to_factor([1], discovery=(off, off), held_out=(off, off.of(off.patients[::-1])))


def test_latents_of_two_dictionaries_stand_side_by_side() -> None:
    one, two = _responses(0), _responses(1)
    both = one.beside(two)
    np.testing.assert_array_equal(both.values[:, :, LATENTS:], two.values)
    with pytest.raises(ValueError, match="same patients"):
        one.beside(two.of(two.patients[:3]))


def test_weight_scores_call_what_align_does_not_share() -> None:
    source, target = SparseAutoencoder(16, 32, k=4, seed=0), SparseAutoencoder(16, 32, k=4, seed=0)
    replaced = SparseAutoencoder(16, 32, k=4, seed=1)
    for latent in (3, 9):
        target.W_enc[:, latent] = replaced.W_enc[:, latent]
        target.W_dec[latent] = replaced.W_dec[latent]
    alive = torch.arange(32) != 5
    alignment = align(source, target, alive_source=alive, alive_target=alive)
    for scores in weight_scores(alignment):
        assert specific_below(scores, 0.8) == [3, 9]
        assert np.flatnonzero(np.isnan(scores)).tolist() == [5]


def test_function_scores_find_the_latent_that_fires_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(200, 6, generator=generator) * (torch.rand(200, 6, generator=generator) < 0.5)
    other = dense.clone()
    other[:, 2] = dense[torch.randperm(200, generator=generator), 2]
    other[:, 5] = 0
    functional = functional_alignment(Codes.from_dense(dense), Codes.from_dense(other))
    source, target = function_scores(functional, torch.ones(6, dtype=torch.bool), torch.arange(6) < 5)
    assert specific_below(source, 0.5) == [2, 5]
    assert specific_below(target, 0.5) == [2]


def test_a_calibrated_threshold_leaves_the_wanted_share_below() -> None:
    scores = np.append(np.linspace(0, 1, 101), np.nan).astype(np.float32)
    assert len(specific_below(scores, calibrated_threshold(scores, 0.05))) == 5


def _few(generator: np.random.Generator, patients: int, latents: int = 200) -> Responses:
    values = np.exp(generator.normal(size=(patients, 1, latents)))
    return Responses(tuple(f"p{number}" for number in range(patients)), ("lesion",), values)


def test_eight_patients_against_eight_are_enough_for_an_exact_p() -> None:
    """Complete separation among 200 tests: the normal p is 9.4e-4 and calls nothing, the exact one is 1.6e-4."""
    generator = np.random.default_rng(0)
    off, on = _few(generator, 8), _few(generator, 8)
    on.values[:, 0, 7] += off.values[:, 0, 7].max()
    table = differential_latents(off, on)
    assert table.filter("differential")["latent"].to_list() == [7]
    assert table.filter(latent=7)["p"].item() == pytest.approx(2 / 12870)
    from scipy.stats import false_discovery_control, mannwhitneyu

    old = mannwhitneyu(off.values[:, 0], on.values[:, 0], axis=0, method="asymptotic").pvalue
    assert false_discovery_control(old).min() > 0.05


def test_what_could_not_have_been_called_is_told_from_what_was_not() -> None:
    generator = np.random.default_rng(0)
    six = differential_latents(_few(generator, 6), _few(generator, 6))
    assert six["least_auroc"].null_count() == 200
    assert called_in_words(six).startswith("none of 200 latents could have been called")
    twelve = differential_latents(_few(generator, 12), _few(generator, 12))
    assert not twelve["differential"].any()
    assert 0.85 < twelve["least_auroc"].unique().item() < 1
    words = called_in_words(twelve)
    assert words.startswith("nothing called of 200 latents; the least effect") and "AUROC 0." in words


def test_a_confounder_is_not_called_within_its_strata() -> None:
    """The second group has larger lesions, and three latents answer to size and not to the group."""
    generator = np.random.default_rng(0)
    sizes = [np.concatenate([np.zeros(n), np.ones(20 - n)]) + 0.1 * generator.random(20) for n in (16, 4)]
    off, on = (_few(generator, 20, 30) for _ in range(2))
    for side, size in zip((off, on), sizes, strict=True):
        side.values[:, 0, :3] *= np.exp(4 * np.round(size))[:, None]
    on.values[:, 0, 9] *= np.exp(3)  # answers to the group
    called = differential_latents(off, on).filter("differential")["latent"].to_list()
    assert 9 in called
    assert len({0, 1, 2}.intersection(called)) >= 2
    strata = strata_of({"lesion size": (sizes[0].tolist(), sizes[1].tolist())}, bins=2)
    within = differential_latents(off, on, strata=strata).filter("differential")["latent"].to_list()
    assert within == [9]
