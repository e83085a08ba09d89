import pytest
import torch
from torch import nn

from seglens.activations.replay import Replay, record_together
from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "core", 2: "edema"}


class Shared(nn.Module):
    """One block used before and after the hookpoint, its output used twice, and a dictionary as output."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())
        self.stem = nn.Conv2d(1, 4, 1)
        self.middle = nn.Conv2d(4, 4, 1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, images):
        early = self.block(self.stem(images))
        late = self.block(self.middle(early))
        return self.head(torch.cat([early, late], dim=1))


class InPlace(Shared):
    """Writes into the activation after it has been recorded."""

    def forward(self, images):
        early = self.stem(images)
        middle = self.middle(early)
        early.mul_(2.0)
        return self.head(torch.cat([early, middle], dim=1))


class Branches(nn.Module):
    """A branch beside the hookpoint that runs after it, joined by plain arithmetic; the other half sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.here = nn.Conv2d(1, 3, 1)
        self.beside = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Tanh())
        self.join = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        asleep = torch.relu(self.here(images) - 1e4)
        return self.join(self.beside(images)) + asleep


class Fickle(Branches):
    """Calls other modules when the activation at the hookpoint is another."""

    def forward(self, images):
        here = self.here(images)
        return self.join(self.beside(images) if here.std() < 1 else here)


def wrapped(network, hookpoint):
    torch.manual_seed(0)
    return Segmenter.wrap(network(), sequences=("T1",), labels=LABELS, hookpoints={"here": hookpoint}, size=16)


def scaled(grid):
    return grid * 1.5


def images(channels, size, count=3):
    return torch.randn(count, channels, 1, size, size, generator=torch.Generator().manual_seed(1))


def full(segmenter, hookpoint, batch, change):
    from seglens.activations.hooks import edit

    with torch.no_grad(), edit(segmenter, hookpoint, change):
        return segmenter.logits(batch)


CASES = [
    ("segformer-b0", "stage1"),
    ("segformer-b0", "stage3"),
    ("unet", "encoder1"),
    ("unet", "encoder4"),
    ("unet", "decoder2"),
]


@pytest.mark.parametrize(("architecture", "hookpoint"), CASES)
def test_replay_equals_the_full_pass_bit_for_bit(architecture, hookpoint):
    from seglens.segmenters.architectures import build_segmenter

    segmenter = build_segmenter(architecture, sequences=("T1", "T2"), labels=LABELS, size=32, seed=0)
    replay = Replay(segmenter, hookpoint)
    for batch in (images(2, 32), images(2, 32, count=2) * 2):
        unedited = replay.record(batch)
        with torch.no_grad():
            assert torch.equal(unedited, segmenter.logits(batch))
            assert torch.equal(replay.logits(), unedited)
            assert torch.equal(replay.logits(scaled), full(segmenter, hookpoint, batch, scaled))
            assert not torch.equal(replay.logits(scaled), unedited)
    assert replay.exact
    assert segmenter.place(hookpoint).module in replay.replayed_modules


@pytest.mark.parametrize("architecture", ["segformer-b0", "unet"])
def test_several_hookpoints_are_recorded_by_one_pass(architecture):
    from seglens.segmenters.architectures import build_segmenter

    segmenter = build_segmenter(architecture, sequences=("T1", "FLAIR"), labels=LABELS, size=32)
    replays = {name: Replay(segmenter, name) for name in segmenter.hookpoints}
    for batch in (images(2, 32), images(2, 32, 1) + 1):
        with torch.no_grad():
            assert torch.equal(record_together(list(replays.values()), batch), segmenter.logits(batch))
            for name, replay in replays.items():
                assert replay.exact and replay.replayed_modules
                assert torch.equal(replay.logits(scaled), full(segmenter, name, batch, scaled)), name
    assert not any("forward" in module.__dict__ for module in segmenter.network.modules())


def test_only_the_rest_of_the_network_is_computed():
    segmenter = wrapped(Shared, "middle")
    calls = []
    for name, module in segmenter.network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _m, _i, name=name: calls.append(name))
    replay = Replay(segmenter, "here")
    replay.record(images(1, 16))
    calls.clear()
    replay.logits(scaled)
    # hooks of replayed modules still run, but the convolution inside the replayed block does so once, for its late call
    assert sorted(calls) == ["block.0", "head", "middle", "stem"]
    assert replay.replayed_modules == ["block", "middle", "stem"]
    forwards = []
    segmenter.network.stem.weight.data.fill_(torch.nan)  # not read again
    forwards.append(replay.logits(scaled))
    assert not forwards[0].isnan().any()


