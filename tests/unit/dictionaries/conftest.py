import pytest
import torch

from seglens.dictionaries.sae import SparseAutoencoder


@pytest.fixture
def dictionary():
    """None of its numbers is the one that it begins with."""
    generator = torch.Generator().manual_seed(2)
    dictionary = SparseAutoencoder(6, 24, k=3, seed=7, hookpoint="stage2", segmenter_hash="s", store_hash="t")
    dictionary.b_enc.copy_(torch.randn(24, generator=generator) * 0.1)
    dictionary.b_dec.copy_(torch.randn(6, generator=generator) * 0.1)
    dictionary.centre.copy_(torch.randn(6, generator=generator) * 4)
    dictionary.scale.fill_(0.3)
    dictionary.theta.fill_(0.4)
    return dictionary


@pytest.fixture
def tokens():
    """Activations [80 6] for it."""
    return torch.randn(80, 6, generator=torch.Generator().manual_seed(3)) * 5
