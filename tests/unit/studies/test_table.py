"""The table of analyses: rows in an order in which each can be done, and names that are each one row's."""

import pytest

from seglens.studies.analysis import Analysis, each_segmenter, nothing
from seglens.studies.demo import demo_settings
from seglens.studies.table import BUILT_IN, analysis_table, in_order, verbs_of


def row(name, *after, verb=None):
    return Analysis(name, f"Do {name}.", each_segmenter, nothing, nothing, after=after, verb=verb)


def test_the_project_s_own_rows_stand_in_an_order_that_can_be_done():
    assert list(in_order(BUILT_IN)) == [own.name for own in BUILT_IN] == list(analysis_table())


def test_a_row_comes_after_what_it_reads_and_else_keeps_its_place():
    rows = [row("c", "d"), row("a"), row("d", "b"), row("b")]
    assert list(in_order(rows)) == ["a", "b", "d", "c"]


def test_what_there_is_not_and_circles_are_refused():
    with pytest.raises(ValueError, match="b comes after 'atlass', which there is not; did you mean 'atlas'"):
        in_order([row("atlas"), row("b", "atlass")])
    with pytest.raises(ValueError, match=r"the analyses (a > b > a|b > a > b) come after each other in a circle"):
        in_order([row("a", "b"), row("b", "a"), row("c")])


def test_rows_of_one_verb_stand_together():
    verbs = verbs_of(in_order([row("fit"), row("quality", "fit", verb="fit"), row("hidden", verb="")]))
    assert {verb: [own.name for own in rows] for verb, rows in verbs.items()} == {"fit": ["fit", "quality"]}


def test_units_read_only_what_their_row_comes_after():
    settings, table = demo_settings(0), analysis_table()
    for own in table.values():
        for unit in own.units(settings):
            read = own.reads(settings, unit) if own.reads else []
            assert {name for name, _ in read} <= {*own.after, own.name}


def test_every_stage_s_name_is_one_unit_s():
    settings = demo_settings(0)
    stages = [own.stage(unit) for own in analysis_table().values() for unit in own.units(settings)]
    assert len(stages) == len(set(stages))
    wanted = {
        "scores/adult@ssa",
        "volume_scores/adult@ssa",
        "variant/adult-rotated",
        "alignment/healthy~adult",
        "steering/adult-pediatric-edema",
        "failures/adult-adult",
    }
    assert wanted <= set(stages)
