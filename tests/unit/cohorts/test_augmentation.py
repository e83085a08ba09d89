import time

import torch

from seglens.cohorts.augmentation import augment


def batch(n: int = 16, channels: int = 4, size: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth z-scored disc with a bright square that is also the mask; the same in every slice."""
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    brain = x**2 + y**2 < 0.5
    mask = (abs(x - 0.25) < 0.15) & (abs(y + 0.2) < 0.2) & brain
    image = torch.where(brain, x - y + 3.0 * mask + 0.05, 0.0)
    return image.expand(n, channels, 1, size, size).clone(), mask.to(torch.uint8).expand(n, 1, size, size).clone()


def test_the_generator_decides_everything_and_the_arguments_stay() -> None:
    images, masks = batch()
    before = images.clone(), masks.clone()
    first = augment(images, masks, torch.Generator().manual_seed(5))
    again = augment(images, masks, torch.Generator().manual_seed(5))
    other = augment(images, masks, torch.Generator().manual_seed(6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])
    assert not torch.equal(first[1][0], first[1][1])  # each slice has its own draw


def test_masks_move_with_the_images() -> None:
    images, masks = batch(n=64, channels=1)
    moved, labels = augment(images, masks, torch.Generator().manual_seed(0))
    assert labels.dtype == torch.uint8
    assert labels.unique().tolist() == [0, 1]
    for image, label in zip(moved[:, 0], labels, strict=True):
        inside, outside = image[label == 1], image[(label == 0) & (image != 0)]
        assert inside.mean() > outside.mean() + 1.0
        area = int(label.sum()) / int(masks[0].sum())
        assert 0.75 < area < 1.3
    mirrored = sum(label.nonzero()[:, 2].float().mean() < 63.5 for label in labels)
    assert 16 < mirrored < 48
    assert all(label.nonzero()[:, 1].float().mean() < 63.5 for label in labels)  # never upside down


def test_outside_the_brain_stays_zero_and_everything_is_finite() -> None:
    images, masks = batch()
    moved, _ = augment(images, masks, torch.Generator().manual_seed(1))
    assert (moved[..., 0, 0] == 0).all()
    assert (moved[..., 60:68, 60:68] != 0).all()
    assert torch.isfinite(moved).all()
    empty, labels = augment(torch.zeros_like(images), torch.zeros_like(masks), torch.Generator().manual_seed(1))
    assert not empty.any()
    assert not labels.any()


def test_an_oblong_slice_is_turned_without_shear() -> None:
    images = torch.zeros(32, 1, 1, 60, 120)
    images[..., 20:40, 50:70] = 1
    labels = augment(images, images[:, 0].to(torch.uint8), torch.Generator().manual_seed(2))[1]
    for label in labels:
        _, rows, columns = label.nonzero().float().unbind(1)
        # a square stays a square: the two spreads agree whatever the angle
        assert abs(rows.std() / columns.std() - 1) < 0.06


def test_a_batch_is_quick() -> None:
    images, masks = batch()
    generator = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = min(_seconds(lambda: augment(images, masks, generator)) for _ in range(10))
    finally:
        torch.set_num_threads(threads)
    assert best < 0.05  # 12 ms measured; the machine may be busy


def _seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start
