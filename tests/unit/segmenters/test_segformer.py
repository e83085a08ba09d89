import importlib.util
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from transformers.models.segformer.modeling_segformer import (
    SegformerForSemanticSegmentation,
    SegformerSequenceReduction,
)

from seglens.segmenters.architectures import architecture_named, build_network
from seglens.segmenters.segformer import PatchedReduction, without_broken_torchvision

TINY = {
    "hidden_sizes": (8, 16, 24, 32),
    "depths": (1, 2, 1, 1),
    "num_attention_heads": (1, 2, 3, 4),
    "decoder_hidden_size": 16,
}


def test_the_folded_decoder_computes_what_that_of_transformers_does():
    torch.manual_seed(0)
    ours = build_network(architecture_named("segformer-b0").describe(2, 3, TINY)).eval()
    for name, value in ours.state_dict().items():
        if "batch_norm" in name and value.is_floating_point():
            value.uniform_(0.5, 1.5)
    theirs = SegformerForSemanticSegmentation(ours.config).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 2, 64, 32)
    assert torch.allclose(ours(images).logits, theirs(images).logits, atol=1e-5)

    for network in (ours, theirs):
        network(images).logits.square().sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-4), name


def test_the_weights_of_a_seed_are_those_of_transformers():
    torch.manual_seed(3)
    ours = build_network(architecture_named("segformer-b0").describe(2, 3, TINY))
    torch.manual_seed(3)
    theirs = SegformerForSemanticSegmentation(ours.config)
    own = ours.state_dict()
    assert all(torch.equal(own[name], value) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 4), (6, 4, 2), (9, 7, 4), (8, 8, 8)])
def test_a_sequence_reduction_by_patches_is_the_convolution(height, width, side):
    torch.manual_seed(0)
    theirs = SegformerSequenceReduction(12, side).double()
    ours = deepcopy(theirs)
    ours.__class__ = PatchedReduction
    tokens = torch.randn(2, height * width, 12, dtype=torch.float64)
    results = []
    for reduction in (ours, theirs):
        own = tokens.clone().requires_grad_()
        reduced = reduction(own, height, width)
        reduced.pow(3).sum().backward()
        results.append([reduced, own.grad, *(parameter.grad for parameter in reduction.parameters())])
    assert results[0][0].shape == (2, (height // side) * (width // side), 12)
    for got, wanted in zip(*results, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_every_sequence_reduction_goes_by_patches():
    network = build_network(architecture_named("segformer-b0").describe(2, 3, TINY))
    kinds = {type(module) for module in network.modules() if isinstance(module, SegformerSequenceReduction)}
    assert kinds == {PatchedReduction}


@pytest.fixture
def torchvision_for_another_torch(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_torchvision_that_does_not_import_is_hidden_for_a_moment(torchvision_for_another_torch):
    assert importlib.util.find_spec("torchvision") is not None
    with without_broken_torchvision():
        assert importlib.util.find_spec("torchvision") is None
    assert importlib.util.find_spec("torchvision") is not None


def test_a_torchvision_that_imports_is_left_alone(torchvision_for_another_torch):
    (torchvision_for_another_torch / "torchvision" / "__init__.py").write_text("")
    with without_broken_torchvision():
        assert importlib.util.find_spec("torchvision") is not None


@pytest.mark.slow
def test_a_torchvision_that_does_not_fit_torch_does_not_matter(torchvision_for_another_torch):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from seglens.segmenters.architectures import build_segmenter\n"
        "s = build_segmenter('segformer-b0', sequences=('T1',), labels={0: 'a', 1: 'b'}, size=32)\n"
        "print(len(s.hookpoints))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(torchvision_for_another_torch)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("4", 0), done.stderr
