"""Threads of a stage."""

import pytest
import torch

from seglens.runtime import threads
from seglens.runtime.threads import computing_with, stage_threads


@pytest.mark.parametrize(("of_the_process", "of_a_stage"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (64, 16)])
def test_a_stage_has_a_quarter_of_the_threads_and_one_at_least(monkeypatch, of_the_process, of_a_stage):
    monkeypatch.setattr(torch, "get_num_threads", lambda: of_the_process)
    assert stage_threads() == of_a_stage
    monkeypatch.setattr(threads, "rank_and_size", lambda: (1, 2))
    assert stage_threads() == of_the_process


def test_inside_torch_computes_with_so_many():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), computing_with(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
