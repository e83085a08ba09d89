"""A run that the explorer holds: what is shared between requests is given back, whatever becomes of one."""

import pytest

from seglens.explorer import opened as module
from seglens.explorer.cases import cohort, prediction
from seglens.explorer.latents import table
from seglens.explorer.opened import Opened, OpenedRun, UnknownError
from seglens.runs import Run


def test_who_ran_alone_gives_memory_and_turn_back_when_it_fails(tmp_path, monkeypatch):
    given_back = []
    monkeypatch.setattr(module, "give_back_freed_memory", lambda: given_back.append(True))
    opened = Opened("adult", Run(tmp_path))
    with pytest.raises(MemoryError), opened.alone():
        raise MemoryError
    assert given_back
    with opened.alone():
        pass


def test_each_lens_of_a_segmenter_can_be_opened_and_they_share_the_network(finished):
    run = OpenedRun(finished.path)
    assert run.segmenters == ["first", "first@stage2", "second"]
    one, other = run.opened("first"), run.opened("first@stage2")
    assert other.segmenter is one.segmenter
    assert (one.hookpoint, other.hookpoint) == ("stage1", "stage2")
    assert one.dictionary_hash != other.dictionary_hash
    assert other.lens.hookpoint == "stage2"
    with pytest.raises(UnknownError, match="no segmenter 'first@stage3'; there are first, first@stage2, second"):
        run.opened("first@stage3")


def test_a_further_lens_has_latents_and_heat_of_its_own_and_the_segmenter_s_masks_and_scores(held, explored, shown):
    _, about = shown(table("first@stage2", held))
    assert about["hookpoint"] == "stage2"
    slices, lens = explored.slices("discs"), explored.opened("first@stage2")
    (masks, here), (others, there) = (shown(prediction(name, "discs", 0, held)) for name in ("first@stage2", "first"))
    assert (masks["mask"] == others["mask"]).all()
    assert (here["grid"], there["grid"]) == ([4, 4], [8, 8])
    assert lens.codes(slices, 0)[0].n_latents == lens.dictionary.n_latents
    dice = [[one.dice for one in cohort("discs", held, name).slices] for name in ("first@stage2", "first")]
    assert dice[0] == dice[1] and any(value is not None for value in dice[0])
