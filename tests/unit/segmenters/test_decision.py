import pytest
import torch

from seglens.segmenters.decision import CLASSES, Decision, last_region, most_likely

REGIONS = Decision(True, (), ((1, 2), (2,)))


@pytest.fixture
def logits():
    return torch.randn(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_labels_are_the_largest_or_the_last_that_holds(logits):
    assert torch.equal(CLASSES.labels(logits), most_likely(logits))
    assert torch.equal(Decision(True).labels(logits), last_region(logits))
    wanted = torch.zeros(2, 1, 4, 5, dtype=torch.uint8)
    for number in range(3):
        wanted[logits[:, number] > 0] = number + 1
    assert torch.equal(last_region(logits), wanted)


def test_outputs_are_put_into_the_order_of_the_labels(logits):
    assert CLASSES.ordered(logits) is logits
    assert torch.equal(Decision(True, (2, 0, 1)).ordered(logits), logits[:, [2, 0, 1]])


@pytest.mark.parametrize("label", [1, 2, None])
def test_log_odds_are_above_0_where_a_region_is_said(logits, label):
    odds = REGIONS.log_odds(logits[:, :2], label)
    assert torch.equal(odds > 0, REGIONS.says(logits[:, :2], label))
    if label is None:
        assert torch.equal(odds > 0, last_region(logits[:, :2]) > 0)
    else:
        assert torch.equal(odds, logits[:, label - 1])


def test_log_odds_of_classes_are_those_of_their_shares(logits):
    shares = logits.softmax(1)
    torch.testing.assert_close(CLASSES.log_odds(logits, 1), (shares[:, 1] / (1 - shares[:, 1])).log())
    torch.testing.assert_close(CLASSES.log_odds(logits, None), ((1 - shares[:, 0]) / shares[:, 0]).log())
    assert torch.equal(CLASSES.says(logits, 2), most_likely(logits) == 2)


def test_voxels_of_a_region_are_those_of_all_that_lies_on_it():
    masks = torch.tensor([0, 1, 2, 3], dtype=torch.uint8).reshape(1, 1, 2, 2)
    assert REGIONS.belongs(masks, 1).flatten().tolist() == [False, True, True, False]
    assert REGIONS.belongs(masks, 0).flatten().tolist() == [True, False, False, False]
    assert CLASSES.belongs(masks, None).flatten().tolist() == [False, True, True, True]
    assert REGIONS.membership(3).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
