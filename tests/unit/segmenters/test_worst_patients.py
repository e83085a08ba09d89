from pathlib import Path

import polars as pl
import torch
from tests.records import counted

from seglens.artifacts import new_artifact, read_artifact
from seglens.segmenters.scoring import Scores
from seglens.segmenters.worst_patients import WorstPatients, patient_dice, worst_rows


def planted() -> Scores:
    """P1 is worst, then P3; of P1's slices the last has most wrong pixels; P4 has no class in the mask."""
    table = counted({"core": 0.8, "edema": 0.8}, patients=5, spread=0.0).table
    lesion, patient, row = pl.col("label") > 0, pl.col("patient"), pl.col("row")
    tp = pl.col("tp")
    for condition, value in (((patient == "P1"), 100), ((row == 5), 10), ((patient == "P3"), 300)):
        tp = pl.when(lesion & condition).then(value).otherwise(tp)
    truth = pl.when(lesion & (patient == "P4")).then(0).otherwise(pl.col("truth"))
    tp = pl.when(lesion & (patient == "P4")).then(0).otherwise(tp)
    return Scores(table.with_columns(tp=tp, truth=truth))


def test_the_worst_patients_come_first_each_at_its_worst_slice() -> None:
    assert worst_rows(planted(), most=2) == [5, 9]
    assert len(worst_rows(planted(), most=9)) == 4


def test_a_patient_s_dice_is_pooled_over_its_slices() -> None:
    dice = dict(patient_dice(planted()).iter_rows())
    assert dice["P1"] == (100 + 100 + 10) / 3000
    assert "P4" not in dice


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    kept = WorstPatients((5, 9), torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2))
    for name, worst in (("some", kept), ("none", WorstPatients((), torch.empty(0, 1, 2, 2, dtype=torch.uint8)))):
        with new_artifact(tmp_path / name, kind="scores", inputs={}) as draft:
            worst.write(draft)
    back = WorstPatients.read(read_artifact(tmp_path / "some"))
    assert back is not None
    assert back.rows == kept.rows
    assert torch.equal(back.predicted, kept.predicted)
    assert WorstPatients.read(read_artifact(tmp_path / "none")) is None
