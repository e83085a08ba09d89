import polars as pl
import pytest
import torch

from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.decision import most_likely
from seglens.segmenters.scoring import Truth
from seglens.steering.edits import change_of
from seglens.steering.interventions import CachedBatch, Intervention, change_intervention, evaluate_interventions
from seglens.steering.label_free import (
    CRITERIA,
    LatentMatch,
    UnlabelledEvidence,
    by_composition,
    by_guarded_entropy,
    by_shares,
    calibrated_temperature,
    evidence_of,
    halves,
    match_latents,
    picked,
    proxy_validate,
    sample_tokens,
)


def identity_dictionary(width=6):
    """Latent i reads and writes channel i."""
    dictionary = SparseAutoencoder(width, width, k=2, hookpoint="here")
    dictionary.W_enc.data.copy_(torch.eye(width))
    dictionary.W_dec.data.copy_(torch.eye(width))
    return dictionary


def garbled(slices):
    """The same images with masks of chance."""
    masks = torch.randint(0, 3, slices.masks().shape, generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    index = slices.index.drop("row", "origin")
    return SliceSet.from_tensors(
        slices.images(), masks, slices.brains(), index, name=slices.name, sequences=slices.sequences,
        labels=slices.labels,
    )  # fmt: skip


@pytest.fixture
def edits(dictionary, make_edit):
    """The untouched prediction for latent 3 doubled, halved, ..."""
    values = (0.25, 0.5, 2.0, 4.0)
    return [
        change_intervention(
            f"x{value:g}",
            "here",
            change_of(dictionary, [make_edit(dictionary, (3,), "multiply", value)]),
            n_parameters=1,
            supervision="none",
        )
        for value in values
    ]


@pytest.mark.parametrize(("kind", "planted"), [("factor", 0.5), ("shift", -0.3)])
def test_a_planted_shift_of_one_latent_is_undone(kind, planted):
    dictionary = identity_dictionary()
    source = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    target = source.clone()
    if kind == "factor":
        target[:, 2] *= planted
    else:
        target[:, 2] += planted
    match = match_latents(dictionary, target, source, prior_tokens=0.0)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(match.shift[others], torch.zeros(5))
    assert torch.allclose(match.factor[others], torch.ones(5))
    shift, factor = (0.0, 1 / planted) if kind == "factor" else (-planted, 1.0)
    assert float(match.shift[2]) == pytest.approx(shift, abs=2e-3)
    assert float(match.factor[2]) == pytest.approx(factor, rel=5e-3)


def test_matched_codes_have_the_rate_and_the_mean_of_the_source(segmenter, dictionary, evaluation):
    tokens = sample_tokens(Lens(segmenter, dictionary), evaluation)
    source = tokens * 1.3 - 0.1
    match = match_latents(dictionary, tokens, source, prior_tokens=0.0)
    own = dictionary.pre_activations(tokens) + match.shift
    codes = torch.where(own > dictionary.theta, own * match.factor, 0.0)
    wanted = dictionary.pre_activations(source)
    wanted = torch.where(wanted > dictionary.theta, wanted, 0.0)
    often = (codes > 0).sum(0) > 50
    assert int(often.sum()) > 5
    within = (match.factor > 0.25) & (match.factor < 4) & often
    assert torch.allclose((codes > 0).double().mean(0)[often], (wanted > 0).double().mean(0)[often], atol=1e-3)
    assert torch.allclose(codes.mean(0)[within], wanted.mean(0)[within], rtol=0.02)


def test_a_match_makes_the_edited_activation_that_of_the_source(segmenter):
    dictionary = identity_dictionary(8)
    source = torch.rand(2000, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    target = source.clone()
    target[:, 4] *= 2
    match = match_latents(dictionary, target, source, prior_tokens=0.0)
    intervention = match.intervention(dictionary)
    images = torch.randn(2, 2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    batch = CachedBatch(segmenter, images)
    changes = []
    batch.changed = lambda hookpoint, change: changes.append(change)
    intervention.predict(batch)
    grid = target[:32].view(2, 2, 2, 4, 8)
    assert torch.allclose(changes[0](grid).reshape(-1, 8), source[:32], atol=1e-3)


def test_few_tokens_move_a_latent_less_and_strength_zero_not_at_all(segmenter, dictionary, evaluation):
    tokens = sample_tokens(Lens(segmenter, dictionary), evaluation)
    full = match_latents(dictionary, tokens, tokens * 1.5, prior_tokens=0.0)
    shrunk = match_latents(dictionary, tokens, tokens * 1.5, prior_tokens=1e9)
    assert float((full.factor - 1).abs().max()) > 0.1
    assert torch.allclose(shrunk.factor, torch.ones(24), atol=1e-3)
    images = evaluation.images([0, 1])
    untouched = segmenter.logits(images)
    assert torch.allclose(full.intervention(dictionary, strength=0).logits(segmenter, images), untouched, atol=1e-5)
    assert not torch.allclose(full.intervention(dictionary).logits(segmenter, images), untouched, atol=1e-2)


def test_a_latent_that_never_fires_is_left_alone():
    dictionary = identity_dictionary()
    source = torch.rand(100, 6, generator=torch.Generator().manual_seed(0))
    target = source.clone()
    target[:, 1] = -1
    match = match_latents(dictionary, target, source)
    assert match.shift[1] == 0
    assert match.factor[1] == 1


def test_evidence_counts_what_a_loop_counts(segmenter, evaluation, edits):
    found = evidence_of(edits, segmenter, evaluation, batch_size=7)
    images = evaluation.images()
    said = most_likely(edits[2].logits(segmenter, images))
    again = most_likely(edits[2].logits(segmenter, images.flip(-1))).flip(-1)
    p = edits[2].logits(segmenter, images).softmax(1)
    evidence = found["x2"]
    for label in range(3):
        own = said == label
        assert float(evidence.shares[label]) == pytest.approx(float(own.double().mean()))
        both = (own & (again == label)).sum() * 2 / (own.sum() + (again == label).sum())
        assert float(evidence.agreement[label]) == pytest.approx(float(both))
        expected = 2 * p[:, label][own].sum() / (p[:, label].sum() + own.sum())
        assert float(evidence.expected_dice[label]) == pytest.approx(float(expected), rel=1e-5)
    assert list(found) == ["none", "x0.25", "x0.5", "x2", "x4"]


def test_class_shares_and_composition_find_the_planted_factor(segmenter, evaluation, edits):
    """The masks of this world are what latent 3 three times as strong would give, its shares so those of the source."""
    truth = Truth.of(evaluation.masks(), evaluation.labels)
    shares = truth.counts(evaluation.masks()).sum(0)[:, 2].double()
    source = UnlabelledEvidence(shares / shares.sum(), torch.ones(3), torch.ones(3), 0.0)
    found = evidence_of(edits, segmenter, evaluation)
    assert picked(by_shares(found, source)) in {"x2", "x4"}
    doubled = found["x2"]
    assert picked(by_shares(found, doubled)) == "x2"
    assert picked(by_composition(found, doubled)) == "x2"


def test_the_composition_of_a_lesion_does_not_depend_on_its_size():
    def evidence(*shares):
        return UnlabelledEvidence(torch.tensor(shares, dtype=torch.float64), torch.zeros(3), torch.zeros(3), 0.0)

    found = {"none": evidence(0.9, 0.09, 0.01), "half": evidence(0.97, 0.02, 0.01), "same": evidence(0.8, 0.05, 0.15)}
    assert picked(by_composition(found, evidence(0.6, 0.1, 0.3))) == "same"
    assert picked(by_shares(found, evidence(0.97, 0.02, 0.01))) == "half"


def test_the_guard_keeps_entropy_from_predicting_nothing():
    def evidence(entropy, *shares):
        return UnlabelledEvidence(torch.tensor(shares, dtype=torch.float64), torch.zeros(3), torch.zeros(3), entropy)

    found = {
        "none": evidence(0.3, 0.9, 0.05, 0.05),
        "nothing": evidence(0.0, 1.0, 0.0, 0.0),
        "better": evidence(0.2, 0.9, 0.06, 0.04),
    }
    assert picked(CRITERIA["entropy"](found, found["none"])) == "nothing"
    assert picked(by_guarded_entropy(found, found["none"])) == "better"


def test_of_equal_candidates_the_untouched_network_is_picked():
    assert picked({"a": 1.0, "none": 1.0, "b": 1.0}) == "none"
    assert picked({"none": 0.0, "a": 1.0, "b": 1.0}) == "a"


def test_masks_of_the_target_change_nothing(segmenter, dictionary, evaluation, edits):
    other = garbled(evaluation)
    source = evidence_of([], segmenter, evaluation)["none"]
    found = [evidence_of(edits, segmenter, slices) for slices in (evaluation, other)]
    for criterion in CRITERIA.values():
        assert criterion(found[0], source) == criterion(found[1], source)
    tokens = [sample_tokens(Lens(segmenter, dictionary), slices) for slices in (evaluation, other)]
    assert torch.equal(*tokens)


def test_a_rehearsal_makes_from_one_half_and_judges_on_the_other(segmenter, evaluation, edits):
    given = []

    def make(slices):
        given.append(slices)
        return edits[2]

    values = proxy_validate({"doubled": make}, segmenter, evaluation)
    first, second = halves(evaluation)
    assert given[0].hash == first.hash
    assert not set(first.index["patient"]) & set(second.index["patient"])
    assert len(first) + len(second) == len(evaluation)
    scores = evaluate_interventions([edits[2]], segmenter, second)
    assert values == {
        "none": scores.summary("none").dice_pooled["foreground"],
        "doubled": scores.summary("x2").dice_pooled["foreground"],
    }


def test_one_patient_has_no_halves(evaluation):
    first = evaluation.index["patient"][0]
    rows = evaluation.index.filter(pl.col("patient") == first)["row"].to_list()
    with pytest.raises(ValueError, match="two halves need at least 2"):
        halves(evaluation.select(rows))


def test_a_network_sure_of_its_own_masks_needs_no_temperature(segmenter, evaluation):
    sharp = type(segmenter).wrap(
        torch.nn.Sequential(segmenter.network, Times(1000.0)),
        sequences=segmenter.sequences,
        labels=segmenter.labels,
        hookpoints={},
        size=16,
    )
    index = evaluation.index.drop("row", "origin")
    own = SliceSet.from_tensors(
        evaluation.images(), sharp.predict(evaluation.images()), evaluation.brains(), index, name="own",
        sequences=segmenter.sequences, labels=segmenter.labels,
    )  # fmt: skip
    assert calibrated_temperature(sharp, own) == 1.0
    assert calibrated_temperature(sharp, garbled(own)) == 4.0


class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_a_match_counts_its_numbers(dictionary):
    match = LatentMatch(torch.zeros(24), torch.ones(24))
    intervention = match.intervention(dictionary, strength=0.5)
    assert isinstance(intervention, Intervention)
    assert (intervention.name, intervention.n_parameters, intervention.supervision) == (
        "match latents 0.5",
        48,
        "label_free",
    )
