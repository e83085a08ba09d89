import contextlib
import sys

import polars as pl
import pytest
import torch
from torch import nn

from seglens.activations.hooks import activations
from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.latent_table import latent_table
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.segmenter import Segmenter

LABELS = {0: "background", 1: "core", 2: "edema"}
INDEX = {
    "case": ["a", "a", "b", "b", "c", "c"],
    "patient": ["p", "p", "q", "q", "p", "p"],
    "volume": ["a0", "a0", "b0", "b0", "c0", "c0"],
}


@pytest.fixture(scope="module")
def segmenter(slices):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 3, 1))
    with torch.no_grad():  # half of the cells become background
        logits = network(slices.images()[:, :, 0])
        network[3].bias[0] += (logits[:, 1:].max(1).values - logits[:, 0]).median()
    places = {"fine": "0", "coarse": "2"}
    return Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints=places, size=32)


@pytest.fixture(scope="module")
def lenses(segmenter):
    found = []
    for hookpoint, m in (("fine", 6), ("coarse", 9)):
        dictionary = SparseAutoencoder(4, m, k=2, seed=m, hookpoint=hookpoint, segmenter_hash=segmenter.hash)
        dictionary.theta.fill_(0.15)
        found.append(Lens(segmenter, dictionary))
    return found


@pytest.fixture(scope="module")
def slices():
    images = nn.functional.avg_pool2d(torch.randn(6, 1, 34, 34, generator=torch.Generator().manual_seed(0)), 3, 1) * 3
    masks = torch.zeros(6, 32, 32, dtype=torch.uint8)
    return SliceSet.from_tensors(
        images, masks, masks < 1, pl.DataFrame(INDEX), name="toy", sequences=("T1",), labels=LABELS
    )


