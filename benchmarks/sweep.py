"""Scores of many edits of latents: seglens' sweep, a full pass an edit, and one prefix with a bare suffix an edit.

The last is the network cut in two at the hookpoint. seglens may be below it: it also computes once what runs after the
hookpoint but gets nothing of it, such as the projections of the finer stages in SegFormer's decoder.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.framework import Benchmark, Repeat, Subject

if TYPE_CHECKING:
    from torch import Tensor

    from seglens.cohorts.slice_set import SliceSet
    from seglens.dictionaries.lens import Lens
    from seglens.dictionaries.sae import SparseAutoencoder
    from seglens.segmenters.segmenter import Segmenter
    from seglens.steering.edits import LatentEdit

LABELS = {0: "background", 1: "necrosis", 2: "edema", 3: "enhancing"}
SEQUENCES = ("T1c", "FLAIR")
FIRING_SHARE = 0.03


def sweep(case: Mapping[str, Any]) -> Repeat:
    """seglens: one call, from slices to every Dice convention's counts."""
    from seglens.dictionaries.lens import Lens
    from seglens.steering.sweep import sweep as swept

    segmenter, slices = network(case), cohort(case)
    lens = Lens(segmenter, fitted(case, segmenter, slices))
    edits = grid(case, lens)
    return lambda: swept(lens, slices, edits, batch_size=case["batch_size"])


def full_passes(case: Mapping[str, Any]) -> Repeat:
    """A hook that encodes, edits and decodes, and a full forward pass, for every edit; every other edit is timed."""
    from seglens.dictionaries.lens import Lens
    from seglens.segmenters.scoring import evaluate
    from seglens.steering.edits import steer

    segmenter, slices = network(case), cohort(case)
    lens = Lens(segmenter, fitted(case, segmenter, slices))
    edits = list(grid(case, lens).values())[::2]

    def repeat() -> object:
        scores = []
        for edit in edits:
            with steer(lens, edit):
                scores.append(evaluate(segmenter, slices, batch_size=case["batch_size"]))
        return scores

    return repeat


def prefix_and_suffixes(case: Mapping[str, Any]) -> Repeat:
    """The network cut in two by hand: nothing is hooked, edited or counted, the masks are thrown away."""
    import torch

    segmenter, slices = network(case), cohort(case)
    halves = {"segformer-b0": segformer_halves, "unet": unet_halves}
    prefix, suffix = halves[case["architecture"]](segmenter, case["hookpoint"])

    @torch.no_grad()
    def repeat() -> None:
        for rows in slices.batches(case["batch_size"]):
            states = prefix(slices.images(rows)[:, :, 0])
            for _ in range(2 * case["alphas"]):
                suffix(states).max(dim=1)

    return repeat


def segformer_halves(
    segmenter: "Segmenter", hookpoint: str
) -> tuple[Callable[..., list["Tensor"]], Callable[..., "Tensor"]]:
    """Images to the stages' outputs up to the hookpoint, and those to logits at image size."""
    from seglens.segmenters.segmenter import resized

    stages = segmenter.network.get_submodule("segformer.stages")
    decoder = segmenter.network.get_submodule("decode_head")
    cut = int(hookpoint.removeprefix("stage"))

    def prefix(images: "Tensor") -> list["Tensor"]:
        states = [images]
        for stage in list(stages.children())[:cut]:
            states.append(stage(states[-1]))
        return states[1:]

    def suffix(states: list["Tensor"]) -> "Tensor":
        states = list(states)
        for stage in list(stages.children())[cut:]:
            states.append(stage(states[-1]))
        return resized(decoder(states), (segmenter.size, segmenter.size))

    return prefix, suffix


def unet_halves(
    segmenter: "Segmenter", hookpoint: str
) -> tuple[Callable[..., list["Tensor"]], Callable[..., "Tensor"]]:
    """Images to the levels' outputs up to the hookpoint, and those to logits."""
    levels = dict(segmenter.network.named_children())
    encoder = [levels[name] for name in ("conv_0", "down_1", "down_2", "down_3", "down_4")]
    decoder = [levels[name] for name in ("upcat_4", "upcat_3", "upcat_2", "upcat_1")]
    order = [*encoder, *decoder]
    cut = order.index(segmenter.module_at(hookpoint)) + 1

    def run(states: list["Tensor"], start: int, stop: int) -> list["Tensor"]:
        states = list(states)
        for number, level in enumerate(order[start:stop], start):
            skip = states[2 * len(encoder) - 1 - number] if number >= len(encoder) else None
            states.append(level(states[-1]) if skip is None else level(states[-1], skip))
        return states

    return lambda images: run([images], 0, cut), lambda states: levels["final_conv"](run(states, cut, len(order))[-1])


