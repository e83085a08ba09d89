"""A twin that sees the same image but knows nothing of the classes shares the code and not what it does."""

import pytest
import torch
from tests.unit.diffing.planted_models import planted_models

from seglens.dictionaries.fit_settings import FitSettings
from seglens.diffing.crosscoder import fit_crosscoder
from seglens.diffing.crosscoder_effects import EffectAgreement, effect_agreement
from seglens.diffing.crosscoder_sharing import evaluate_crosscoder

WIDTH, CLASSES = 32, 3


@pytest.fixture(scope="module")
def twins():
    """Two models of the same image, in which all factors are the same: one code, nearly all of it shared."""
    stores, _, _ = planted_models({"a": WIDTH, "b": WIDTH}, shared=24, own=1)
    settings = FitSettings(k=3, expansion=2, steps=150, batch_size=1024)
    crosscoder = fit_crosscoder(stores, settings=settings)
    tokens = {name: store.tokens(torch.arange(1024)) for name, store in stores.items()}
    return crosscoder, stores, tokens


def of_factors(effects):
    """Gradients of a model whose classes depend on the common factors alone, by these weights [classes factors]."""

    def gradients(model_number):
        directions = torch.randn(25, WIDTH, generator=torch.Generator().manual_seed(100 + model_number))
        directions /= directions.norm(dim=1, keepdim=True)
        dual = torch.linalg.pinv(directions[:24]).T  # moves one factor alone
        return [(row @ dual).expand(1024, -1) for row in effects]

    return gradients


def test_the_untrained_twin_shares_the_code_and_not_the_effects(twins):
    crosscoder, stores, tokens = twins
    assert evaluate_crosscoder(crosscoder, stores).shared("mass") > 0.8
    learnt = of_factors(torch.randn(CLASSES, 24, generator=torch.Generator().manual_seed(1)))
    trained = effect_agreement(crosscoder, tokens, {"a": learnt(0), "b": learnt(1)}).signed
    untrained = [
        effect_agreement(
            crosscoder,
            tokens,
            {
                "a": learnt(0),
                "b": of_factors(torch.randn(CLASSES, 24, generator=torch.Generator().manual_seed(10 + seed)))(1),
            },
        ).signed
        for seed in range(5)
    ]
    assert trained > 0.5
    dealt = effect_agreement(crosscoder, tokens, {"a": learnt(0), "b": learnt(1)}).permuted
    assert abs(dealt) < trained / 2
    assert abs(sum(untrained) / 5) < 0.15 and max(map(abs, untrained)) < trained / 2


def test_it_equals_a_loop_over_tokens_latents_and_classes(twins):
    crosscoder, _, tokens = twins
    few = {name: values[:40] for name, values in tokens.items()}
    generator = torch.Generator().manual_seed(3)
    gradients = {name: [torch.randn(40, WIDTH, generator=generator) for _ in range(2)] for name in "ab"}
    z = crosscoder.encode(few).to_dense()
    effects = {name: [] for name in "ab"}
    for latent in z.any(0).nonzero()[:, 0].tolist():
        for token in z[:, latent].nonzero()[:, 0].tolist():
            whole = crosscoder.dictionary.W_dec[latent] / crosscoder.dictionary.scale
            for model in crosscoder.models:
                own = whole[crosscoder.columns(model.name)] @ torch.linalg.inv(model.whitening)
                effects[model.name] += [float(z[token, latent] * (own @ of[token])) for of in gradients[model.name]]
    one, other = (torch.tensor(effects[name], dtype=torch.float64) for name in "ab")
    expected = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
    found = effect_agreement(crosscoder, few, gradients)
    assert found.signed == pytest.approx(expected, abs=1e-4)
    sizes = float(torch.nn.functional.cosine_similarity(one.abs(), other.abs(), dim=0))
    assert found.places == pytest.approx(sizes, abs=1e-4)
    nothing = {"a": gradients["a"], "b": [torch.zeros(40, WIDTH)] * 2}
    assert effect_agreement(crosscoder, few, nothing) == EffectAgreement(*[None] * 5)


def test_gradients_that_lie_at_the_same_places_are_no_agreement_of_latents(twins):
    """One code and the same borders make places agree far above 0; with other latents' rows they agree as well."""
    crosscoder, _, tokens = twins
    border, gradients = torch.rand(1024, 1, generator=torch.Generator().manual_seed(5)) < 0.05, {}
    for number, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(number)
        gradients[name] = [(0.01 + border) * torch.randn(1024, WIDTH, generator=generator) for _ in range(CLASSES)]
    found = effect_agreement(crosscoder, tokens, gradients)
    assert found.places > 0.4 and abs(found.signed) < 0.2
    assert found.permuted_places == pytest.approx(found.places, abs=0.1)
    assert found.gradients > 0.9
