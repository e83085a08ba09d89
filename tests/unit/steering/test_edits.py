import copy
import math

import pytest
import torch

from seglens.activations.hooks import capture
from seglens.dictionaries.codes import Codes
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.architectures import build_segmenter
from seglens.steering.edits import LatentEdit, change_of, check_edits, slice_change, steer, swap_source
from seglens.steering.shared_codes import codes_of

LABELS = {0: "background", 1: "core", 2: "edema"}
ARCHITECTURES = [("segformer-b0", "stage2"), ("unet", "encoder2")]


def images(count=3, size=16):
    return torch.randn(count, 2, 1, size, size, generator=torch.Generator().manual_seed(7))


def real(architecture, hookpoint):
    """A whole architecture with a dictionary that fires at about half of its tokens."""
    segmenter = build_segmenter(architecture, sequences=("T1", "FLAIR"), labels=LABELS, size=32, seed=0)
    with capture(segmenter, hookpoint) as seen:
        segmenter.predict(images(size=32))
    tokens = seen.tokens.flatten(0, 3)
    dictionary = SparseAutoencoder(tokens.shape[1], 32, k=4, seed=1, hookpoint=hookpoint, segmenter_hash=segmenter.hash)
    dictionary.centre.copy_(tokens.mean(0))
    dictionary.scale.fill_(float(tokens.shape[1] ** 0.5 / (tokens - tokens.mean(0)).norm(dim=1).mean()))
    return segmenter, dictionary


def dense_twin(edit, z, swapped=None):
    """Loops over tokens and latents."""
    new = z.clone()
    for token in range(len(z)):
        for place, latent in enumerate(edit.latents):
            old = float(z[token, latent])
            if edit.where == "active" and old == 0:
                continue
            new[token, latent] = {
                "multiply": old * edit.value,
                "add": old + edit.value,
                "zero": 0.0,
                "clamp": edit.value,
                "swap": float(swapped[token, place]) if swapped is not None else 0.0,
            }[edit.operation]
    return new


OPERATIONS = [
    ("multiply", -2.0, "everywhere"),
    ("add", 1.5, "everywhere"),
    ("add", 1.5, "active"),
    ("zero", 0.0, "everywhere"),
    ("clamp", 0.7, "everywhere"),
    ("clamp", 0.7, "active"),
    ("swap", 0.0, "everywhere"),
]


@pytest.mark.parametrize(("operation", "value", "where"), OPERATIONS)
def test_apply_equals_a_loop_over_tokens_and_latents(dictionary, operation, value, where, make_edit):
    z = torch.relu(torch.randn(30, 24, generator=torch.Generator().manual_seed(0)) - 0.5)
    edit = make_edit(dictionary, (9, 2, 20), operation, value, where=where)
    swapped = torch.rand(30, 3, generator=torch.Generator().manual_seed(1)) if operation == "swap" else None
    codes = edit.apply(Codes.from_dense(z), swapped)
    assert torch.equal(codes.to_dense(), dense_twin(edit, z, swapped))
    assert bool((codes.latents.diff()[codes.token_rows().diff() == 0] > 0).all())


@pytest.mark.parametrize(("operation", "value", "where"), OPERATIONS)
def test_steering_adds_the_decoded_difference(world, operation, value, where, make_edit):
    segmenter, dictionary = world.segmenter, world.dictionary
    edit = make_edit(dictionary, operation=operation, value=value, where=where)
    other = SparseAutoencoder(8, 12, k=2, seed=5)
    source = swap_source(dictionary, other, {1: 4, 3: 0, 5: 11}) if operation == "swap" else None
    with capture(segmenter, "here") as seen:
        segmenter.predict(images())
        before = seen.tokens.flatten(0, 3)
        with steer(Lens(segmenter, dictionary), edit, source=source):
            segmenter.predict(images())
            after = seen.tokens.flatten(0, 3)
    z = dictionary.encode(before).to_dense()
    swapped = (
        other.encode(before).to_dense()[:, [4, 0, 11]] * (dictionary.scale / other.scale)
        if operation == "swap"
        else None
    )
    new = dense_twin(edit, z, swapped)
    expected = before + (new - z) @ dictionary.W_dec / dictionary.scale
    assert torch.allclose(after, expected, atol=1e-5)
    untouched = (new == z).all(1)
    assert torch.equal(after[untouched], before[untouched])
    assert not torch.equal(after, before)


