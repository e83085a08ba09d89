from tests.records import summary

from seglens.reports.sections.whole_volumes import COLUMNS, volume_section
from seglens.segmenters.score_summary import Score, VolumeSummary
from seglens.summaries import VolumeScoresRecord


def scores(region: str, labels: tuple[int, ...], *, measured: bool) -> VolumeSummary:
    known = Score(0.5, 4) if measured else Score(None, 0)
    return VolumeSummary(
        region=region,
        labels=labels,
        n_volumes=4,
        dice=Score(0.75, 3),
        dice_empty1=Score(0.8125, 4),
        hd95_mm=Score(12.34, 2) if measured else known,
        surface_dice=known,
        lesion_dice=known,
        n_missed_volumes=1,
        n_false_volumes=0,
        n_lesions=5 if measured else 0,
        n_missed_lesions=2 if measured else 0,
        n_false_lesions=3 if measured else 0,
    )


def test_a_table_a_region_with_the_n_of_each_figure() -> None:
    both = tuple(scores(name, labels, measured=True) for name, labels in (("edema", (2,)), ("whole tumour", (1, 2, 3))))
    section = volume_section(summary(volume_scores=[VolumeScoresRecord("adult", "ssa", both)]))
    assert [block.caption for block in section.blocks[:-1]] == [
        "edema (label 2), test volumes",
        "whole tumour (labels 1, 2, 3 as one), test volumes",
    ]
    (row,) = section.blocks[0].rows
    assert len(row) == len(COLUMNS)
    assert [cell.text for cell in row] == ["adult", "SSA", "0.75", "0.81", "12.3", "0.50", "0.50", "1", "0", "2", "3"]
    assert [cell.sub for cell in row][2:10] == ["n 3", "n 4", "n 2", "n 4", "n 4", "of 3", "of 1", "of 5"]


def test_without_a_spacing_lesions_are_undefined_and_not_none() -> None:
    record = VolumeScoresRecord("adult", "ssa", (scores("edema", (2,), measured=False),))
    (row,) = volume_section(summary(volume_scores=[record])).blocks[0].rows
    assert [cell.text for cell in row][4:] == ["–", "–", "–", "1", "0", "–", "–"]


def test_no_section_where_no_volume_was_scored() -> None:
    assert volume_section(summary()) is None
