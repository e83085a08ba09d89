import pytest

from seglens.steering.failing_slices import error_mode, worst_slices


def test_worst_slices_are_the_worst(segmenter, evaluation, dices):
    predicted = segmenter.predict(evaluation.images())
    everything = dices(evaluation, range(len(evaluation)), predicted)
    order = sorted((d, row) for row, d in enumerate(everything) if d is not None)
    _, rows = worst_slices(segmenter, evaluation, 6)
    assert [everything[row] for row in rows] == pytest.approx([d for d, _ in order[:6]])
    _, rows = worst_slices(segmenter, evaluation, 1000)
    assert len(rows) == len(order)


@pytest.mark.parametrize(
    ("false_positive", "false_negative", "mode"),
    [(10, 0, "FP"), (2, 1, "FP"), (199, 100, "mixed"), (1, 1, "mixed"), (1, 2, "FN"), (0, 5, "FN"), (0, 0, "none")],
)
def test_error_modes(false_positive, false_negative, mode):
    assert error_mode(false_positive, false_negative) == mode
