"""A run that the explorer holds: what is shared between requests is given back, whatever becomes of one."""

import pytest

from seglens.explorer import opened as module
from seglens.explorer.opened import Opened
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
