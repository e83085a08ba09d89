import pytest
import torch

from seglens.dictionaries.codes import Codes
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.diffing.consensus import consensus_latents, only_latents, recurring_latents


def _dense(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(400, 8, generator=generator) * (torch.rand(400, 8, generator=generator) < 0.3)


def test_planted_returns_are_counted_whatever_the_order_of_the_latents() -> None:
    first, order = _dense(0), torch.randperm(8, generator=torch.Generator().manual_seed(5))
    second, third = _dense(1), _dense(2)
    second[:, :5] = first[:, :5]
    third[:, :2] = first[:, :2]
    table = recurring_latents([Codes.from_dense(part) for part in (first, second[:, order], third[:, order])])
    assert table["returns"].to_list() == [2, 2, 1, 1, 1, 0, 0, 0]
    assert consensus_latents(table, least=2) == [0, 1]
    assert table["correlation"].to_list()[0] == pytest.approx(1.0)


def test_a_smaller_dictionary_gives_the_same_codes() -> None:
    dictionary = SparseAutoencoder(6, 20, k=3, seed=0)
    dictionary.theta.fill_(0.2)
    dictionary.b_enc.data.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
    chosen = [7, 2, 19]
    whole, some = dictionary.encode(tokens), only_latents(dictionary, chosen).encode(tokens)
    torch.testing.assert_close(some.to_dense(), whole.select_latents(chosen).to_dense())


def test_one_dictionary_has_nothing_to_come_back_in() -> None:
    with pytest.raises(ValueError, match="1 dictionaries"):
        recurring_latents([Codes.from_dense(_dense(0))])
    with pytest.raises(ValueError, match="no latents are left"):
        only_latents(SparseAutoencoder(6, 20, k=3), [])
