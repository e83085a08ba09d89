import pytest
import torch

from seglens.activations.store import ActivationStore
from seglens.dictionaries.batch_topk import batch_topk
from seglens.dictionaries.fitting import FitSettings, fit_dictionary
from seglens.dictionaries.gradients import Weights, backward
from seglens.dictionaries.matryoshka import PrefixErrors, halved_prefixes, prefix_quality

SIZES = (3, 8)


def _weights(m: int, d: int, seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(m, d), (m,), (m, d), (d,)]
    return Weights(*(torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3 for shape in shapes))


def _dense_loss(x: torch.Tensor, weights: Weights, k: int) -> torch.Tensor:
    """Loops over prefixes, everything dense, gradients by autograd."""
    pre = (x - weights.b_dec) @ weights.encoder.T + weights.b_enc
    active = batch_topk(pre.detach(), k).to_dense() > 0
    z = pre * active
    errors = [z[:, :size] @ weights.decoder[:size] + weights.b_dec - x for size in (*SIZES, len(weights.encoder))]
    return sum(error.square().sum() for error in errors) / len(errors) / x.numel()


def test_gradients_are_those_of_autograd_over_all_prefixes() -> None:
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = Weights(*(part.requires_grad_() for part in _weights(12, 5)))
    _dense_loss(x, weights, k=4).backward()
    plain = Weights(*(part.detach() for part in weights))
    codes = batch_topk((x - plain.b_dec) @ plain.encoder.T + plain.b_enc, 4)
    found = backward(x, plain, codes, through=PrefixErrors(SIZES))
    for name, own, wanted in zip(Weights._fields, found.gradients, weights, strict=True):
        torch.testing.assert_close(own, wanted.grad, msg=name)
    whole = codes.to_dense() @ plain.decoder + plain.b_dec - x
    assert found.loss == pytest.approx(float(whole.square().mean()))


def test_a_prefix_as_large_as_the_dictionary_is_refused() -> None:
    x = torch.ones(2, 5, dtype=torch.float64)
    codes = batch_topk(torch.ones(2, 12, dtype=torch.float64), 2)
    with pytest.raises(ValueError, match="each must be below 12"):
        backward(x, _weights(12, 5), codes, through=PrefixErrors((3, 12)))


def test_prefixes_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="prefixes is"):
        FitSettings(prefixes=(4, 4))


def test_halves_of_a_width() -> None:
    assert halved_prefixes(64, levels=3) == (8, 16, 32)
    assert halved_prefixes(4, levels=4) == (1, 2)


def test_the_first_latents_of_a_matryoshka_dictionary_explain_more_than_those_of_a_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(24, 12, generator=generator)
    active = (torch.rand(40, 5, 5, 24, generator=generator) < 0.1).float()
    store = ActivationStore.from_grids(active @ sources, hookpoint="here", segmenter_hash="a", slices_hash="b")
    plain = FitSettings(k=3, expansion=4, steps=120, batch_size=256, learning_rate=2e-3)
    nested = FitSettings(k=3, expansion=4, steps=120, batch_size=256, learning_rate=2e-3, prefixes=(12, 24))
    shares = [prefix_quality(fit_dictionary(store, settings=settings), store, [12, 48]) for settings in (plain, nested)]
    assert shares[1][12] > shares[0][12] + 0.1
    assert all(share[48] > share[12] for share in shares)
