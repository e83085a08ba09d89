"""Networks of one's own: which function, built how, with which weights."""

import pytest
import torch
from torch import nn

from seglens.foreign.own_models import Place
from seglens.segmenters.own_networks import function_named, own_network, own_places
from seglens.segmenters.segmenter import Hookpoint


def test_functions_that_the_user_names():
    assert function_named("torch.nn:Conv2d") is nn.Conv2d
    for name, message in (
        ("torch.nn", "write package.module:function"),
        ("torch.nn:Conv2d()", "write package.module:function"),
        ("torch.nn:NoSuch", "cannot be imported .*; install its package"),
        ("no_such_package.nets:Net", "cannot be imported .*; install its package"),
        ("math:pi", "math:pi is a float; name a class of networks"),
    ):
        with pytest.raises(ValueError, match=message):
            function_named(name)


def test_sizes_are_compared_before_memory_is_taken():
    weights = {"weight": torch.zeros(4, 4), "bias": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"weight is \(4, 4\), the network needs \(60000, 60000\)"):
        own_network(lambda: nn.Linear(60_000, 60_000), weights, "w")


def test_a_constructor_that_looks_at_values_is_built_with_memory():
    def build():
        network = nn.Linear(4, int(torch.arange(5)[4].item()))
        nn.init.zeros_(network.weight)
        return network

    weights = {"weight": torch.rand(4, 4), "bias": torch.rand(4).double()}
    state = torch.random.get_rng_state()
    network = own_network(build, weights, "w")
    torch.testing.assert_close(network.weight.data, weights["weight"])
    assert network.bias.dtype == torch.float32 and not network.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_no_network_is_refused():
    with pytest.raises(ValueError, match="gives a int; it must give"):
        own_network(lambda: 3, {}, "w")
    with pytest.raises(ValueError, match=r"cannot be built of the description's settings \(.*\); correct settings"):
        own_network(lambda: nn.Linear("a", 3), {}, "w")


def test_places_have_the_layout_of_the_dimensions():
    assert own_places({"a": Place("x"), "b": Place("y", "BNC", 1, (2, 3, 4))}, 3) == {
        "a": Hookpoint("x", "BCDHW"),
        "b": Hookpoint("y", "BNC", 1, (2, 3, 4)),
    }
    assert own_places({"a": Place("x")}, 2) == {"a": Hookpoint("x", "BCHW")}
