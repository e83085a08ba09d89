import pytest
import torch

from seglens.dictionaries import batch_topk as module
from seglens.dictionaries.batch_topk import BatchTopK, batch_topk


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


def random_dictionary(d_in, m, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, d_in, generator=generator), 0.1 * torch.randn(m, generator=generator)


@pytest.mark.parametrize("screen", ["fp32", "bf16"])
@pytest.mark.parametrize("threshold", [None, 0.0, 1.0, 8.0, 100.0])
def test_encoding_in_chunks_is_exact_whatever_the_bound(threshold, screen, monkeypatch):
    monkeypatch.setattr(module, "FP32_ROWS", 16)
    monkeypatch.setattr(module, "BF16_ROWS", 24)
    encoder, offset = random_dictionary(8, 64)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    top = BatchTopK(4, threshold, screen)
    codes = top.encode(x, encoder, offset)
    expected = batch_topk(x @ encoder.T + offset, 4)
    assert torch.equal(codes.latents, expected.latents)
    assert torch.equal(codes.offsets, expected.offsets)
    torch.testing.assert_close(codes.values, expected.values)
    assert top.threshold == pytest.approx(float(expected.values.min()), rel=1e-5)
    assert torch.equal(top.encode(x, encoder, offset).latents, codes.latents)


def skewed_tokens(kind):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(300, 40, generator=generator)
    return {
        "plain": x,
        "one token a thousand times as long": torch.cat([x[:-1], 1000 * x[-1:]]),
        "large channel": x + torch.cat([torch.full((1,), 30.0), torch.zeros(39)]),
        "equal tokens": x[:1].expand(300, 40),
        "some zero": torch.where(torch.arange(300)[:, None] % 3 == 0, x, 0.0),
        "one token": x[:1],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["plain", "one token a thousand times as long", "large channel", "equal tokens", "some zero", "one token"],
)
def test_the_bf16_screen_loses_no_pair(kind):
    encoder, offset = random_dictionary(40, 500, seed=2)
    x = skewed_tokens(kind)
    screened, plain = BatchTopK(6, screen="bf16"), BatchTopK(6, screen="fp32")
    for _ in range(3):  # the bound of a step comes from the step before
        a, b = screened.encode(x, encoder, offset), plain.encode(x, encoder, offset)
    assert a.nnz == b.nnz == 6 * len(x)
    same = (a.to_dense() > 0) == (b.to_dense() > 0)
    # the two add in another order, so at the threshold either may be the last
    at_threshold = (a.to_dense() - b.to_dense()).abs() <= 1.0001 * plain.threshold
    assert bool((same | at_threshold).all())
    assert int((~same).sum()) <= 2
    torch.testing.assert_close(a.to_dense()[same], b.to_dense()[same], rtol=1e-5, atol=1e-4)


def test_the_screen_leaves_out_most_pairs_and_gives_up_where_it_cannot(monkeypatch):
    refined = []
    dots = module.pair_dots
    monkeypatch.setattr(module, "pair_dots", lambda *pairs: refined.append(len(pairs[-1])) or dots(*pairs))
    encoder, offset = random_dictionary(40, 500, seed=2)
    top = BatchTopK(6, screen="bf16")
    for _ in range(2):
        top.encode(skewed_tokens("plain"), encoder, offset)
    assert len(refined) == 2
    assert 300 * 6 <= refined[1] <= 2.5 * 300 * 6
    long = 1e4 * torch.ones(40)
    BatchTopK(6, 1.0, screen="bf16").encode(skewed_tokens("plain") + long, encoder, offset)
    assert len(refined) == 2  # every pair is above the bound: float32 at once


def test_float64_is_not_screened():
    encoder, offset = random_dictionary(8, 64)
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    codes, unscreened = (BatchTopK(4, screen=s).encode(x, encoder.double(), offset.double()) for s in ("bf16", "fp32"))
    assert codes.values.dtype == torch.float64
    assert torch.equal(codes.to_dense(), unscreened.to_dense())
    # another product adds in another order, in no more than 9 terms of float64: 1e-12 is wide for it, and a millionth
    # of what one float32 product would be off
    expected = batch_topk(torch.addmm(offset.double(), x, encoder.double().T), 4).to_dense()
    torch.testing.assert_close(codes.to_dense(), expected, rtol=1e-12, atol=1e-12)


def test_a_batch_without_positive_pre_activations_is_empty():
    encoder, _ = random_dictionary(8, 64)
    for screen in ("fp32", "bf16"):
        top = BatchTopK(4, screen=screen)
        assert top.encode(torch.zeros(5, 8), encoder, torch.zeros(64)).nnz == 0
        assert top.threshold == 0
        assert top.encode(torch.zeros(0, 8), encoder, torch.zeros(64)).n == 0


@pytest.mark.parametrize("k", [0, 65])
def test_k_out_of_range_is_refused(k):
    encoder, offset = random_dictionary(8, 64)
    with pytest.raises(ValueError, match="from 1 to the number of latents, 64"):
        BatchTopK(k).encode(torch.zeros(2, 8), encoder, offset)
    with pytest.raises(ValueError, match="from 1 to the number of latents, 64"):
        batch_topk(torch.zeros(2, 64), k)