def flooded(mask):
    """Components by a flood fill, pixel by pixel, in the order of their first pixel."""
    left = {(int(r), int(c)) for r, c in (mask > 0).nonzero()}
    found = []
    while left:
        heap, own = [min(left)], set()
        while heap:
            pixel = heap.pop()
            if pixel in left:
                left.remove(pixel)
                own.add(pixel)
                heap += [(pixel[0] + dr, pixel[1] + dc) for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        found.append(own)
    return found


def by_hand(lens, slices, units):
    """Loops over units, slices, tokens and latents; ``units`` are lists of (row, pixels or None)."""
    m, tables = lens.dictionary.n_latents, {"mass": [], "peak": [], "rate": []}
    for unit in units:
        mass, peak, fired, counted = [0.0] * m, [0.0] * m, [0.0] * m, 0.0
        for row, pixels in unit:
            with torch.no_grad():
                grid = activations(lens.segmenter, lens.hookpoint, slices.images([row]))[0, 0]
            cell = 32 // len(grid)
            for r in range(len(grid)):
                for c in range(len(grid)):
                    weight = 1.0
                    if pixels is not None:
                        inside = sum((a // cell, b // cell) == (r, c) for a, b in pixels)
                        weight = inside / cell**2
                    if weight == 0:
                        continue
                    counted += weight
                    codes = lens.dictionary.encode(grid[r, c][None]).to_dense()[0].tolist()
                    for latent, code in enumerate(codes):
                        mass[latent] += weight * code
                        peak[latent] = max(peak[latent], code)
                        fired[latent] += weight * (code > 0)
        tables["mass"].append(mass)
        tables["peak"].append(peak)
        tables["rate"].append([value / counted for value in fired])
    return {name: torch.tensor(rows) for name, rows in tables.items()}


def compare(table, lenses, slices, units):
    twins = [by_hand(lens, slices, units) for lens in lenses]
    for name, values in table.values.items():
        assert values.abs().sum() > 0
        torch.testing.assert_close(values, torch.cat([twin[name] for twin in twins], 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by", ["slice", "volume", "patient"])
def test_units_of_whole_slices_are_loops(by, lenses, slices):
    table = latent_table(lenses, slices, by=by, batch_size=4)
    column = INDEX[by] if by != "slice" else list(range(6))
    units = [[(row, None) for row, own in enumerate(column) if own == unit] for unit in dict.fromkeys(column)]
    compare(table, lenses, slices, units)
    assert table.units["row" if by == "slice" else by].to_list() == list(dict.fromkeys(column))
    assert table.latents["hookpoint"].to_list() == ["fine"] * 6 + ["coarse"] * 9
    assert table.latents["latent"].to_list() == [*range(6), *range(9)]
    assert set(table.latents["dictionary_hash"]) == {lens.dictionary.hash for lens in lenses}


def test_components_are_those_of_a_flood_fill(lenses, segmenter, slices):
    table = latent_table(lenses, slices, by="component", batch_size=4)
    predicted = segmenter.predict(slices.images())
    expected = [(row, pixels) for row in range(6) for pixels in flooded(predicted[row, 0])]
    assert len(expected) > 6
    assert table.units["row"].to_list() == [row for row, _ in expected]
    assert table.units["pixels"].to_list() == [len(pixels) for _, pixels in expected]
    for described, (row, pixels) in zip(table.units.to_dicts(), expected, strict=True):
        said = [int(predicted[row, 0][pixel]) for pixel in pixels]
        assert described["label"] == max(LABELS, key=lambda label: (said.count(label), -label))
        assert described["patient"] == INDEX["patient"][row]
    compare(table, lenses, slices, [[unit] for unit in expected])


def test_no_component_no_row(lenses, slices, segmenter):
    empty = SliceSet.from_tensors(
        slices.images(), slices.masks(), slices.brains(), slices.index, name="e", sequences=("T1",), labels=LABELS
    )
    bias = segmenter.network[3].bias.detach().clone()
    network = nn.Sequential(*segmenter.network[:3], nn.Conv2d(4, 3, 1))
    network[3].load_state_dict({"weight": segmenter.network[3].weight, "bias": bias + torch.tensor([1e6, 0, 0])})
    silent = Segmenter.wrap(network, sequences=("T1",), labels=LABELS, hookpoints={"fine": "0"}, size=32)
    dictionary = SparseAutoencoder(4, 6, k=2, seed=6, hookpoint="fine", segmenter_hash=silent.hash)
    table = latent_table([Lens(silent, dictionary)], empty, by="component")
    assert table.units.is_empty()
    assert {name: tuple(values.shape) for name, values in table.values.items()} == {
        "mass": (0, 6),
        "peak": (0, 6),
        "rate": (0, 6),
    }


@pytest.mark.parametrize("by", ["slice", "component", "volume", "patient"])
@pytest.mark.parametrize("world", [2, 5])
def test_several_processes_equal_one_bit_for_bit(by, world, lenses, slices, monkeypatch):
    alone, module = latent_table(lenses, slices, by=by, batch_size=2), sys.modules[latent_table.__module__]
    own: list[dict] = []
    seen: list[tuple[int, int]] = []
    for rank in range(world):
        monkeypatch.setattr(module, "rank_range", lambda n, rank=rank: range(rank, n, world))
        monkeypatch.setattr(module, "gather_object", lambda made: own.append(made) or _all(own, world))
        told: list[tuple[int, int]] = []
        table = None
        with contextlib.suppress(_NotYetError):
            table = latent_table(
                lenses, slices, by=by, batch_size=2, progress=lambda done, total, told=told: told.append((done, total))
            )
        seen += told[-1:]
    assert sum(done for done, _ in seen) == len(slices) and all(done == total for done, total in seen)
    assert table.units.equals(alone.units) and table.latents.equals(alone.latents)
    assert all(torch.equal(table.values[name], alone.values[name]) for name in alone.values)


class _NotYetError(Exception):
    """Raised where other processes have not delivered yet."""


def _all(own, world):
    if len(own) < world:
        raise _NotYetError
    together = {number: result for made in own for number, result in made.items()}
    return [together[number] for number in sorted(together)]


def test_only_what_is_asked_for_and_nothing_that_does_not_fit(lenses, slices):
    assert list(latent_table(lenses[:1], slices, pool=("peak",)).values) == ["peak"]
    with pytest.raises(ValueError, match="2 lenses at fine, fine"):
        latent_table([lenses[0], lenses[0]], slices)
    with pytest.raises(ValueError, match="0 lenses at no hookpoint"):
        latent_table([], slices)
    with pytest.raises(ValueError, match="batch_size 0 must be at least 1"):
        latent_table(lenses, slices, batch_size=0)
