import tempfile
from pathlib import Path

import pytest
import torch

from seglens.cohorts.layouts import read_cohort
from seglens.cohorts.preprocessing import Preprocessing
from seglens.cohorts.slices import prepare_slices
from seglens.phantoms.cohort import write_phantom_cohort
from seglens.phantoms.in_memory import phantom_cohort


def test_it_is_what_the_files_give_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    slices = phantom_cohort("adult", subjects=6, seed=3, size=32, slices=2, sequences=["FLAIR"])
    assert list(scratch.iterdir()) == []

    folder = write_phantom_cohort(tmp_path / "adult", "adult", subjects=6, seed=3, size=32, slices=2)
    expected = prepare_slices(read_cohort(folder), Preprocessing(("FLAIR",), size=32, foreground="brain"))
    assert (slices.name, slices.hash) == ("adult", expected.hash)
    assert torch.equal(slices.images(), expected.images()) and slices.images().shape[1:] == (1, 1, 32, 32)
    parts = {"train": slices.train, "val": slices.val, "test": slices.test}
    assert {name: part.index["split"].unique().to_list() for name, part in parts.items()} == {
        name: [name] for name in parts
    }
    assert sum(map(len, parts.values())) == len(slices)


def test_sets_of_several_populations_fit_together() -> None:
    sets = [phantom_cohort(name, subjects=5, size=32, slices=2) for name in ("adult", "pediatric", "ssa")]
    assert len({one.preprocessing for one in sets}) == 1


def test_an_unknown_population_is_refused() -> None:
    with pytest.raises(ValueError, match="adult, pediatric"):
        phantom_cohort("martian")
