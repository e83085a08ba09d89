import pytest
import torch

from seglens.dictionaries import batch_topk as module
from seglens.dictionaries.batch_topk import BatchTopK, Weights, backward, batch_topk, project_decoder_gradient
from seglens.dictionaries.codes import Codes


def by_loop(pre, k):
    """Take the largest positive entry, n*k times; of equals the one that comes first."""
    pre = pre.clone()
    kept = torch.zeros_like(pre)
    for _ in range(len(pre) * k):
        best, place = 0.0, None
        for i in range(pre.shape[0]):
            for j in range(pre.shape[1]):
                if float(pre[i, j]) > best:
                    best, place = float(pre[i, j]), (i, j)
        if place is None:
            break
        kept[place], pre[place] = pre[place], -1.0
    return kept


def pre_activations(kind):
    generator = torch.Generator().manual_seed(4)
    pre = torch.randn(6, 9, generator=generator)
    return {
        "random": pre,
        "ties": (pre * 2).round() / 2,
        "all equal": torch.ones(6, 9),
        "few positive": torch.where(torch.rand(6, 9, generator=generator) < 0.1, pre.abs(), -pre.abs()),
        "none positive": -pre.abs(),
        "zeros": torch.zeros(6, 9),
    }[kind]


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("kind", ["random", "ties", "all equal", "few positive", "none positive", "zeros"])
def test_selection_equals_the_loop(kind, k):
    pre = pre_activations(kind)
    codes = batch_topk(pre, k)
    assert torch.equal(codes.to_dense(), by_loop(pre, k))
    assert codes.nnz == min(6 * k, int((pre > 0).sum()))


def random_weights(d_in, m, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(m, d_in, generator=generator, dtype=torch.float64)
    decoder /= decoder.norm(dim=1, keepdim=True)
    encoder = decoder + 0.1 * torch.randn(m, d_in, generator=generator, dtype=torch.float64)
    b_enc = 0.1 * torch.randn(m, generator=generator, dtype=torch.float64)
    b_dec = 0.1 * torch.randn(d_in, generator=generator, dtype=torch.float64)
    return Weights(*(tensor.to(dtype) for tensor in (encoder, b_enc, decoder, b_dec)))


@pytest.mark.parametrize("threshold", [None, 0.0, 1.0, 2.5, 100.0])
def test_encoding_in_chunks_is_exact_whatever_the_bound(threshold, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 16)
    weights = random_weights(8, 64, torch.float32)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    top = BatchTopK(4, threshold)
    codes = top.encode(x, weights.encoder, weights.b_enc)
    expected = batch_topk(x @ weights.encoder.T + weights.b_enc, 4)
    assert torch.equal(codes.latents, expected.latents)
    assert torch.equal(codes.offsets, expected.offsets)
    torch.testing.assert_close(codes.values, expected.values)
    assert top.threshold == pytest.approx(float(expected.values.min()), rel=1e-5)
    assert torch.equal(top.encode(x, weights.encoder, weights.b_enc).latents, codes.latents)


def test_a_batch_without_positive_pre_activations_is_empty():
    weights = random_weights(8, 64, torch.float32)
    codes = BatchTopK(4).encode(torch.zeros(5, 8), weights.encoder, torch.zeros(64))
    result = backward(torch.zeros(5, 8), weights._replace(b_dec=torch.zeros(8)), codes)
    assert codes.nnz == 0
    assert result.loss == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in result.gradients)
    assert BatchTopK(4).encode(torch.zeros(0, 8), weights.encoder, torch.zeros(64)).n == 0


@pytest.mark.parametrize("k", [0, 65])
def test_k_out_of_range_is_refused(k):
    weights = random_weights(8, 64, torch.float32)
    with pytest.raises(ValueError, match="from 1 to the number of latents, 64"):
        BatchTopK(k).encode(torch.zeros(2, 8), weights.encoder, weights.b_enc)
    with pytest.raises(ValueError, match="from 1 to the number of latents, 64"):
        batch_topk(torch.zeros(2, 64), k)


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


@pytest.mark.parametrize("n_dead", [0, 3, 40])
def test_gradients_equal_dense_autograd_in_float64(n_dead, monkeypatch):
    monkeypatch.setattr(module, "AUXILIARY_ELEMENTS", 400)  # several chunks of the auxiliary loss
    weights = random_weights(16, 128)
    x = torch.randn(60, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dead = torch.randperm(128, generator=torch.Generator().manual_seed(2))[:n_dead].sort().values
    codes = BatchTopK(5).encode(x - weights.b_dec, weights.encoder, weights.b_enc)
    result = backward(x, weights, codes, dead=dead, auxiliary_k=8)
    leaves = Weights(*(tensor.clone().requires_grad_() for tensor in weights))
    loss, auxiliary = dense_loss(x, leaves, 5, dead=dead, auxiliary_k=8, coefficient=1 / 32)
    expected = torch.autograd.grad(loss + auxiliary, list(leaves))
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    assert result.auxiliary == pytest.approx(float(auxiliary.detach()), rel=1e-12)
    for mine, autograds in zip(result.gradients, expected, strict=True):
        assert float((mine - autograds).abs().max()) < 1e-13
    assert torch.equal(result.fired, codes.firing_counts())


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


def test_same_bits_on_two_threads():
    weights = random_weights(32, 512, torch.float32)
    x = torch.randn(512, 32, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()

    def once():
        codes = BatchTopK(16).encode(x - weights.b_dec, weights.encoder, weights.b_enc)
        dead = torch.arange(0, 512, 4)
        return [*backward(x, weights, codes, dead=dead, auxiliary_k=16).gradients, codes.values]

    try:
        torch.set_num_threads(2)
        first, *others = [once() for _ in range(4)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
