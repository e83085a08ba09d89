"""Appendix C for every latent over a whole cohort: what a latent means, from activations to the finished atlas."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.framework import Benchmark, Repeat, Subject

if TYPE_CHECKING:
    from torch import Tensor

    from seglens.cohorts.slice_set import SliceSet
    from seglens.dictionaries.sae import SparseAutoencoder
    from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "necrosis", 2: "edema", 3: "enhancing"}
SEQUENCES = ("T1c", "FLAIR")
DISTINCT_SLICES = 32
"""A cohort repeats these masks and brains, so that its own size does not hide what is measured."""
LOOP_LATENTS, LOOP_SLICES = 64, 40
"""The loop is timed on one latent in so many and on one slice in so many."""


def atlas(case: Mapping[str, Any]) -> Repeat:
    """seglens: `describe`, encoding included."""
    from seglens.dictionaries.lens import Lens
    from seglens.semantics.atlas import describe

    slices, lens = cohort(case), Lens(source(case), fitted(case))
    return lambda: describe(lens, slices, top_k=case["top_k"])


def loop(case: Mapping[str, Any]) -> Repeat:
    """Each latent's map of each slice upsampled and multiplied with every region; silent maps are skipped.

    Codes and regions are there beforehand, and only the linear metrics are measured: less than `atlas` does.
    """
    import torch
    from torch.nn import functional

    from seglens.activations.hooks import activations
    from seglens.semantics.geometry import brain_depth, slice_regions

    slices = cohort(case).select(range(0, case["slices"], LOOP_SLICES))
    dictionary, grid, m = fitted(case), case["grid"], case["latents"]
    tokens = torch.cat([activations(source(case), "tokens", slices.images([row])) for row in range(len(slices))])
    codes = dictionary.encode(tokens.flatten(0, 3)).to_dense()[:, ::LOOP_LATENTS]
    maps = codes.view(len(slices), grid, grid, -1).permute(3, 0, 1, 2).contiguous()
    regions = slice_regions(slices.masks(), slices.brains(), brain_depth(slices.brains()), LABELS)

    def repeat() -> object:
        sums = torch.zeros(len(range(0, m, LOOP_LATENTS)), regions.shape[1])
        for latent, own in enumerate(maps):
            for number, small in enumerate(own):
                if small.any():
                    full = functional.interpolate(
                        small[None, None], slices.size[1:], mode="bilinear", align_corners=False
                    )
                    sums[latent] += (full[0] * regions[number, :, 0]).sum((1, 2))
        return sums

    return repeat


def encoder_product(case: Mapping[str, Any]) -> Repeat:
    """The matrix product that scores every latent at every token: nothing can describe latents without their codes."""
    import torch

    dictionary, n_tokens = fitted(case), case["slices"] * case["grid"] ** 2
    tokens = torch.randn(4096, case["d_in"], generator=torch.Generator().manual_seed(0))
    out = torch.empty(4096, case["latents"])

    def repeat() -> object:
        for start in range(0, n_tokens, 4096):
            n = min(4096, n_tokens - start)
            torch.mm(tokens[:n], dictionary.W_enc, out=out[:n])
        return out

    return repeat


def cohort(case: Mapping[str, Any]) -> "SliceSet":
    """Slices with a brain and three nested lesion classes."""
    import polars as pl
    import torch

    from seglens.cohorts.slice_set import SliceSet

    size, n = case["size"], DISTINCT_SLICES
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    centres = torch.rand(n, 2, 1, 1, generator=generator) - 0.5
    distance = ((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2).sqrt()
    brains = ((rows / 0.85) ** 2 + (columns / 0.7) ** 2 < 1).expand(n, size, size).contiguous()
    masks = sum((distance < radius).to(torch.uint8) for radius in (0.3, 0.2, 0.1)) * brains
    masks = torch.tensor([0, 2, 3, 1], dtype=torch.uint8)[masks.long()]
    index = pl.DataFrame({"case": [f"case{number}" for number in range(n)]})
    images = torch.randn(n, len(SEQUENCES), size, size, generator=generator)
    slices = SliceSet.from_tensors(images, masks, brains, index, name="made", sequences=SEQUENCES, labels=LABELS)
    return slices.select([number % n for number in range(case["slices"])])


def source(case: Mapping[str, Any]) -> "Segmenter":
    """Stands for a segmenter: its activations cost next to nothing, so that no forward pass is counted."""
    import torch
    from torch import nn

    from seglens.segmenters.segmenter import Segmenter

    class Source(nn.Module):
        """Activations with a part that is the slice's, a part that is smooth over it, and noise."""

        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(1)

        def forward(self, images: "Tensor") -> "Tensor":
            """[B d_in grid grid], new at each call."""
            d_in, grid = case["d_in"], case["grid"]
            whole, smooth, noise = (
                torch.randn(len(images), d_in, side, side, generator=self.generator) for side in (1, 4, grid)
            )
            return whole + nn.functional.interpolate(smooth, (grid, grid), mode="bilinear") + 0.5 * noise

    network = nn.Sequential(Source(), nn.Conv2d(case["d_in"], len(LABELS), 1))
    return Segmenter.wrap(network, sequences=SEQUENCES, labels=LABELS, hookpoints={"tokens": "0"}, size=case["size"])


def fitted(case: Mapping[str, Any]) -> "SparseAutoencoder":
    """A dictionary with random weights whose threshold lets k latents a token through."""
    import torch

    from seglens.activations.hooks import activations
    from seglens.dictionaries.sae import SparseAutoencoder

    dictionary = SparseAutoencoder(case["d_in"], case["latents"], k=case["k"], hookpoint="tokens")
    tokens = activations(source(case), "tokens", torch.zeros(32, len(SEQUENCES), 1, 8, 8)).flatten(0, 3)[::8]
    pre = dictionary.pre_activations(tokens).flatten()
    dictionary.theta.fill_(float(pre.topk(case["k"] * len(tokens)).values[-1]))
    return dictionary


BASE: Mapping[str, Any] = {"latents": 5120, "slices": 2000, "d_in": 320, "k": 32, "grid": 16, "size": 256, "top_k": 8}


def _case(**changes: int) -> dict[str, Any]:
    return {**BASE, **changes}


BENCHMARK = Benchmark(
    name="semantics",
    title="appendix C for every latent over every slice, from activations to the finished atlas",
    cases={
        "5120 latents, 2000 slices": _case(),
        **{f"1024 latents, {n} slices": _case(latents=1024, d_in=64, slices=n) for n in (250, 500, 1000, 2000)},
        **{f"{m} latents, 250 slices": _case(latents=m, d_in=64, slices=250) for m in (2048, 4096, 8192)},
    },
    subjects=[
        Subject("seglens", "ours", atlas),
        Subject(
            "loop per latent and slice (timed on 1/2560 of them, scaled)",
            "peer",
            loop,
            share=1 / (LOOP_LATENTS * LOOP_SLICES),
        ),
        Subject("floor: the encoder's product", "floor", encoder_product),
    ],
    repeats=3,
    growth={
        "slices": [f"1024 latents, {n} slices" for n in (250, 500, 1000, 2000)],
        "latents": [f"{m} latents, 250 slices" for m in (1024, 2048, 4096, 8192)],
    },
)
