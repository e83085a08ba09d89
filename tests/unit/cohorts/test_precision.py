import numpy as np
import pytest

from seglens.cohorts.precision import to_float32


@pytest.mark.parametrize("kind", ["u1", "i2", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.25, -7.0)])
def test_figures_are_those_of_a_loop(kind: str, scale: tuple[float, float]) -> None:
    numbers = (np.random.default_rng(0).random((3, 4)) * 250).astype(kind)
    read = to_float32(numbers, *scale)
    exact = [float(number) * scale[0] + scale[1] for number in numbers.ravel()]
    assert read.data.shape == numbers.shape
    assert read.data.ravel().tolist() == [float(np.float32(value)) for value in exact]
    assert read.span == pytest.approx(max(exact) - min(exact))
    assert read.largest == max(abs(value) for value in exact)
    assert (read.n_nonfinite, read.n_overflowed, read.fault()) == (0, 0, None)


def test_integers_move_by_what_they_move() -> None:
    numbers = np.array([2**30 + 5, 2**30 + 100, 3])
    read = to_float32(numbers)
    assert read.moved == max(abs(int(np.float32(number)) - number) for number in numbers.tolist())
    assert read.fault() is not None
    assert to_float32(np.array([2**60, 2**60 + 1])).fault() is not None
    assert to_float32(np.array([0, 2**24])).fault(exact=True) is None
