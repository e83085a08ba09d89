import json
from dataclasses import replace

from tests.records import alignment

from seglens.diffing.records import MatchingRecord, PairFigures, PairRecord
from seglens.documents import from_document, to_document


def test_a_pair_by_function_alone_says_nothing_of_weights():
    pair = PairRecord("a", "b", False, PairFigures(0.3, None), {}, 24, False)
    assert to_document(pair)["figures"] == {"functional": 0.3, "functional_floor": None}
    assert from_document(json.dumps(to_document(pair)), PairRecord, "pair.json") == pair


def test_bounds_keep_their_sides():
    pair = PairRecord("a", "b", True, PairFigures(0.3, 0.1, floor=0.5), {"floor": (0.4, 0.6)}, 24, True)
    again = from_document(json.dumps(to_document(pair)), PairRecord, "pair.json")
    assert again.bounds_by_side["floor"] == (0.4, 0.6)
    assert again.figures.floor == 0.5
    assert again.figures.ceiling is None


def test_an_alignment_without_weights_is_written_without_what_weights_give():
    document = to_document(replace(alignment(None, None, None), tau=None))
    assert {"shared", "calibrated", "floor"} <= set(document)
    assert not {"tau", "methods", "n_source", "same_sae_seed"} & set(document)
    by_filter = {"none": MatchingRecord(1.0, 0.0, 64, None, 0.7)}
    whole = alignment(0.8, methods={"greedy": by_filter})
    assert to_document(whole)["methods"]["greedy"]["none"]["predictability"] is None
