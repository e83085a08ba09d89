from collections import namedtuple

import pytest
import torch
from einops import rearrange
from tests.toys import LABELS, TINY_SEGFORMER
from torch import nn
from transformers.models.segformer.configuration_segformer import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerForSemanticSegmentation

from seglens.activations.hooks import activations, activations_at, capture, edit
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.segmenter import Hookpoint, Segmenter

STAGES = ("stage1", "stage2", "stage3", "stage4")
IMAGES = torch.randn(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def ours(seed=0):
    return build_segmenter(
        "segformer-b0", sequences=("T1",), labels=LABELS, size=64, seed=seed, settings=TINY_SEGFORMER
    )


def raw():
    """transformers' own SegFormer, wrapped as a user would."""
    torch.manual_seed(0)
    network = SegformerForSemanticSegmentation(SegformerConfig(num_channels=1, num_labels=3, **TINY_SEGFORMER))
    hookpoints = {f"stage{stage + 1}": f"segformer.stages.{stage}" for stage in range(4)}
    return Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints=hookpoints, size=64)


def n_hooks(segmenter):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in segmenter.network.modules())


def stage_by_stage(segmenter, images, edited, change):
    """The whole network without a hook: every stage's output goes to the next stage and to the decoder."""
    seen, hidden = [], images
    for number, stage in enumerate(segmenter.network.segformer.stages):
        hidden = type(stage).forward(stage, hidden)
        if f"stage{number + 1}" == edited:
            hidden = rearrange(change(rearrange(hidden, "B d h w -> B h w d")), "B h w d -> B d h w").contiguous()
        seen.append(hidden)
    return segmenter.network.decode_head(seen)


def shift(tokens):
    return tokens * 0.5 + torch.linspace(-1, 1, tokens.shape[-1])


