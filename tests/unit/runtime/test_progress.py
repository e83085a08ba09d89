from seglens.runtime.progress import part_of


def test_progress_of_a_step():
    seen = []
    part_of(lambda done, total, **figures: seen.append((done, total, figures)), 10, 40)(5, 7, loss=0.5)
    assert seen == [(15, 40, {"loss": 0.5})]
