"""Random changes of training slices."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from seglens.shapes import Images, Masks, plane_of, with_depth

ROTATION_DEGREES = 12.0
SCALE = 0.1
SHIFT = 0.05  # share of the slice's side
GAMMA = 0.25  # of the logarithm
BRIGHTNESS = 0.2  # standard deviations of the brain
CONTRAST = 0.15
NOISE = 0.1


def augment(images: Images, masks: Masks, generator: Generator) -> tuple[Images, Masks]:
    """Mirror left and right, turn, scale and shift a little; change contrast, brightness, gamma, noise.

    Each slice gets its own draw. Images move bilinearly, masks to the nearest pixel, both by the same map. What is
    exactly 0 (outside the brain) stays 0. For training only.

    Args:
        images: [B C 1 H W] float32, z-scored slices.
        masks: [B 1 H W] uint8.
        generator: the only source of chance; the same state gives the same result.

    Returns:
        New images and masks; the arguments are not changed.

    Raises:
        ValueError: samples of several slices.
    """
    planes, labels = _move(plane_of(images), plane_of(masks), generator)
    return with_depth(_recolour(planes, generator), 5), with_depth(labels, 4)


def _uniform(n: int, reach: float, generator: Generator, like: Tensor) -> Tensor:
    """[n] in -reach..reach."""
    draw = torch.rand(n, generator=generator, device=generator.device)
    return ((draw * 2 - 1) * reach).to(like.device)


def _move(images: Tensor, masks: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    n, _, height, width = images.shape
    flip = torch.where(_uniform(n, 1.0, generator, images) < 0, -1.0, 1.0)
    angle = _uniform(n, math.radians(ROTATION_DEGREES), generator, images)
    scale = 1 + _uniform(n, SCALE, generator, images)
    shift = _uniform(2 * n, 2 * SHIFT, generator, images).reshape(n, 2, 1)
    # grid coordinates run from -1 to 1 on both axes, so a turn must undo the slice's aspect
    cos, sin, aspect = torch.cos(angle) / scale, torch.sin(angle) / scale, width / height
    rows = [torch.stack([flip * cos, -flip * sin / aspect], 1), torch.stack([sin * aspect, cos], 1)]
    matrices = torch.cat([torch.stack(rows, 1), shift], 2)
    grid = F.affine_grid(matrices, [n, 1, height, width], align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    labels = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)
    return moved, labels[:, 0].to(torch.uint8)


def _recolour(images: Tensor, generator: Generator) -> Tensor:
    n, channels = images.shape[:2]
    each = (n, channels, 1, 1)
    inside = images != 0
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    reach = (high - low).clamp_min(1e-6)
    gamma = torch.exp(_uniform(n * channels, GAMMA, generator, images)).reshape(each)
    contrast = 1 + _uniform(n * channels, CONTRAST, generator, images).reshape(each)
    brightness = _uniform(n * channels, BRIGHTNESS, generator, images).reshape(each)
    strength = (_uniform(n, 0.5, generator, images) + 0.5).reshape(n, 1, 1, 1) * NOISE
    # a field of noise a slice, shifted for each channel: as good as one each, and drawing is what costs most
    field = torch.randn((n, 1, *images.shape[2:]), generator=generator, device=generator.device).to(images.device)
    noise = torch.cat([field.roll(37 * channel, dims=-1) for channel in range(channels)], 1)
    # exp and log are several times as fast as pow
    bent = images.sub(low).div_(reach).clamp_min_(1e-6).log_().mul_(gamma).exp_().mul_(reach).add_(low)
    return bent.mul_(contrast).add_(brightness).addcmul_(noise, strength).mul_(inside)
