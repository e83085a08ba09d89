import pytest
import torch

from seglens.dictionaries.batch_topk import BatchTopK
from seglens.runtime import devices
from seglens.runtime.provenance import Provenance


@pytest.fixture(autouse=True)
def measured_anew():
    devices.bf16_saves.cache_clear()
    yield
    devices.bf16_saves.cache_clear()


def pretend(monkeypatch, *, supported, seconds):
    """A processor on which a product takes so long in each type; the products that were measured."""
    measured = []

    def product_seconds(a, b):
        measured.append((a.dtype, tuple(a.shape), tuple(b.shape)))
        return seconds[a.dtype]

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(devices, "product_seconds", product_seconds)
    return measured


@pytest.mark.parametrize(("bf16", "saves"), [(0.018, True), (0.035, False), (0.041, False), (4.0, False)])
def test_it_is_the_measured_cost_that_decides(monkeypatch, bf16, saves):
    measured = pretend(monkeypatch, supported=True, seconds={torch.float32: 0.041, torch.bfloat16: bf16})
    assert devices.bf16_saves() is saves
    assert devices.bf16_saves() is saves
    assert Provenance.current().instruction_set.endswith("bfloat16 products") is saves
    shapes = (devices.PROBE_TOKENS, 320), (320, devices.PROBE_LATENTS)
    assert measured == [(torch.bfloat16, *shapes), (torch.float32, *shapes)]  # once a process


def test_nothing_is_measured_where_there_is_no_kernel(monkeypatch):
    measured = pretend(monkeypatch, supported=False, seconds={})
    assert not devices.bf16_saves()
    assert measured == []


@pytest.mark.parametrize(("channels", "saves", "screened"), [(128, True, True), (128, False, False), (64, True, False)])
def test_a_dictionary_screens_wide_tokens_where_it_saves(monkeypatch, channels, saves, screened):
    pretend(monkeypatch, supported=True, seconds={torch.float32: 1.0, torch.bfloat16: 0.1 if saves else 1.0})
    calls = []
    monkeypatch.setattr(BatchTopK, "_screened", lambda self, *given: calls.append(given))
    generator = torch.Generator().manual_seed(0)
    tokens, encoder = torch.randn(16, channels, generator=generator), torch.randn(32, channels, generator=generator)
    BatchTopK(4, threshold=1.0).encode(tokens, encoder, torch.zeros(32))
    assert bool(calls) is screened


def test_a_product_takes_some_time_of_the_processor():
    taken = devices.product_seconds(torch.ones(256, 512), torch.ones(512, 512))
    assert 0 < taken < 60
