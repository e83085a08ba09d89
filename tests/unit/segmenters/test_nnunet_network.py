from functools import partial

import pytest
import torch
from tests.nnunet_folder import changed, dataset, network_of, plans
from torch.nn import functional

from seglens.foreign.plan_network import NetworkPlan
from seglens.foreign.plans import read_plan
from seglens.segmenters.nnunet_network import NnunetNetwork, hookpoints_of


def plan_of(folder, described):
    import json

    (folder / "plans.json").write_text(json.dumps(described))
    (folder / "dataset.json").write_text(json.dumps(dataset()))
    return read_plan(folder, "3d_small")


def functions(n_axes):
    names = [f"conv{n_axes}d", f"conv_transpose{n_axes}d", f"avg_pool{n_axes}d"]
    return [getattr(functional, name) for name in names]


def slow_forward(plan, weights, images):
    """The network by torch's functions and the names of the weights."""
    network = plan.network
    conv, rise, pool = functions(network.spatial_dims)

    def block(name, features, stride, active=True):
        kernel = weights[f"{name}.conv.weight"]
        padding = [size // 2 for size in kernel.shape[2:]]
        made = conv(features, kernel, weights.get(f"{name}.conv.bias"), stride, padding)
        made = functional.instance_norm(made, weight=weights[f"{name}.norm.weight"], bias=weights[f"{name}.norm.bias"])
        return functional.leaky_relu(made) if active else made

    skips, features = [], images
    if network.kind == "residual":
        features = block("encoder.stem.convs.0", features, 1)
    for stage, n in enumerate(network.n_blocks):
        for number in range(n):
            stride = network.strides[stage] if number == 0 else 1
            if network.kind == "plain":
                features = block(f"encoder.stages.{stage}.0.convs.{number}", features, stride)
                continue
            name = f"encoder.stages.{stage}.blocks.{number}"
            made = block(f"{name}.conv2", block(f"{name}.conv1", features, stride), 1, active=False)
            pools = stride != 1 and set(stride) != {1}
            shortcut = pool(features, stride, stride) if pools else features
            projection = f"{name}.skip.{int(pools)}"
            if f"{projection}.conv.weight" in weights:
                shortcut = block(projection, shortcut, 1, active=False)
            features = functional.leaky_relu(made + shortcut)
        skips.append(features)
    for place, n in enumerate(network.n_decoder):
        stride = network.strides[-1 - place]
        up = rise(
            features,
            weights[f"decoder.transpconvs.{place}.weight"],
            weights[f"decoder.transpconvs.{place}.bias"],
            stride,
        )
        features = torch.cat((up, skips[-2 - place]), 1)
        for number in range(n):
            features = block(f"decoder.stages.{place}.convs.{number}", features, 1)
    last = len(network.n_decoder) - 1
    return conv(features, weights[f"decoder.seg_layers.{last}.weight"], weights[f"decoder.seg_layers.{last}.bias"])


@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_the_network_is_that_of_functions(tmp_path, kind, n_axes):
    plan = plan_of(tmp_path, plans(kind=kind, n_axes=n_axes))
    network = network_of(plan, 0)
    images = torch.randn(2, 2, *plan.patch, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(images)
        torch.testing.assert_close(found, slow_forward(plan, network.state_dict(), images), atol=1e-4, rtol=1e-4)
    assert found.shape == (2, 3, *plan.patch)


def test_every_tensor_has_one_name(tmp_path):
    network = network_of(plan_of(tmp_path, plans()), 0)
    tensors = list(network.state_dict().values())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)


def test_hookpoints_are_reached_in_their_order(tmp_path):
    plan = plan_of(tmp_path, plans(kind="residual"))
    network = network_of(plan, 0)
    places = hookpoints_of(plan.network)
    assert list(places) == ["encoder0", "encoder1", "encoder2", "decoder1", "decoder0"]
    reached = {}

    def look(name, _module, _images, output):
        reached[name] = tuple(output.shape)

    for name, place in places.items():
        module = network.get_submodule(place.module)
        module.register_forward_hook(partial(look, name))
    network(torch.zeros(1, 2, *plan.patch))
    assert list(reached) == list(places)
    assert reached["encoder2"] == (1, 6, 4, 3, 3) and reached["decoder0"] == (1, 4, 8, 12, 12)


def test_other_norms_activations_and_heads():
    sizes = {"kernels": ((3, 3),) * 2, "strides": ((1, 1), (2, 2)), "n_blocks": (1, 1), "n_decoder": (1,)}
    for norm, activation in ((None, "relu"), ("batch", "gelu"), ("instance", "elu"), ("instance", "silu")):
        plan = NetworkPlan(
            "plain", 2, (2, 4), **sizes, norm=norm, norm_settings={}, activation=activation, activation_settings={}
        )
        network = NnunetNetwork(plan, 1, 2).eval()
        assert network(torch.ones(1, 1, 4, 4)).shape == (1, 2, 4, 4)
        assert [name for name in network.state_dict() if "seg_layers" in name] == [
            "decoder.seg_layers.0.weight",
            "decoder.seg_layers.0.bias",
        ]
    assert changed({"a": {"b": 1}}, "a.b", 2) == {"a": {"b": 2}}
