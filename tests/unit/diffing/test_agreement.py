import numpy as np
import polars as pl
import pytest
import torch

from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing import agreement as module
from seglens.diffing.agreement import agreement, alignment_metrics, collision, predictability
from seglens.diffing.methods import alignment_method, alignment_methods
from seglens.diffing.sharing import align


def pair(m=24, d_in=12, noise=0.5):
    """Two dictionaries, the second a disturbed copy of the first; encoder and decoder are disturbed apart."""
    source, target = SparseAutoencoder(d_in, m, k=1), SparseAutoencoder(d_in, m, k=1)
    generator = torch.Generator().manual_seed(1)
    target.W_enc.data += noise * torch.randn(d_in, m, generator=generator)
    target.W_dec.data += noise * torch.randn(m, d_in, generator=generator)
    return source, target


def cosines(a, b):
    return torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2).numpy()


def slow(source, target, method, name, tau):
    """The figures of E.1 by loops and sets."""
    c_enc, c_dec = cosines(source.W_enc.T, target.W_enc.T), cosines(source.W_dec, target.W_dec)
    pi_enc, pi_dec = (alignment_method(method).match(cosines) for cosines in (c_enc, c_dec))
    kept = [i for i in range(len(pi_enc)) if pi_enc[i] >= 0]
    if name != "none":
        kept = [i for i in kept if c_enc[i, pi_enc[i]] >= tau and c_dec[i, pi_enc[i]] >= tau]
    if name == "shared":
        kept = [i for i in kept if pi_enc[i] == pi_dec[i]]
    n = len(kept)
    targets = [pi_enc[i] for i in kept]
    paired = sum((c_enc[i, pi_enc[i]] + c_dec[i, pi_enc[i]]) / 2 for i in kept) / n
    shuffled = sum((c_enc[i, j] + c_dec[i, j]) / 2 for i in kept for j in targets) / n**2
    return {
        "n": n,
        "agreement": sum(pi_enc[i] == pi_dec[i] for i in kept) / n,
        "collision": 1 - len(set(targets)) / n,
        "predictability": paired - shuffled,
    }


def test_equals_loops_for_every_method_and_filter():
    source, target = pair()
    table = alignment_metrics(source, target, tau=0.7, n_trials=1)
    assert table.height == len(alignment_methods("weights")) * len(module.FILTERS)
    for row in table.iter_rows(named=True):
        for figure, value in slow(source, target, row["method"], row["filter"], 0.7).items():
            assert row[figure] == pytest.approx(float(value), abs=1e-6), (row["method"], row["filter"], figure)
    unfiltered = table.filter(pl.col("filter") == "none")
    assert (unfiltered["agreement"] < 1).all()  # the case is not trivial
    assert unfiltered.filter(pl.col("method") == "greedy")["collision"][0] > 0


def test_within_s_agreement_is_one_by_construction_and_n_is_s():
    source, target = pair()
    shared = alignment_metrics(source, target, n_trials=0).filter(pl.col("filter") == "shared")
    assert set(shared["agreement"]) == {1.0}
    assert shared.filter(pl.col("method") == "hungarian_dual")["n"][0] == align(source, target).shared.height
    assert set(shared.filter(pl.col("method").is_in(["hungarian_dual", "encoder_only"]))["collision"]) == {0.0}


def test_stability_equals_a_loop_over_subsamples():
    source, target = pair()
    n_trials, share, seed = 6, 0.7, 4
    c_enc, c_dec = cosines(source.W_enc.T, target.W_enc.T), cosines(source.W_dec, target.W_dec)
    draws = module._draws(c_enc.shape, n_trials, share, seed)
    table = alignment_metrics(source, target, n_trials=n_trials, subsample=share, seed=seed)
    for method, own in alignment_methods("weights").items():
        matcher = own.match
        pis = [(c_enc, matcher(c_enc))] + ([(c_dec, matcher(c_dec))] if method == "hungarian_dual" else [])
        verdicts: dict[int, bool] = {}
        for rows, columns in draws:
            for c, pi in pis:
                part = matcher(c[np.ix_(rows, columns)])
                for place, i in enumerate(rows):
                    if pi[i] in columns:
                        same = part[place] >= 0 and columns[part[place]] == pi[i]
                        verdicts[int(i)] = verdicts.get(int(i), True) and bool(same)
        expected = sum(verdicts.values()) / len(verdicts)
        row = table.filter((pl.col("method") == method) & (pl.col("filter") == "none"))
        assert row["stability"][0] == pytest.approx(expected)
    assert 0 < table.filter(pl.col("filter") == "none")["stability"].min() < 1  # type: ignore[operator]


def test_the_same_dictionary_twice_is_perfect_and_repeats():
    source = SparseAutoencoder(12, 24, k=1)
    table = alignment_metrics(source, source, n_trials=3)
    for figure, value in (("agreement", 1), ("stability", 1), ("collision", 0)):
        assert table[figure].to_list() == [value] * table.height
    assert table.equals(alignment_metrics(source, source, n_trials=3))


def test_rectangular_dead_and_nothing_left():
    source, target = SparseAutoencoder(12, 10, k=1), SparseAutoencoder(12, 7, k=1, seed=9)
    alive = torch.ones(10, dtype=torch.bool)
    alive[0] = False
    table = alignment_metrics(source, target, tau=0.999, alive_source=alive)
    by = {(row["method"], row["filter"]): row for row in table.iter_rows(named=True)}
    assert by["hungarian_dual", "none"]["n"] == 7 and by["greedy", "none"]["n"] == 9
    assert by["greedy", "none"]["collision"] >= 2 / 9
    empty = by["hungarian_dual", "shared"]
    assert empty["n"] == 0 and all(empty[name] is None for name in ("agreement", "stability", "collision"))
    nothing = alignment_metrics(source, target, alive_target=torch.zeros(7, dtype=torch.bool))
    assert set(nothing["n"]) == {0} and nothing["predictability"].null_count() == nothing.height


def test_parts_on_no_latents():
    none = np.zeros(3, dtype=bool)
    match = np.array([0, 1, 1])
    c = np.ones((3, 2), dtype=np.float32)
    assert agreement(match, match, none) is collision(match, none) is predictability(c, c, match, none) is None


def test_refusals():
    source, target = pair()
    with pytest.raises(ValueError, match="subsample 0"):
        alignment_metrics(source, target, subsample=0.0)
