import pytest
import torch

from seglens.dictionaries import gradients as module
from seglens.dictionaries.batch_topk import BatchTopK, batch_topk
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.gradients import Weights, backward, project_decoder_gradient

WAYS = {"pairs": module._through_pairs, "all": module._through_all}


def random_weights(d_in, m, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(m, d_in, generator=generator, dtype=torch.float64)
    decoder /= decoder.norm(dim=1, keepdim=True)
    encoder = decoder + 0.1 * torch.randn(m, d_in, generator=generator, dtype=torch.float64)
    b_enc = 0.1 * torch.randn(m, generator=generator, dtype=torch.float64)
    b_dec = 0.1 * torch.randn(d_in, generator=generator, dtype=torch.float64)
    return Weights(*(tensor.to(dtype) for tensor in (encoder, b_enc, decoder, b_dec)))


def dense_loss(x, weights, k, *, dead, auxiliary_k, coefficient):
    """The same loss with dense arrays, for autograd."""
    pre = (x - weights.b_dec) @ weights.encoder.T + weights.b_enc
    active = batch_topk(pre.detach(), k).to_dense() > 0
    reconstruction = (pre * active) @ weights.decoder + weights.b_dec
    error = x - reconstruction
    loss = error.square().mean()
    auxiliary = torch.zeros((), dtype=x.dtype)
    if len(dead):
        own = pre[:, dead].relu()
        places = own.topk(min(auxiliary_k, len(dead)), dim=1).indices
        z = own * torch.zeros_like(own).scatter(1, places, 1.0)
        residual = error.detach()
        auxiliary = coefficient * (residual - z @ weights.decoder[dead]).square().sum() / residual.square().sum()
    return loss, auxiliary


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("n_dead", [0, 3, 40])
def test_gradients_equal_dense_autograd_in_float64(n_dead, way, monkeypatch):
    monkeypatch.setattr(module, "AUXILIARY_ELEMENTS", 400)  # several chunks of the auxiliary loss
    weights = random_weights(16, 128)
    x = torch.randn(60, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dead = torch.randperm(128, generator=torch.Generator().manual_seed(2))[:n_dead].sort().values
    codes = BatchTopK(5).encode(x - weights.b_dec, weights.encoder, weights.b_enc)
    result = backward(x, weights, codes, dead=dead, auxiliary_k=8, through=WAYS[way])
    leaves = Weights(*(tensor.clone().requires_grad_() for tensor in weights))
    loss, auxiliary = dense_loss(x, leaves, 5, dead=dead, auxiliary_k=8, coefficient=1 / 32)
    expected = torch.autograd.grad(loss + auxiliary, list(leaves))
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    assert result.auxiliary == pytest.approx(float(auxiliary.detach()), rel=1e-12)
    for mine, autograds in zip(result.gradients, expected, strict=True):
        assert float((mine - autograds).norm() / autograds.norm()) < 1e-12
    assert torch.equal(result.fired, codes.firing_counts())


@pytest.mark.parametrize("way", list(WAYS))
def test_a_batch_without_active_pairs_has_no_gradient(way):
    weights = random_weights(8, 64, torch.float32)._replace(b_dec=torch.zeros(8), b_enc=torch.zeros(64))
    x = torch.zeros(5, 8)
    result = backward(x, weights, BatchTopK(4).encode(x, weights.encoder, weights.b_enc), through=WAYS[way])
    assert result.loss == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in result.gradients)


@pytest.mark.parametrize("n", [1, 7, 300])
def test_dense_products_give_what_the_pairs_give_in_float32(n):
    weights = random_weights(33, 150, torch.float32)
    x = torch.randn(n, 33, generator=torch.Generator().manual_seed(1))
    codes = BatchTopK(5).encode(x - weights.b_dec, weights.encoder, weights.b_enc)
    mine, plain = (backward(x, weights, codes, through=WAYS[way]) for way in ("all", "pairs"))
    assert mine.loss == pytest.approx(plain.loss, rel=1e-6)
    for a, b in zip(mine.gradients, plain.gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_cpu_goes_through_the_pairs(monkeypatch):
    weights = random_weights(8, 32)
    x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    codes = BatchTopK(4).encode(x - weights.b_dec, weights.encoder, weights.b_enc)
    by_pairs = backward(x, weights, codes, through=module._through_pairs)
    monkeypatch.setattr(module, "_through_all", None)
    assert torch.equal(backward(x, weights, codes).gradients.encoder, by_pairs.gradients.encoder)


def test_wide_dictionaries_sort_by_whole_numbers():
    # beyond 2^15 latents the short sorting key would overflow
    m = 2**15 + 5
    codes = Codes(torch.tensor([0, 2]), torch.tensor([1, m - 1], dtype=torch.int32), torch.tensor([1.0, 2.0]), m)
    weights = Weights(torch.zeros(m, 2), torch.zeros(m), torch.zeros(m, 2), torch.zeros(2))
    result = backward(torch.tensor([[1.0, 3.0]]), weights, codes)
    assert result.gradients.decoder.abs().sum(1).nonzero()[:, 0].tolist() == [1, m - 1]
    torch.testing.assert_close(result.gradients.decoder[m - 1], torch.tensor([-2.0, -6.0]))


def test_projected_gradient_does_not_lengthen_rows():
    weights = random_weights(8, 20)
    gradient = torch.randn(20, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    projected = gradient.clone()
    project_decoder_gradient(projected, weights.decoder)
    assert float((projected * weights.decoder).sum(1).abs().max()) < 1e-14
    # what was taken away lies along the rows
    removed = gradient - projected
    along = (removed * weights.decoder).sum(1, keepdim=True) * weights.decoder
    torch.testing.assert_close(removed, along)


@pytest.mark.parametrize("screen", ["fp32", "bf16"])
def test_same_bits_on_two_threads(screen):
    weights = random_weights(32, 512, torch.float32)
    x = torch.randn(512, 32, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()

    def once():
        codes = BatchTopK(16, screen=screen).encode(x - weights.b_dec, weights.encoder, weights.b_enc)
        dead = torch.arange(0, 512, 4)
        return [*backward(x, weights, codes, dead=dead, auxiliary_k=16).gradients, codes.values]

    try:
        torch.set_num_threads(2)
        first, *others = [once() for _ in range(4)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