@pytest.mark.parametrize("make", [ours, raw])
@pytest.mark.parametrize("passes_before", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_an_edit_reaches_the_next_stage_and_the_decoder(make, passes_before, stage):
    segmenter = make()
    with torch.no_grad():
        for _ in range(passes_before):
            segmenter.network(IMAGES[:, :, 0])
        with edit(segmenter, stage, shift):
            edited = segmenter.network(IMAGES[:, :, 0], output_hidden_states=True)
        by_hand = stage_by_stage(make(), IMAGES[:, :, 0], stage, shift)
    assert torch.equal(edited.logits, by_hand)
    assert torch.equal(edited.hidden_states[STAGES.index(stage)], segmenter_state(make(), stage))


def segmenter_state(segmenter, stage):
    """The edited activation, by hand."""
    hidden = IMAGES[:, :, 0]
    with torch.no_grad():
        for number, module in enumerate(segmenter.network.segformer.stages):
            hidden = module.forward(hidden)
            if f"stage{number + 1}" == stage:
                return rearrange(shift(rearrange(hidden, "B d h w -> B h w d")), "B h w d -> B d h w")
    raise AssertionError(stage)


def test_a_hook_registered_last_would_not_reach_the_decoder():
    """The trap itself: without it, this module's order of hooks would have no reason."""
    segmenter = raw()
    with torch.no_grad():
        segmenter.network(IMAGES[:, :, 0])
        handle = segmenter.module_at("stage2").register_forward_hook(lambda _module, _inputs, output: output * 0)
        late = segmenter.network(IMAGES[:, :, 0], output_hidden_states=True)
        handle.remove()
        with edit(segmenter, "stage2", torch.zeros_like):
            edited = segmenter.network(IMAGES[:, :, 0], output_hidden_states=True)
    assert not torch.equal(late.hidden_states[1], torch.zeros_like(late.hidden_states[1]))
    assert torch.equal(edited.hidden_states[1], torch.zeros_like(edited.hidden_states[1]))


def test_no_hook_is_left_behind_even_after_an_error():
    segmenter = ours()
    segmenter.predict(IMAGES)
    before = n_hooks(segmenter)
    with capture(segmenter, "stage1"), edit(segmenter, "stage1", shift), edit(segmenter, "stage1", shift):
        segmenter.predict(IMAGES)
        assert n_hooks(segmenter) == before + 2
    assert n_hooks(segmenter) == before
    for context in (capture(segmenter, "stage2"), edit(segmenter, "stage2", shift)):
        with pytest.raises(KeyError), context:
            raise KeyError
    with pytest.raises(RuntimeError), edit(segmenter, "stage2", failing):
        segmenter.predict(IMAGES)
    activations(segmenter, "stage2", IMAGES)
    assert n_hooks(segmenter) == before


def failing(tokens):
    raise RuntimeError("in the edit")


@pytest.mark.parametrize("outer_is_capture", [True, False])
def test_a_capture_sees_the_edited_activation_whatever_the_order(outer_is_capture):
    segmenter = ours()
    with torch.no_grad():
        plain = activations(segmenter, "stage2", IMAGES)
        if outer_is_capture:
            with capture(segmenter, "stage2") as seen, edit(segmenter, "stage2", shift):
                segmenter.logits(IMAGES)
        else:
            with edit(segmenter, "stage2", shift), capture(segmenter, "stage2") as seen:
                segmenter.logits(IMAGES)
                assert torch.equal(activations(segmenter, "stage2", IMAGES), shift(plain))
    assert torch.equal(seen.tokens, shift(plain))


def test_edits_apply_in_the_order_of_entry_and_leave_one_by_one():
    segmenter = ours()
    with torch.no_grad():
        plain = activations(segmenter, "stage2", IMAGES)
        with edit(segmenter, "stage2", lambda tokens: tokens + 1):
            with edit(segmenter, "stage2", lambda tokens: tokens * 3):
                assert torch.equal(activations(segmenter, "stage2", IMAGES), (plain + 1) * 3)
            assert torch.equal(activations(segmenter, "stage2", IMAGES), plain + 1)
        assert torch.equal(activations(segmenter, "stage2", IMAGES), plain)


@pytest.mark.parametrize("stage", STAGES)
def test_a_change_that_returns_its_argument_changes_no_bit(stage):
    segmenter = ours()
    plain = segmenter.logits(IMAGES)
    with edit(segmenter, stage, lambda tokens: tokens), capture(segmenter, stage):
        assert torch.equal(segmenter.logits(IMAGES), plain)
    with edit(segmenter, stage, torch.clone):
        assert torch.equal(segmenter.logits(IMAGES), plain)


def test_gradients_reach_the_edit():
    segmenter = ours()
    leaf = activations(segmenter, "stage3", IMAGES).detach().requires_grad_()
    with edit(segmenter, "stage3", lambda tokens: leaf):
        segmenter.logits(IMAGES).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0


class Tokenwise(nn.Module):
    """Hands its input on in another layout, and undoes it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner.undo(self.inner(images))


class Bhwc(nn.Module):
    def forward(self, images):
        return rearrange(images, "B C H W -> B H W C")

    def undo(self, output):
        return rearrange(output, "B H W C -> B C H W")


class Bnc(nn.Module):
    def forward(self, images):
        return rearrange(images, "B C H W -> B (H W) C")

    def undo(self, output):
        return rearrange(output, "B (H W) C -> B C H W", H=8)


class Second(nn.Module):
    def forward(self, images):
        return "first", images

    def undo(self, output):
        assert isinstance(output, tuple)
        return output[1]


Pair = namedtuple("Pair", ["name", "activation"])


class Named(Second):
    def forward(self, images):
        return Pair("first", images)

    def undo(self, output):
        return output.activation


class Listed(Second):
    def forward(self, images):
        return ["first", images]

    def undo(self, output):
        assert isinstance(output, list)
        return output[1]


class ChannelsLast(nn.Module):
    def forward(self, images):
        return images.contiguous(memory_format=torch.channels_last)

    def undo(self, output):
        assert output.is_contiguous(memory_format=torch.channels_last)
        return output


LAYOUTS = [
    (Bhwc, Hookpoint("inner", "BHWC")),
    (Bnc, Hookpoint("inner", "BNC")),
    (Second, Hookpoint("inner", "BCHW", 1)),
    (Named, Hookpoint("inner", "BCHW", -1)),
    (Listed, Hookpoint("inner", "BCHW", 1)),
    (ChannelsLast, Hookpoint("inner", "BCHW")),
]


def of_layout(inner, place):
    return Segmenter.wrap(
        Tokenwise(inner()), sequences=("a", "b", "c"), labels=LABELS, hookpoints={"here": place}, size=8
    )


@pytest.mark.parametrize(("inner", "place"), LAYOUTS)
def test_layouts(inner, place):
    segmenter, images = of_layout(inner, place), torch.randn(2, 3, 1, 8, 8)
    with capture(segmenter, "here") as seen:
        assert torch.equal(segmenter.logits(images), images)
    tokens = rearrange(images, "B C D H W -> B D H W C")
    assert torch.equal(seen.tokens, tokens)
    assert seen.tokens.is_contiguous()
    with edit(segmenter, "here", shift):
        expected = rearrange(shift(tokens), "B D H W C -> B C D H W")
        assert torch.equal(segmenter.logits(images), expected)
    with edit(segmenter, "here", lambda tokens: tokens):
        assert torch.equal(segmenter.logits(images), images)
    assert torch.equal(activations(segmenter, "here", images), tokens)


class Bdhwc(nn.Module):
    def forward(self, images):
        return rearrange(images, "B C D H W -> B D H W C")

    def undo(self, output):
        return rearrange(output, "B D H W C -> B C D H W")


class BncOfVolumes(nn.Module):
    def forward(self, images):
        return rearrange(images, "B C D H W -> B (D H W) C")

    def undo(self, output):
        return rearrange(output, "B (D H W) C -> B C D H W", D=2, H=4)


class ChannelsLastOfVolumes(ChannelsLast):
    def forward(self, images):
        return images.contiguous(memory_format=torch.channels_last_3d)

    def undo(self, output):
        assert output.is_contiguous(memory_format=torch.channels_last_3d)
        return output


@pytest.mark.parametrize(
    ("inner", "place"),
    [
        (Bdhwc, Hookpoint("inner", "BDHWC")),
        (BncOfVolumes, Hookpoint("inner", "BNC", grid=(2, 4, 3))),
        (ChannelsLastOfVolumes, Hookpoint("inner", "BCDHW")),
        (Second, Hookpoint("inner", "BCDHW", 1)),
    ],
)
def test_layouts_of_volumes(inner, place):
    images = torch.randn(2, 3, 2, 4, 3)
    network, settings = Tokenwise(inner()), {"sequences": ("a", "b", "c"), "labels": LABELS, "size": (2, 4, 3)}
    segmenter = Segmenter.wrap(network, hookpoints={"here": place}, **settings)
    tokens = rearrange(images, "B C D H W -> B D H W C")
    with capture(segmenter, "here") as seen:
        assert torch.equal(segmenter.logits(images), images)
    assert torch.equal(seen.tokens, tokens)
    with edit(segmenter, "here", shift):
        assert torch.equal(segmenter.logits(images), rearrange(shift(tokens), "B D H W C -> B C D H W"))
    with edit(segmenter, "here", lambda tokens: tokens):
        assert torch.equal(segmenter.logits(images), images)


@pytest.mark.parametrize(
    ("inner", "place", "message"),
    [
        (BncOfVolumes, Hookpoint("inner", "BNC", grid=(2, 3, 3)), "24 positions are not the declared grid"),
        (Bdhwc, Hookpoint("inner", "BDHWC", item=0), "declares item 0"),
        (BncOfVolumes, Hookpoint("inner", "BCDHW"), r"layout BCDHW has 5 axes, .* is \(2, 24, 3\)"),
    ],
)
def test_layouts_of_volumes_that_do_not_fit_are_refused(inner, place, message):
    network, settings = Tokenwise(inner()), {"sequences": ("a", "b", "c"), "labels": LABELS, "size": (2, 4, 3)}
    segmenter = Segmenter.wrap(network, hookpoints={"here": place}, **settings)
    with pytest.raises(ValueError, match=message):
        activations(segmenter, "here", torch.randn(2, 3, 2, 4, 3))


@pytest.mark.parametrize(
    ("inner", "place", "message"),
    [
        (Second, Hookpoint("inner"), r"'inner' returns a tuple of 2: str, Tensor; declare which element"),
        (Second, Hookpoint("inner", item=2), "declares item 2, but 'inner' returns a tuple of 2"),
        (Bhwc, Hookpoint("inner", item=0), "declares item 0, but 'inner' returns a Tensor"),
        (Bnc, Hookpoint("inner"), r"layout BCHW has 4 axes, the output of 'inner' is \(2, 64, 3\)"),
        (Bhwc, Hookpoint("inner", "BNC"), "layout BNC has 3 axes"),
    ],
)
def test_an_output_that_is_not_as_declared_is_refused(inner, place, message):
    segmenter = of_layout(inner, place)
    with pytest.raises(ValueError, match=message), capture(segmenter, "here"):
        segmenter.logits(torch.randn(2, 3, 1, 8, 8))


def test_positions_that_are_no_square_are_refused():
    segmenter = of_layout(Bnc, Hookpoint("inner", "BNC"))
    with (
        pytest.raises(ValueError, match=r"80 positions are not a square grid \(a class token"),
        edit(segmenter, "here", shift),
    ):
        segmenter.logits(torch.randn(2, 3, 1, 8, 10))


def test_a_later_in_place_change_does_not_reach_what_was_captured():
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(inplace=True))
    segmenter = Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"here": "0"}, size=8)
    images = torch.randn(1, 1, 1, 8, 8)
    with torch.no_grad(), capture(segmenter, "here") as seen:
        segmenter.logits(images)
    assert torch.equal(rearrange(seen.tokens, "B 1 h w c -> B c h w"), network[0](images[:, :, 0]))
    assert bool((seen.tokens < 0).any())


def test_other_mistakes_are_said():
    segmenter = ours()
    with (
        pytest.raises(ValueError, match="it must keep the shape"),
        edit(segmenter, "stage1", lambda tokens: tokens[:1]),
    ):
        segmenter.logits(IMAGES)
    with pytest.raises(ValueError, match="no hookpoint 'stage9'"), edit(segmenter, "stage9", shift):
        pass
    with pytest.raises(ValueError, match="nothing captured at 'stage1' yet"), capture(segmenter, "stage1") as seen:
        seen.tokens  # noqa: B018
    network = nn.Conv2d(1, 3, 1)
    network.add_module("aside", nn.Identity())
    wrapped = Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"aside": "aside"}, size=8)
    with pytest.raises(ValueError, match=r"'aside' did not run in a forward pass"):
        activations(wrapped, "aside", IMAGES)


def test_several_hookpoints_of_one_pass_are_those_of_one_each():
    segmenter = ours()
    with torch.no_grad(), edit(segmenter, "stage1", shift):
        segmenter.network(IMAGES[:, :, 0])  # transformers installs its own hooks
        before = n_hooks(segmenter)
        together = activations_at(segmenter, ["stage3", "stage1", "stage2"], IMAGES)
        assert n_hooks(segmenter) == before
        for name, found in zip(("stage3", "stage1", "stage2"), together, strict=True):
            assert torch.equal(found, activations(segmenter, name, IMAGES))


def test_of_several_hookpoints_the_one_that_no_pass_reaches_is_named():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.aside = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)

        def forward(self, images):
            return self.used(images)

    places = {"used": "used", "aside": "aside"}
    segmenter = Segmenter.wrap(Aside(), sequences=("T1",), labels=LABELS, hookpoints=places, size=8)
    with pytest.raises(ValueError, match="hookpoint 'aside': its module 'aside' did not run in a forward pass"):
        activations_at(segmenter, ["used", "aside"], torch.zeros(1, 1, 1, 8, 8))
