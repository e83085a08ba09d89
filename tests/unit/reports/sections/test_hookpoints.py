from tests.records import effect, segmenter, summary

from seglens.reports.sections.hookpoints import hookpoints_section


def test_bars_tell_the_fall_and_which_one_was_chosen() -> None:
    effects = tuple(
        effect(hook, after, name) for hook, after in (("s1", 0.1), ("s2", None)) for name in ("edema", "foreground")
    )
    section = hookpoints_section(summary(segmenters=[segmenter("m", hookpoints=("s1",), effects=effects)]))
    chart = next(block for block in section.blocks if block.kind == "chart")
    assert "−0.60  (0.70 → 0.10)" in chart.wide
    assert "(0.70 → –)" in chart.wide
    table = next(block for block in section.blocks if block.kind == "fold").blocks[0]
    assert table.rows[0][0].sub == "chosen"
    assert [cell.text for cell in table.rows[1][1:]] == ["0.70 → –", "0.70 → –"]


def test_unmeasured_is_said() -> None:
    assert hookpoints_section(summary()).blocks[0].text == "No hookpoint was measured."


def test_why_a_hookpoint_was_chosen_is_said() -> None:
    reason = "s1 (0.60 of foreground Dice, 32 channels, 64 tokens a slice): the deepest of 1."
    one = segmenter("m", hookpoints=("s1",), hookpoint_reason=reason, effects=(effect("s1", 0.1),))
    chart = next(block for block in hookpoints_section(summary(segmenters=[one])).blocks if block.kind == "chart")
    assert chart.caption.startswith("m: opened at s1.") and chart.caption.endswith(reason)


def test_every_hookpoint_that_is_opened_is_marked() -> None:
    effects = tuple(effect(name, 0.1) for name in ("s1", "s2", "s3"))
    one = segmenter("m", hookpoints=("s3", "s1"), effects=effects)
    section = hookpoints_section(summary(segmenters=[one]))
    chart = next(block for block in section.blocks if block.kind == "chart")
    assert chart.caption == "m: opened at s3 and s1."
    table = next(block for block in section.blocks if block.kind == "fold").blocks[0]
    assert [row[0].sub for row in table.rows] == ["chosen", "", "chosen"]
