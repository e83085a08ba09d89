import pytest
import torch
from monai.networks.nets.basic_unet import BasicUNet
from torch import nn

from seglens.segmenters.architectures import architecture_named, build_network

FEATURES = (4, 4, 8, 8, 8, 4)


def pair():
    torch.manual_seed(3)
    ours = build_network(architecture_named("unet").describe(2, 3, {"features": FEATURES}))
    torch.manual_seed(3)
    theirs = BasicUNet(spatial_dims=2, in_channels=2, out_channels=3, features=FEATURES)
    return ours, theirs


def test_the_weights_of_a_seed_are_those_of_monai():
    ours, theirs = pair()
    own, foreign = ours.state_dict(), theirs.state_dict()
    assert list(own) == list(foreign)
    assert all(torch.equal(own[name], foreign[name]) for name in own)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("size", [(32, 48), (34, 39), (35, 32)])
def test_logits_and_gradients_are_those_of_monai_bit_for_bit(size, bf16):
    images = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(0))
    logits = []
    ours, theirs = pair()
    for network in (ours, theirs):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits.append(network.train()(images))
        logits[-1].float().square().sum().backward()
    assert torch.equal(*logits)
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter.grad, gradients[name].grad), name


def test_no_activation_writes_into_the_norm_before_it():
    ours, theirs = pair()
    in_place = [[m.inplace for m in network.modules() if isinstance(m, nn.LeakyReLU)] for network in (ours, theirs)]
    assert not any(in_place[0])
    assert all(in_place[1])
