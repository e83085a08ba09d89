import pytest
import torch
from torch import nn

from seglens.segmenters.weights import fit_weights


def test_many_faults_in_weights_are_cut_short():
    big, empty = nn.ModuleList(nn.Linear(1, 1) for _ in range(6)), {"extra": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"0.weight is missing; .*and 5 more"):
        fit_weights(big, empty, "file")


def test_a_network_without_memory_takes_the_tensors_themselves():
    with torch.device("meta"):
        network = nn.Linear(2, 1)
    weights = nn.Linear(2, 1).state_dict()
    fit_weights(network, weights, "file", assign=True)
    assert network.weight.data_ptr() == weights["weight"].data_ptr()
    assert torch.equal(network(torch.ones(1, 2)), weights["weight"].sum()[None, None] + weights["bias"])
