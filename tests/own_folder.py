"""A network of a user's own as a folder: description, random weights, and the package of its class."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

CODE = """
from tests.own_folder import PlainMesh

from seglens.segmenters.architectures import Architecture
from seglens.segmenters.segmenter import Hookpoint


def build(n_sequences, n_classes, settings):
    return PlainMesh(n_sequences, n_classes, **settings)


def places(settings):
    return {f"layer{number}": Hookpoint(f"layers.{number}", "BCDHW") for number in range(len(settings["dilations"]))}


ROW = Architecture("plain-mesh", build, places, defaults={"width": 6, "dilations": (1, 2)}, spatial_dims=3)
"""
ROW = '[project.entry-points."seglens.architectures"]\nplain-mesh = "plain_mesh:ROW"\n'
DESCRIPTION: Mapping[str, Any] = {
    "architecture": "plain-mesh",
    "settings": {"width": 6, "dilations": [1, 2, 1]},
    "sequences": ["T1"],
    "labels": {"0": "Unknown", "10": "Thalamus", "17": "Hippocampus"},
    "orientation": "LIA",
    "spacing_mm": [1.5, 1.5, 2.0],
    "intensities": {"rule": "quantiles", "low": 0.02, "high": 0.98},
}


class PlainMesh(nn.Module):
    """Dilated convolutions, and a linear head."""

    def __init__(self, n_sequences: int, n_classes: int, width: int, dilations: list[int]) -> None:
        super().__init__()
        widths = [n_sequences, *[width] * len(dilations)]
        self.layers = nn.ModuleList(
            nn.Conv3d(wide, width, 3, padding=dilation, dilation=dilation)
            for wide, dilation in zip(widths, dilations, strict=False)
        )
        self.head = nn.Conv3d(width, n_classes, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            volume = functional.elu(layer(volume))
        logits: torch.Tensor = self.head(volume)
        return logits


def plain_mesh(n_sequences: int = 1, n_classes: int = 3, width: int = 6, dilations: Any = (1, 2, 1)) -> PlainMesh:
    """The network of the description with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return PlainMesh(n_sequences, n_classes, width, dilations).eval()


def write_own(folder: Path, changes: Mapping[str, Any] | None = None, network: nn.Module | None = None) -> Path:
    """Write a folder; ``changes`` are put into the description, None takes a key out."""
    folder.mkdir(parents=True)
    described = {key: value for key, value in {**DESCRIPTION, **(changes or {})}.items() if value is not None}
    (folder / "seglens.json").write_text(json.dumps(described))
    save_file((network or plain_mesh()).state_dict(), folder / "model.safetensors")
    return folder
