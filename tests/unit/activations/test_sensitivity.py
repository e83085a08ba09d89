import torch
from torch import nn

from seglens.activations.sensitivity import class_gradients
from seglens.segmenters.segmenter import Hookpoint, Segmenter

LABELS = {0: "background", 1: "edema", 2: "core"}


def test_gradients_are_those_of_the_expected_pixels_of_a_class():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), nn.Tanh(), nn.Conv2d(4, 3, 1), nn.Upsample(scale_factor=2))
    place = {"middle": Hookpoint("0")}
    segmenter = Segmenter.wrap(network, sequences=["T1"], labels=LABELS, hookpoints=place, size=8)
    images = torch.randn(2, 1, 1, 8, 8)
    grid, (edema, foreground) = class_gradients(segmenter, "middle", images, [1, None])
    assert grid.shape == edema.shape == foreground.shape == (2, 1, 4, 4, 4)

    def expected(moved: torch.Tensor) -> torch.Tensor:
        shares = network[1:](moved.permute(0, 1, 4, 2, 3)[:, 0]).softmax(1).sum((0, 2, 3))
        return torch.stack([shares[1], shares[1] + shares[2]])

    step = torch.zeros_like(grid)
    step[1, 0, 2, 3, 1] = 1e-2
    slope = (expected(grid + step) - expected(grid - step)) / 2e-2
    torch.testing.assert_close(
        torch.stack([edema[1, 0, 2, 3, 1], foreground[1, 0, 2, 3, 1]]), slope, atol=1e-4, rtol=1e-3
    )
    assert not segmenter.network[0]._forward_hooks
