"""Networks that were written, not trained: what each edge of them is worth is known."""

import polars as pl
import torch
from torch import nn

from seglens.circuits.graph import Graph
from seglens.cohorts.slice_set import SliceSet
from seglens.segmenters.network_node import INPUT, NetworkNode
from seglens.segmenters.segmenter import Segmenter

TWO = {0: "background", 1: "lesion"}


class TwoPaths(nn.Module):
    """Log odds of the lesion: .8 of what one path carries, .2 of the other; a third path goes nowhere."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, images):
        odds = 0.8 * self.a(images) + 0.2 * self.b(images) + 0.0 * self.c(images)
        return torch.cat([torch.zeros_like(odds), odds], 1)


def two_paths():
    """Segmenter of `TwoPaths`, and its graph with every edge, the absent one among them."""
    network = TwoPaths()
    segmenter = Segmenter.wrap(
        network, sequences=["T1"], labels=TWO, hookpoints={"a": "a", "b": "b", "c": "c"}, size=32
    )

    def joined(a, b, c):
        odds = 0.8 * a + 0.2 * b + 0.0 * c
        return torch.cat([torch.zeros_like(odds), odds], 1)

    paths = tuple(NetworkNode(name, "paths", ((INPUT,),), nn.Identity()) for name in "abc")
    return segmenter, Graph(segmenter, (*paths, NetworkNode("logits", "end", (("a",), ("b",), ("c",)), joined)))


class Shortcut(nn.Module):
    """Log odds of the lesion from how bright a blob is, and from a mark in a corner that names a side."""

    def __init__(self, weight=3.0):
        super().__init__()
        self.texture, self.mark, self.weight = nn.Identity(), Mark(), weight

    def forward(self, images):
        texture, mark = self.texture(images), self.mark(images)
        odds = 4 * (texture - 0.75) + self.weight * mark * (texture > 0.25)
        return torch.cat([torch.zeros_like(odds), odds], 1)


class Mark(nn.Module):
    """1 on the side that the corner's value of .2 or -.2 names, left or right, and -1 on the other."""

    def forward(self, images):
        side = torch.ones_like(images)
        side[..., images.shape[-1] // 2 :] = -1
        return 5 * images[..., :1, :1] * side


def shortcut(weight=3.0):
    """Segmenter of `Shortcut`."""
    places = {"texture": "texture", "mark": "mark"}
    return Segmenter.wrap(Shortcut(weight), sequences=["T1"], labels=TWO, hookpoints=places, size=32)


def marked_slices(n, right):
    """Two blobs a slice, the brighter a lesion; the mark names its side in a share ``right`` of the slices."""
    images, masks = torch.zeros(n, 1, 32, 32), torch.zeros(n, 32, 32, dtype=torch.uint8)
    for row in range(n):
        sides = [slice(4, 12), slice(20, 28)]
        lesion = sides[row % 2]
        images[row, 0, 8:16, sides[1 - row % 2]] = 0.5
        images[row, 0, 8:16, lesion] = 1.0
        masks[row, 8:16, lesion] = 1
        honest = row // 2 < right * (n // 2)
        images[row, 0, 0, 0] = 0.2 if (row % 2 == 0) == honest else -0.2
    index = pl.DataFrame({"case": [f"case{row}" for row in range(n)], "position": list(range(n))})
    return SliceSet.from_tensors(images, masks, masks >= 0, index, name="marked", sequences=["T1"], labels=TWO)
