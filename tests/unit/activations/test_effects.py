import polars as pl
import pytest
import torch
from torch import nn

from seglens.activations.effects import choose_hookpoint, hookpoint_effects, to_mean
from seglens.activations.hooks import activations, edit
from seglens.cohorts.slices import SliceSet
from seglens.segmenters.architectures import build_segmenter
from seglens.segmenters.scoring import evaluate
from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "edema", 2: "enhancing"}


class Shown(nn.Module):
    """Reads the label off the image; what ``aside`` computes is thrown away."""

    def __init__(self):
        super().__init__()
        self.used = nn.Conv2d(1, 1, 1)
        self.aside = nn.Conv2d(1, 2, 1)
        nn.init.ones_(self.used.weight)
        nn.init.zeros_(self.used.bias)

    def forward(self, images):
        labels = torch.arange(3.0).view(1, 3, 1, 1)
        return -(self.used(images) - labels).square() + 0 * self.aside(images)[:, :1]


def slices_of(n=6, size=8):
    masks = torch.randint(0, 3, (n, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    index = pl.DataFrame({"case": [f"c{row}" for row in range(n)]})
    images = masks[:, None].float()
    return SliceSet.from_tensors(images, masks, masks >= 0, index, name="toy", sequences=("T1",), labels=LABELS)


def segmenter():
    torch.manual_seed(0)
    hookpoints = {"used": "used", "aside": "aside"}
    return Segmenter.wrap(Shown(), sequences=("T1",), labels=LABELS, hookpoints=hookpoints, size=8)


def test_ablating_what_matters_costs_dice_and_what_does_not_costs_nothing():
    slices, seen = slices_of(), []
    effects = hookpoint_effects(
        segmenter(), slices, batch_size=4, progress=lambda done, total, **_: seen.append((done, total))
    )
    assert effects.columns == ["hookpoint", "class", "width", "tokens", "dice_before", "dice_ablated"]
    assert effects["width"].to_list() == [1] * 3 + [2] * 3 and set(effects["tokens"]) == {64}
    assert effects["class"].to_list() == ["edema", "enhancing", "foreground"] * 2
    assert effects["dice_before"].to_list() == [1.0] * 6
    assert seen == [(done, 18) for done in (4, 6, 10, 14, 16, 18)]
    aside = effects.filter(pl.col("hookpoint") == "aside")
    assert aside["dice_ablated"].to_list() == [1.0] * 3

    # by hand: the mean of all tokens of all slices in the place of each
    model = segmenter()
    mean = activations(model, "used", slices.images()).mean((0, 1, 2, 3))
    with edit(model, "used", to_mean(mean.detach())):
        by_hand = evaluate(model, slices).summary().dice_pooled
    used = dict(effects.filter(pl.col("hookpoint") == "used").select("class", "dice_ablated").rows())
    assert used == pytest.approx(by_hand)
    assert used["foreground"] < 0.5


@pytest.mark.parametrize("architecture", ["segformer-b0", "unet"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_equals_a_whole_pass_for_every_hookpoint(architecture, batch_size):
    slices = slices_of(7, size=32)
    model = build_segmenter(architecture, sequences=("T1",), labels=LABELS, size=32)
    effects = hookpoint_effects(model, slices, batch_size=batch_size)
    before = evaluate(model, slices).summary().dice_pooled
    for name in model.hookpoints:
        with torch.no_grad():
            mean = activations(model, name, slices.images()).mean((0, 1, 2, 3))
        with edit(model, name, to_mean(mean)):
            ablated = evaluate(model, slices).summary().dice_pooled
        for row in effects.filter(pl.col("hookpoint") == name).to_dicts():
            assert row["dice_before"] == pytest.approx(before[row["class"]], abs=1e-3)
            assert row["dice_ablated"] == pytest.approx(ablated[row["class"]], abs=1e-3)


def test_some_hookpoints_only_and_refusals():
    model, slices = segmenter(), slices_of()
    assert hookpoint_effects(model, slices, hookpoints=["aside"])["hookpoint"].unique().to_list() == ["aside"]
    nothing = hookpoint_effects(model, slices, hookpoints=[])
    assert nothing.is_empty() and nothing.schema == hookpoint_effects(model, slices).schema
    with pytest.raises(ValueError, match="no hookpoint 'used2'"):
        hookpoint_effects(model, slices, hookpoints=["used2"])


def effects_of(**measured):
    """Of each hookpoint in the order of the forward pass: Dice with its mean (.8 without), tokens, width."""
    rows = [(name, "foreground", width, tokens, 0.8, after) for name, (after, tokens, width) in measured.items()]
    columns = ["hookpoint", "class", "width", "tokens", "dice_before", "dice_ablated"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def encoder(**ablated):
    """Stages of 64 channels, each with a quarter of the tokens of the one before."""
    return effects_of(**{name: (after, 4**-n * 1024, 64) for n, (name, after) in enumerate(ablated.items())})


@pytest.mark.parametrize(
    ("ablated", "chosen"),
    [
        ({"a": 0.1, "b": 0.3, "c": 0.79}, "b"),
        ({"a": 0.1, "b": 0.3, "c": 0.4}, "c"),
        ({"a": 0.1, "b": 0.61}, "a"),
        ({"a": 0.75, "b": 0.7, "c": 0.9}, "b"),
        ({"a": 0.8, "b": 0.8, "c": None}, "c"),
    ],
)
def test_the_deepest_with_a_real_effect_is_chosen(ablated, chosen):
    assert choose_hookpoint(encoder(**ablated)).hookpoint == chosen


def test_past_a_bottleneck_that_skips_make_idle_the_decoders_level_that_joins_them_is_chosen():
    unet = effects_of(
        encoder0=(0.0, 1024, 16),
        encoder1=(0.1, 256, 32),
        encoder2=(0.3, 64, 64),
        bottleneck=(0.78, 16, 128),
        decoder2=(0.2, 64, 64),
        decoder1=(0.0, 256, 32),
    )
    choice = choose_hookpoint(unet)
    assert choice.hookpoint == "decoder2"
    assert choice.reason == (
        "decoder2 (0.60 of foreground Dice, 64 channels, 64 tokens a slice): the deepest of 4 whose mean ablation "
        "costs at least 0.2; encoder0 has fewer than 32 channels."
    )


def test_a_width_that_carries_no_dictionary_is_passed_over_where_there_is_another():
    narrow = effects_of(a=(0.1, 64, 40), b=(0.1, 16, 8))
    assert choose_hookpoint(narrow).hookpoint == "a"
    assert choose_hookpoint(narrow, minimum_width=8).hookpoint == "b"
    assert choose_hookpoint(effects_of(a=(0.7, 64, 8), b=(0.1, 16, 8))).hookpoint == "b"
    weak = choose_hookpoint(effects_of(a=(0.75, 64, 40), b=(0.1, 16, 8)))
    assert weak.hookpoint == "a" and "none costs 0.2; this one costs most; b has fewer" in weak.reason


def test_choosing_among_nothing_measured_is_refused():
    with pytest.raises(ValueError, match="no hookpoint has a measured effect"):
        choose_hookpoint(encoder())


def test_a_segmenter_without_any_dice_loses_nothing():
    effects = encoder(a=0.0, b=0.1).with_columns(dice_before=pl.lit(0.0))
    assert choose_hookpoint(effects).hookpoint == "a"
