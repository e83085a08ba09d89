"""Scores of whole volumes: what the sampled slices leave out."""

from seglens.reports.blocks import Block, Cell, Paragraph, Section, head, table
from seglens.reports.wording import UNDEFINED, count, number, plain
from seglens.segmenters.score_summary import Score, VolumeSummary
from seglens.summaries import Summary, VolumeScoresRecord

COLUMNS = (
    "Model", "Cohort", "Dice", "Dice, empty = 1", "HD95 mm", "Surface Dice 1 mm", "Lesion-wise Dice", "Volumes missed",
    "Volumes with a false alarm", "Lesions missed", "False lesions",
)  # fmt: skip
NOTE = (
    "Each volume is one value, on the files’ own grid; n: volumes in a mean. Dice: volumes with the class. HD95 "
    "and surface Dice need a known spacing: where mask and prediction (HD95) or one of them (surface Dice) have "
    "it. Lesion-wise Dice as BraTS 2023 has it: lesions that touch when each is grown by 3 voxels are one, those of "
    "at most 50 mm³ do not count, each false lesion counts 0."
)


def volume_section(summary: Summary) -> Section | None:
    """One table a class or region; None where no volume was scored."""
    found = [one for one in summary.volume_scores if any(own.n_volumes for own in one.scores)]
    if not found:
        return None
    intro = (
        "The scores above are of sampled slices, mostly with a lesion. Here every slice of each test volume is "
        "segmented, so a false alarm far from any lesion counts, and distances are those of the volume."
    )
    regions = {own.region: own.labels for one in found for own in one.scores}
    tables = [_table(name, regions[name], found) for name in regions]
    return Section("volumes", "Whole volumes", intro, (*tables, Paragraph(NOTE)))


def _table(region: str, labels: tuple[int, ...], found: list[VolumeScoresRecord]) -> Block:
    rows = []
    for one in found:
        for own in one.scores:
            if own.region == region:
                rows.append((head(plain(one.segmenter)), head(plain(one.cohort)), *_cells(own)))
    values = f"label {labels[0]}" if len(labels) == 1 else f"labels {', '.join(map(str, labels))} as one"
    return table(f"{plain(region)} ({values}), test volumes", COLUMNS, rows)


def _cells(own: VolumeSummary) -> list[Cell]:
    measured = bool(own.lesion_dice.n)
    return [
        _cell(own.dice),
        _cell(own.dice_empty1),
        _cell(own.hd95_mm, 1),
        _cell(own.surface_dice),
        _cell(own.lesion_dice),
        Cell(count(own.n_missed_volumes), f"of {count(own.dice.n)}"),
        Cell(count(own.n_false_volumes), f"of {count(own.n_volumes - own.dice.n)}"),
        Cell(count(own.n_missed_lesions), f"of {count(own.n_lesions)}") if measured else Cell(UNDEFINED),
        Cell(count(own.n_false_lesions)) if measured else Cell(UNDEFINED),
    ]


def _cell(score: Score, digits: int = 2) -> Cell:
    return Cell(number(score.value, digits), f"n {count(score.n)}")