@pytest.mark.parametrize("hookpoint", ["stem", "block", "middle"])
def test_a_module_used_twice(hookpoint):
    segmenter = wrapped(Shared, hookpoint)
    replay = Replay(segmenter, "here")
    replay.record(images(1, 16))
    assert replay.exact
    assert torch.equal(replay.logits(scaled), full(segmenter, "here", images(1, 16), scaled))


def test_what_runs_later_but_gets_nothing_of_the_hookpoint_is_replayed():
    from seglens.segmenters.architectures import build_segmenter

    segmenter = build_segmenter("segformer-b0", sequences=("T1", "T2"), labels=LABELS, size=32, seed=0)
    for hookpoint, count in (("stage1", 0), ("stage2", 1), ("stage3", 2), ("stage4", 3)):
        replay = Replay(segmenter, hookpoint)
        replay.record(images(2, 32))
        projections = [name for name in replay.replayed_modules if "projection" in name]
        assert projections == [f"decode_head.linear_projections.{number}" for number in range(count)]


def test_a_later_branch_is_replayed_and_a_sleeping_one_wakes():
    segmenter = wrapped(Branches, "here")
    replay = Replay(segmenter, "here")
    replay.record(images(1, 16))
    assert replay.exact
    assert replay.replayed_modules == ["beside", "here", "join"]

    def loud(grid):
        return grid + 2e4

    for change in (scaled, loud):
        assert torch.equal(replay.logits(change), full(segmenter, "here", images(1, 16), change))
    assert not torch.equal(replay.logits(loud), replay.logits())


def test_a_network_that_takes_another_path_replays_only_what_comes_before():
    segmenter = wrapped(Fickle, "here")
    replay = Replay(segmenter, "here")
    replay.record(images(1, 16) / 100)
    assert replay.exact
    assert replay.replayed_modules == ["here"]
    for change in (scaled, lambda grid: grid + torch.arange(16.0).view(1, 1, 16, 1, 1)):
        assert torch.equal(replay.logits(change), full(segmenter, "here", images(1, 16) / 100, change))


def test_a_network_that_writes_into_recorded_outputs_is_run_whole():
    segmenter = wrapped(InPlace, "middle")
    replay = Replay(segmenter, "here")
    replay.record(images(1, 16))
    assert not replay.exact
    assert replay.replayed_modules == []
    for _ in range(2):
        assert torch.equal(replay.logits(scaled), full(segmenter, "here", images(1, 16), scaled))


def test_forwards_come_back_also_after_an_error():
    segmenter = wrapped(Shared, "middle")
    mine = segmenter.network.stem.forward
    segmenter.network.stem.forward = mine  # an instance forward that was there before
    replay = Replay(segmenter, "here")
    replay.record(images(1, 16))

    def broken(grid):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        replay.logits(broken)
    assert segmenter.network.stem.__dict__["forward"] is mine
    for name, module in segmenter.network.named_modules():
        assert not module._forward_hooks
        assert name == "stem" or "forward" not in module.__dict__


def test_gradients_flow_through_the_replayed_rest():
    segmenter = wrapped(Shared, "middle")
    replay = Replay(segmenter, "here")
    replay.record(images(1, 16))
    leaves = []

    def leaf(grid):
        leaves.append(grid.detach().requires_grad_())
        return leaves[0]

    (gradient,) = torch.autograd.grad(replay.logits(leaf).sum(), leaves)
    assert gradient.shape == leaves[0].shape
    assert gradient.abs().sum() > 0


def test_misuse_is_explained():
    segmenter = wrapped(Shared, "middle")
    with pytest.raises(ValueError, match="record"):
        Replay(segmenter, "here").logits()
    with pytest.raises(ValueError, match="here"):
        Replay(segmenter, "her")
    segmenter.network.unused = nn.Conv2d(1, 1, 1)
    unused = Segmenter.wrap(segmenter.network, sequences=("T1",), labels=LABELS, hookpoints={"here": "unused"}, size=16)
    with pytest.raises(ValueError, match="does not run"):
        Replay(unused, "here").record(images(1, 16))