def test_edits_apply_one_after_the_other(segmenter, dictionary, make_edit):
    first, second = make_edit(dictionary, (1, 3), "add", 1.0), make_edit(dictionary, (3, 6), "multiply", 2.0)
    tokens = torch.randn(1, 2, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    z = dictionary.encode(tokens.flatten(0, 3)).to_dense()
    new = dense_twin(second, dense_twin(first, z))
    expected = tokens.flatten(0, 3) + (new - z) @ dictionary.W_dec / dictionary.scale
    assert torch.allclose(change_of(dictionary, [first, second])(tokens).flatten(0, 3), expected, atol=1e-6)


@pytest.mark.parametrize("identity", [("multiply", 1, (1, 3)), ("add", 0, (1, 3)), ("zero", 0, ())])
@pytest.mark.parametrize(("architecture", "hookpoint"), ARCHITECTURES)
def test_an_identity_edit_changes_no_bit(architecture, hookpoint, identity, make_edit):
    operation, value, latents = identity
    segmenter, dictionary = real(architecture, hookpoint)
    before = segmenter.logits(images(size=32))
    with steer(Lens(segmenter, dictionary), make_edit(dictionary, latents, operation, value)):
        assert torch.equal(segmenter.logits(images(size=32)), before)
    assert make_edit(dictionary, latents, operation, value).is_identity


@pytest.mark.parametrize(("architecture", "hookpoint"), ARCHITECTURES)
def test_latents_that_do_not_fire_change_no_bit_and_others_change_the_mask(architecture, hookpoint, make_edit):
    segmenter, dictionary = real(architecture, hookpoint)
    before = segmenter.logits(images(size=32))
    own_hooks = sum(len(module._forward_hooks) for module in segmenter.network.modules())  # of transformers
    edit = make_edit(dictionary, range(16), "multiply", 3.0)
    with steer(Lens(segmenter, dictionary), edit):
        assert not torch.equal(segmenter.logits(images(size=32)), before)
    dictionary.theta.fill_(1e9)
    with steer(Lens(segmenter, dictionary), make_edit(dictionary, range(16), "multiply", 3.0)):
        assert torch.equal(segmenter.logits(images(size=32)), before)
    assert sum(len(module._forward_hooks) for module in segmenter.network.modules()) == own_hooks


@pytest.mark.parametrize("passes_before", [0, 1])
def test_an_edit_reaches_the_next_stage_and_the_decoder(passes_before, make_edit):
    segmenter, dictionary = real("segformer-b0", "stage2")
    segmenter = build_segmenter("segformer-b0", sequences=("T1", "FLAIR"), labels=LABELS, size=32, seed=0)
    edit = make_edit(dictionary, range(8), "add", 1.0)
    for _ in range(passes_before):
        segmenter.predict(images(size=32))
    seen_by = {}
    network = segmenter.network

    def note(name):
        def hook(_module, inputs):
            seen_by[name] = inputs[0]

        return hook

    with steer(Lens(segmenter, dictionary), edit), capture(segmenter, "stage2") as own:
        handles = [
            network.get_submodule("segformer.stages.2").register_forward_pre_hook(note("stage")),
            network.decode_head.register_forward_pre_hook(note("decoder")),
        ]
        segmenter.predict(images(size=32))
        for handle in handles:
            handle.remove()
    edited = own.tokens[:, 0].movedim(-1, 1)
    assert torch.equal(seen_by["stage"], edited)
    states = seen_by["decoder"]
    assert torch.equal(states[1] if isinstance(states, tuple | list) else states, edited)


def test_replace_is_the_reconstruction_with_the_edit(segmenter, dictionary, make_edit):
    tokens = torch.randn(2, 2, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    flat = tokens.flatten(0, 3)
    reconstruct = make_edit(dictionary, (), "multiply", 1.0, mode="replace")
    assert torch.equal(
        change_of(dictionary, [reconstruct])(tokens).flatten(0, 3), dictionary.decode(dictionary.encode(flat))
    )
    edit = make_edit(dictionary, (2, 8), "add", 1.0, mode="replace")
    z = dense_twin(edit, dictionary.encode(flat).to_dense())
    expected = (z @ dictionary.W_dec + dictionary.b_dec) / dictionary.scale + dictionary.centre
    assert torch.allclose(change_of(dictionary, [edit])(tokens).flatten(0, 3), expected, atol=1e-5)


def test_codes_of_a_few_latents_equal_the_full_encode(dictionary):
    tokens = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    dense = dictionary.encode(tokens).to_dense()[:, [7, 0, 13]]
    assert torch.allclose(codes_of(dictionary, tokens, [7, 0, 13]), dense, atol=1e-6)


def test_each_slice_has_its_own_latents(dictionary, make_edit):
    grid = torch.randn(3, 2, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    latents = torch.tensor([[1, 2], [3, 4], [5, 20]])
    together = slice_change(dictionary, latents, 2.5)(grid)
    for number, own in enumerate(latents.tolist()):
        alone = change_of(dictionary, [make_edit(dictionary, own, "multiply", 2.5)])(grid[number : number + 1])
        assert torch.allclose(together[number], alone[0], atol=1e-6)
    assert slice_change(dictionary, latents, 1.0)(grid) is grid


def test_no_hook_is_left_behind(segmenter, dictionary, make_edit):
    with pytest.raises(RuntimeError, match="inside"), steer(Lens(segmenter, dictionary), make_edit(dictionary)):
        assert any(module._forward_hooks for module in segmenter.network.modules())
        raise RuntimeError("inside")
    assert not any(module._forward_hooks for module in segmenter.network.modules())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_must_be_finite(dictionary, value, make_edit):
    with pytest.raises(ValueError, match="finite"):
        make_edit(dictionary, value=value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents": (1, 1)}, "different"),
        ({"latents": (-1,)}, ">= 0"),
    ],
)
def test_latents_are_checked(dictionary, settings, message, make_edit):
    with pytest.raises(ValueError, match=message):
        make_edit(dictionary, **settings)


def test_words_are_checked(dictionary, monkeypatch, make_edit):
    edit = make_edit(dictionary)
    object.__setattr__(edit, "operation", "explode")  # past the type check of the tests
    with pytest.raises(ValueError, match="multiply, add, zero"):
        edit.__post_init__()


def test_what_does_not_belong_together_is_refused_in_one_message(segmenter, dictionary, make_edit):
    lens = Lens(segmenter, dictionary)
    other = LatentEdit("elsewhere", "f" * 64, (99,), "multiply", 2.0)
    with pytest.raises(ValueError, match="elsewhere") as caught, steer(lens, other):
        pass
    for part in ("for dictionary ffffffffffff", "[99]", "0..23"):
        assert part in str(caught.value)
    both = [make_edit(dictionary), make_edit(dictionary, mode="replace")]
    with pytest.raises(ValueError, match="one mode"), steer(lens, *both):
        pass


def test_a_swap_needs_codes_and_partners(segmenter, dictionary, make_edit):
    swap = make_edit(dictionary, (1, 2), "swap", 0.0)
    with pytest.raises(ValueError, match="source"), steer(Lens(segmenter, dictionary), swap):
        segmenter.predict(images())
    source = swap_source(dictionary, dictionary, {1: 1})
    with pytest.raises(ValueError, match=r"\[2\]"), steer(Lens(segmenter, dictionary), swap, source=source):
        segmenter.predict(images())


def test_a_swap_with_itself_changes_nothing(segmenter, dictionary, make_edit):
    swap = make_edit(dictionary, (1, 2), "swap", 0.0)
    before = segmenter.logits(images())
    with steer(Lens(segmenter, dictionary), swap, source=swap_source(dictionary, dictionary, {1: 1, 2: 2})):
        assert torch.equal(segmenter.logits(images()), before)


def test_a_swap_is_in_the_units_of_the_edited_dictionary(segmenter, dictionary, make_edit):
    """The same dictionary in units 1.31 times as fine: its codes are 1.31 times as large and mean the same."""
    finer = SparseAutoencoder(8, 24, k=2)
    finer.load_state_dict(dictionary.state_dict())
    for name in ("scale", "theta", "b_enc", "b_dec"):
        getattr(finer, name).data.mul_(1.31)
    tokens = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(finer.encode(tokens).to_dense(), dictionary.encode(tokens).to_dense() * 1.31)
    every = tuple(range(24))
    swap = make_edit(dictionary, every, "swap", 0.0)
    before = segmenter.logits(images())
    source = swap_source(dictionary, finer, {latent: latent for latent in every})
    with steer(Lens(segmenter, dictionary), swap, source=source):
        torch.testing.assert_close(segmenter.logits(images()), before)
    with steer(Lens(segmenter, dictionary), make_edit(dictionary, every, "multiply", 1.31)):
        assert not torch.allclose(segmenter.logits(images()), before, atol=1e-3)  # what mixed units would do


def test_an_edit_is_described_and_named(dictionary, make_edit):
    edit = make_edit(dictionary, (9, 2), "add", 1, where="active")
    assert edit.latents == (2, 9)
    assert LatentEdit.from_description(edit.description()) == edit
    names = {
        make_edit(dictionary, latents, operation, value, mode=mode).name
        for latents in ((1,), (2,), (1, 2))
        for operation, value in (("add", 1.0), ("multiply", 1.0), ("multiply", 2.0), ("zero", 0.0))
        for mode in ("difference", "replace")
    }
    assert len(names) == 24
    assert make_edit(dictionary, ()).name == "identity"
    assert make_edit(dictionary, (), mode="replace").name == "reconstruct only"


def test_a_dictionary_that_names_no_segmenter_is_not_steered(segmenter, dictionary, make_edit):
    foreign = copy.deepcopy(dictionary)
    foreign.segmenter_hash = ""
    lens = Lens(segmenter, foreign)  # its width fits, so it can be looked through
    with pytest.raises(ValueError, match="does not say which segmenter it was fitted to; fit one to its act"):
        check_edits(lens, [make_edit(foreign)])
    foreign.segmenter_hash = segmenter.hash
    check_edits(Lens(segmenter, foreign), [make_edit(foreign)])