def network(case: Mapping[str, Any]) -> "Segmenter":
    """Random weights: speed does not depend on them."""
    from seglens.segmenters.architectures import build_segmenter

    return build_segmenter(case["architecture"], sequences=SEQUENCES, labels=LABELS, size=case["size"])


def cohort(case: Mapping[str, Any]) -> "SliceSet":
    """Noise, with masks of noise."""
    import polars as pl
    import torch

    from seglens.cohorts.slice_set import SliceSet

    generator, n, size = torch.Generator().manual_seed(0), case["slices"], case["size"]
    images = torch.randn(n, len(SEQUENCES), size, size, generator=generator)
    masks = torch.randint(0, len(LABELS), (n, size, size), dtype=torch.uint8, generator=generator)
    index = pl.DataFrame({"case": [f"case{number}" for number in range(n)]})
    brains = torch.ones(n, size, size, dtype=torch.bool)
    return SliceSet.from_tensors(images, masks, brains, index, name="made", sequences=SEQUENCES, labels=LABELS)


def fitted(case: Mapping[str, Any], segmenter: "Segmenter", slices: "SliceSet") -> "SparseAutoencoder":
    """A dictionary with random weights whose latents fire at `FIRING_SHARE` of the tokens."""
    import torch

    from seglens.activations.hooks import activations
    from seglens.dictionaries.sae import SparseAutoencoder

    with torch.no_grad():
        tokens = activations(segmenter, case["hookpoint"], slices.images([0])).flatten(0, 3)
    dictionary = SparseAutoencoder(
        tokens.shape[1], case["latents"], k=32, hookpoint=case["hookpoint"], segmenter_hash=segmenter.hash
    )
    dictionary.centre.copy_(tokens.mean(0))
    dictionary.scale.copy_(1 / tokens.std())
    pre = dictionary.pre_activations(tokens[:64]).flatten()
    dictionary.theta.fill_(float(pre.topk(round(FIRING_SHARE * len(pre))).values[-1]))
    return dictionary


def grid(case: Mapping[str, Any], lens: "Lens") -> dict[str, "LatentEdit"]:
    """As many alphas of both operations; none of them is neutral, which would cost nothing."""
    import torch

    from seglens.steering.sweep import alpha_grid

    alphas = torch.linspace(-1, 2.9, case["alphas"]).tolist()
    latents = range(0, case["latents"], case["latents"] // 60)
    return alpha_grid(lens, {"some": latents}, {"multiply": alphas, "add": [alpha - 0.99 for alpha in alphas]})


def _case(architecture: str, hookpoint: str, alphas: int = 41, slices: int = 8) -> dict[str, Any]:
    sizes = {"size": 128, "latents": 1024, "batch_size": 8}
    return {"architecture": architecture, "hookpoint": hookpoint, "alphas": alphas, "slices": slices} | sizes


BENCHMARK = Benchmark(
    name="sweep",
    title="scores of 82 edits (41 alphas, two operations) of 8 slices at 128 px, from images to counts",
    cases={
        "SegFormer-b0, stage 2 (prefix a third)": _case("segformer-b0", "stage2"),
        "SegFormer-b0, stage 3 (prefix half)": _case("segformer-b0", "stage3"),
        "U-Net, encoder 3 (prefix nearly half)": _case("unet", "encoder3"),
        "U-Net, decoder 4 (prefix half)": _case("unet", "decoder4"),
        **{f"SegFormer-b0, stage 3, {2 * n} edits": _case("segformer-b0", "stage3", n) for n in (5, 10, 20, 40)},
        **{f"SegFormer-b0, stage 3, {n} slices": _case("segformer-b0", "stage3", 5, n) for n in (8, 16, 32, 64)},
    },
    subjects=[
        Subject("seglens", "ours", sweep),
        Subject("a full pass an edit (timed on every other one)", "peer", full_passes, share=0.5),
        Subject("floor: one prefix, a bare suffix an edit", "floor", prefix_and_suffixes),
    ],
    repeats=5,
    growth={
        "edits": [f"SegFormer-b0, stage 3, {2 * n} edits" for n in (5, 10, 20, 40)],
        "slices": [f"SegFormer-b0, stage 3, {n} slices" for n in (8, 16, 32, 64)],
    },
)
