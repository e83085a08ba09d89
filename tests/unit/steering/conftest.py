"""A network of two convolutions with a planted fault: its masks are what latent 3 three times as strong would give."""

from dataclasses import dataclass

import polars as pl
import pytest
import torch
from torch import nn

from seglens.cohorts.slices import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder
from seglens.segmenters.segmenter import Segmenter
from seglens.semantics.atlas import LatentAtlas
from seglens.steering.edits import LatentEdit, steer

LABELS = {0: "background", 1: "core", 2: "edema"}
PLANTED = 3


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.Tanh())
        self.head = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, images):
        return self.head(self.stem(images))


def _segmenter():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Tiny()
    return Segmenter.wrap(network, sequences=("T1", "FLAIR"), labels=LABELS, hookpoints={"here": "stem"}, size=16)


def _dictionary(segmenter):
    dictionary = SparseAutoencoder(8, 24, k=4, seed=0, hookpoint="here", segmenter_hash=segmenter.hash)
    dictionary.theta.fill_(0.4)
    dictionary.scale.fill_(2.0)
    dictionary.centre.fill_(0.05)
    dictionary.b_enc.data.copy_(torch.linspace(-0.1, 0.1, 24))
    dictionary.b_dec.data.copy_(torch.linspace(0.1, -0.1, 8))
    # the planted latent drives edema
    with torch.no_grad():
        direction = segmenter.network.head.weight[2].mean((1, 2)) - segmenter.network.head.weight[:2].mean((0, 2, 3))
        direction = direction / direction.norm()
        dictionary.W_dec[PLANTED] = direction
        dictionary.W_enc[:, PLANTED] = direction
    return dictionary


def _edit(dictionary, latents=(1, 5, PLANTED), operation="multiply", value=2.0, **settings):
    return LatentEdit(dictionary.hookpoint, dictionary.hash, tuple(latents), operation, value, **settings)


def _slices(segmenter, dictionary, *, seed, patients, per_patient=4, name="target"):
    generator = torch.Generator().manual_seed(seed)
    count = patients * per_patient
    images = torch.randn(count, 2, 16, 16, generator=generator)
    images = nn.functional.avg_pool2d(images, 3, 1, 1)[:, :, None] * 2
    with steer(Lens(segmenter, dictionary), _edit(dictionary, (PLANTED,), "multiply", 3.0)):
        masks = segmenter.predict(images)
    patient = [f"{name}{seed}-{number // per_patient}" for number in range(count)]
    index = pl.DataFrame({"case": patient, "patient": patient})
    return SliceSet.from_tensors(
        images,
        masks,
        torch.ones(count, 1, 16, 16, dtype=torch.bool),
        index,
        name=name,
        sequences=("T1", "FLAIR"),
        labels=LABELS,
    )


def _atlas(dictionary):
    m = dictionary.n_latents
    table = pl.DataFrame(
        {
            "latent": pl.Series(range(m), dtype=pl.Int32),
            "mass": [float(number % 7 + 1) for number in range(m)],
            "p_edema": [number / m for number in range(m)],
            "lift_edema": [number / 6 for number in range(m)],
            "p_edema_top": [0.0] * m,
            "dead": [number == 7 for number in range(m)],
        }
    )
    exemplars = pl.DataFrame(schema={"latent": pl.Int32, "rank": pl.Int32, "row": pl.UInt32, "score": pl.Float32})
    maps = torch.zeros(0, 1, 8, 8, dtype=torch.float16)
    return LatentAtlas(table, exemplars, maps, LABELS, {"edema": 0.1}, pl.DataFrame(), {})


@dataclass(frozen=True)
class World:
    segmenter: Segmenter
    dictionary: SparseAutoencoder
    atlas: LatentAtlas
    selection: SliceSet
    evaluation: SliceSet

    @property
    def parts(self):
        return Lens(self.segmenter, self.dictionary), self.atlas, self.selection, self.evaluation


@pytest.fixture(scope="session")
def world():
    """Everything once, for results that several tests read; whoever changes a part takes the fixtures below."""
    segmenter = _segmenter()
    dictionary = _dictionary(segmenter)
    selection = _slices(segmenter, dictionary, seed=1, patients=4)
    evaluation = _slices(segmenter, dictionary, seed=2, patients=5)
    return World(segmenter, dictionary, _atlas(dictionary), selection, evaluation)


@pytest.fixture
def segmenter():
    return _segmenter()


@pytest.fixture
def dictionary(segmenter):
    return _dictionary(segmenter)


@pytest.fixture
def atlas(dictionary):
    return _atlas(dictionary)


@pytest.fixture
def selection(world):
    return world.selection


@pytest.fixture
def evaluation(world):
    return world.evaluation


@pytest.fixture
def make_edit():
    return _edit


@pytest.fixture(scope="session")
def dices():
    """Mean over the classes in the mask, slice by slice, with sets."""

    def of_slices(slices, rows, masks):
        found = []
        for row, predicted in zip(rows, masks, strict=True):
            truth = slices.masks([row])[0]
            values = []
            for label in (1, 2):
                said, true = predicted == label, truth == label
                if true.any():
                    values.append(float(2 * (said & true).sum() / (said.sum() + true.sum())))
            found.append(sum(values) / len(values) if values else None)
        return found

    return of_slices
