import polars as pl

from seglens.diffing.records import MatchingRecord
from seglens.studies.analyses.alignment import _methods


def test_figures_of_a_matching_are_filed_by_method_and_filter():
    table = pl.DataFrame(
        {
            "method": ["greedy", "greedy", "sinkhorn"],
            "filter": ["none", "tau", "none"],
            "agreement": [0.7, 1.0, 0.6],
            "collision": [0.1, 0.0, 0.2],
            "n": [64, 50, 64],
            "predictability": [0.6, None, 0.5],
            "stability": [0.9, 0.8, 0.7],
        }
    )
    filed = _methods(table)
    assert list(filed) == ["greedy", "sinkhorn"]
    assert filed["greedy"] == {
        "none": MatchingRecord(0.7, 0.1, 64, 0.6, 0.9),
        "tau": MatchingRecord(1.0, 0.0, 50, None, 0.8),
    }
    assert filed["sinkhorn"]["none"].n == 64
