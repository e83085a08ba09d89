from itertools import permutations

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.methods import alignment_methods
from seglens.diffing.sharing import align, live_latents


def dictionary(m, seed=0, d_in=8):
    sae = SparseAutoencoder(d_in, m, k=1, seed=seed)
    noise = torch.Generator().manual_seed(seed + 100)
    sae.W_enc.data += 0.1 * torch.randn(d_in, m, generator=noise)
    return sae


def near(sae, seed, noise=0.2):
    """The same latents, disturbed and reordered."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(sae.n_latents, generator=generator)
    other = dictionary(sae.n_latents, d_in=sae.d_in)
    other.W_enc.data = (sae.W_enc + noise * torch.randn(sae.W_enc.shape, generator=generator))[:, order]
    other.W_dec.data = (sae.W_dec + noise * torch.randn(sae.W_dec.shape, generator=generator))[order]
    return other


def brute_force_shared(source, target, tau):
    """S by trying every assignment of both projections."""

    def cosines(a, b):
        return [[float(torch.cosine_similarity(x, y, dim=0)) for y in b] for x in a]

    def best(c):
        n_a, n_b = len(c), len(c[0])
        if n_a <= n_b:
            found = max(permutations(range(n_b), n_a), key=lambda p: sum(c[i][j] for i, j in enumerate(p)))
            return dict(enumerate(found))
        found = max(permutations(range(n_a), n_b), key=lambda p: sum(c[i][j] for j, i in enumerate(p)))
        return {i: j for j, i in enumerate(found)}

    c_enc, c_dec = cosines(source.W_enc.T, target.W_enc.T), cosines(source.W_dec, target.W_dec)
    pi_enc, pi_dec = best(c_enc), best(c_dec)
    return {(i, j) for i, j in pi_enc.items() if pi_dec.get(i) == j and c_enc[i][j] >= tau and c_dec[i][j] >= tau}


@pytest.mark.parametrize("tau", [0.7, 0.75, 0.8])
@pytest.mark.parametrize(("n_source", "n_target"), [(6, 6), (4, 6), (6, 4)])
def test_shared_set_equals_brute_force(n_source, n_target, tau):
    sizes = set()
    for seed in range(4):
        source = dictionary(6, seed)
        target = near(source, seed, noise=0.3)
        for sae, n in ((source, n_source), (target, n_target)):
            sae.W_enc.data, sae.W_dec.data = sae.W_enc.data[:, :n], sae.W_dec.data[:n]
        alignment = align(source, target, tau=tau)
        expected = brute_force_shared(source, target, tau)
        assert set(alignment.shared.select("source_latent", "target_latent").rows()) == expected
        assert alignment.shared_share == len(expected) / min(n_source, n_target)
        assert len(alignment.unmatched_source) == max(n_source - n_target, 0)
        assert len(alignment.unmatched_target) == max(n_target - n_source, 0)
        sizes.add(len(expected))
    assert len(sizes) > 1  # the cases part


@pytest.mark.parametrize("method", list(alignment_methods("weights")))
def test_a_permuted_dictionary_is_realigned_exactly(method):
    source = dictionary(200, d_in=16)
    target = near(source, 3, noise=0.0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    alignment = align(source, target, method=method, source_name="a", target_name="b")
    assert alignment.shared_share == 1
    assert alignment.pairs["source_latent"].to_list() == list(range(200))
    assert alignment.pairs["target_latent"].to_list() == order.argsort().tolist()
    assert alignment.pairs["target_dec"].equals(alignment.pairs["target_latent"])
    assert (alignment.source, alignment.target, alignment.method) == ("a", "b", method)


def test_dead_and_zero_rows_are_left_out_and_counted():
    source = dictionary(10)
    target = near(source, 5, noise=0.0)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(5)).tolist()
    source.W_enc.data[:, 4] = 0
    target.W_dec.data[7] = 0
    alive = torch.ones(10, dtype=torch.bool)
    alive[1] = False
    alignment = align(source, target, alive_source=alive)
    assert (alignment.dead_source, alignment.dead_target) == (2, 1)
    assert alignment.n_comparable == 8
    assert not {1, 4} & (set(alignment.pairs["source_latent"]) | set(alignment.unmatched_source))
    assert 7 not in [*alignment.pairs["target_latent"], *alignment.unmatched_target]
    exact = {(i, order.index(i)) for i in range(10) if i not in (1, 4) and order.index(i) != 7}
    assert set(alignment.shared.select("source_latent", "target_latent").rows()) <= exact
    assert alignment.shared.height >= len(exact) - 1


def test_encoder_only_does_not_ask_the_decoder():
    source = dictionary(12)
    target = near(source, 2, noise=0.0)
    target.W_dec.data = target.W_dec.data.roll(1, 0)
    dual, encoder_only = align(source, target), align(source, target, method="encoder_only")
    assert encoder_only.shared_share == 1 and dual.shared_share == 0
    assert not dual.pairs["target_dec"].equals(dual.pairs["target_latent"])


def test_both_projections_are_matched_as_well_as_scipy_does():
    source = dictionary(60, d_in=12)
    target = near(source, 1, noise=0.5)
    alignment = align(source, target)
    for name, found in (("enc", "target_latent"), ("dec", "target_dec")):
        a, b = (x.W_enc.T if name == "enc" else x.W_dec for x in (source, target))
        cosines = torch.cosine_similarity(a[:, None], b[None], dim=2).detach().numpy()
        best = cosines[linear_sum_assignment(cosines, maximize=True)].sum()
        assert cosines[alignment.pairs["source_latent"], alignment.pairs[found]].sum() == pytest.approx(best, rel=1e-6)


def test_nothing_alive():
    alignment = align(dictionary(3), dictionary(4), alive_source=torch.zeros(3, dtype=torch.bool))
    assert alignment.pairs.height == 0 and alignment.shared_share == 0
    assert alignment.unmatched_target == (0, 1, 2, 3)
    no_target = align(dictionary(3), dictionary(4), alive_target=torch.zeros(4, dtype=torch.bool))
    assert no_target.unmatched_source == (0, 1, 2)


def test_refusals():
    with pytest.raises(ValueError, match=r"'best'.*hungarian_dual"):
        align(dictionary(3), dictionary(3), method="best")
    with pytest.raises(ValueError, match=r"tau is 1\.5"):
        align(dictionary(3), dictionary(3), tau=1.5)
    with pytest.raises(ValueError, match="alive has 2 entries"):
        live_latents(dictionary(3), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="different activation spaces"):
        align(dictionary(3), dictionary(3, d_in=9))
