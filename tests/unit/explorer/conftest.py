"""The finished study of pictures, as the explorer opens it."""

import json

import pytest
import torch
from safetensors.numpy import load

pytest.importorskip("fastapi")

from seglens.activations.hooks import activations
from seglens.explorer.names import Names
from seglens.explorer.opened import OpenedRun
from seglens.explorer.state import State


@pytest.fixture(scope="session")
def explored(finished):
    return OpenedRun(finished.path)


@pytest.fixture
def held(explored, tmp_path):
    """What routes work with; names go to a folder of the test's own."""
    explored.opened("first").effects.clear()
    return State(explored, Names(tmp_path))


@pytest.fixture(scope="session")
def first(explored):
    return explored.opened("first")


@pytest.fixture(scope="session")
def slices(explored):
    return explored.slices("discs")


@pytest.fixture(scope="session")
def dense(first, slices):
    """Codes of every slice ``[n h w m]``, from one pass over all of them."""
    with torch.no_grad():
        grid = activations(first.segmenter, first.hookpoint, slices.images())
        return first.dictionary.encode(grid.flatten(0, 3)).to_dense().view(*grid[:, 0].shape[:3], -1)


@pytest.fixture(scope="session")
def alive(first):
    """The latent that fires in most."""
    return int(first.atlas.table["mass"].arg_max())


@pytest.fixture(scope="session")
def shown():
    """Arrays of an answer in safetensors, and what is said of them in its metadata."""

    def parts(answer):
        length = int.from_bytes(answer.body[:8], "little")
        about = json.loads(answer.body[8 : 8 + length])["__metadata__"]["about"]
        return load(bytes(answer.body)), json.loads(about)

    return parts
