import pytest
import torch
from torch import nn

from seglens.runtime.oom import NotEnoughMemoryError
from seglens.segmenters.inference import BatchWork, all_batches, each_batch, samples_at_once
from seglens.segmenters.segmenter import Segmenter


class Source:
    """Seven slices whose pixels are their number."""

    def __len__(self):
        return 7

    def images(self, rows):
        return torch.tensor(list(rows)).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


@pytest.fixture
def segmenter():
    labels = {0: "background", 1: "lesion"}
    return Segmenter.wrap(nn.Conv2d(1, 2, 1), sequences=("T1",), labels=labels, hookpoints={}, size=4)


def test_rows_images_and_progress_follow_the_order(segmenter):
    announce, gradients = [], []

    def work(rows, images):
        gradients.append(torch.is_grad_enabled())
        assert images[:, 0, 0, 0].tolist() == list(rows)
        return sum(rows)

    found = each_batch(
        work, segmenter, Source(), batch_size=3, progress=lambda done, total, **_: announce.append((done, total))
    )
    assert list(found) == [([0, 1, 2], 3), ([3, 4, 5], 12), ([6], 6)]
    assert announce == [(3, 7), (6, 7), (7, 7)]
    assert gradients == [False] * 3
    with pytest.raises(ValueError, match="batch_size 0 must be at least 1"):
        list(each_batch(work, segmenter, Source(), batch_size=0))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_from_the_batch_without_memory_on_all_is_done_in_halves(segmenter, error):
    tried = []

    def work(rows, images):
        tried.append(list(rows))
        if len(tried) == 2:
            raise error
        return images.sum().item()

    found = list(each_batch(work, segmenter, Source(), batch_size=4))
    assert tried == [[0, 1, 2, 3], [4, 5, 6], [4, 5], [6]]
    assert [(list(rows), total) for rows, total in found] == [
        ([0, 1, 2, 3], 16 * 6.0),
        ([4, 5], 16 * 9.0),
        ([6], 16 * 6.0),
    ]


def test_what_is_no_want_of_memory_is_raised_and_half_too_much_is_told(segmenter):
    def broken(rows, images):
        raise RuntimeError("shapes differ")

    def full(rows, images):
        raise MemoryError

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(each_batch(broken, segmenter, Source(), batch_size=4))
    work = BatchWork(full, segmenter, Source(), what="maps", fix="take smaller slices")
    with pytest.raises(NotEnoughMemoryError, match=r"maps: out of memory with half of 4 .*; take smaller slices"):
        work.parts([0, 1, 2, 3])


def test_batches_are_dealt_and_every_process_has_all(segmenter, monkeypatch):
    """As the second of two processes: it does every other batch, and what the first did is put before its own."""
    monkeypatch.setattr("seglens.segmenters.inference.rank_range", lambda n: range(1, n, 2))
    own = list(each_batch(lambda rows, _: list(rows), segmenter, Source(), batch_size=2, deal=True))
    assert [result for _, result in own] == [[2, 3], [6]]
    first = {0: [0, 1], 4: [4, 5]}

    def everything(mine):
        return [value for _, value in sorted((first | mine).items())]

    monkeypatch.setattr("seglens.segmenters.inference.gather_object", everything)
    work = all_batches(lambda rows, _: list(rows), segmenter, Source(), batch_size=2)
    assert work == [[0, 1], [2, 3], [4, 5], [6]]


def test_of_volumes_fewer_are_run_at_once_and_never_none():
    def of(size):
        network = nn.Conv3d(1, 2, 1)
        return Segmenter.wrap(
            network, sequences=["T1"], labels={0: "background", 1: "lesion"}, hookpoints={}, size=size
        )

    assert samples_at_once(of((1, 512, 512)), 16) == 16
    assert samples_at_once(of((128, 128, 128)), 16) == 2
    assert samples_at_once(of((256, 256, 256)), 16) == 1
    with pytest.raises(ValueError, match="at least 1"):
        samples_at_once(of((1, 64, 64)), 0)
