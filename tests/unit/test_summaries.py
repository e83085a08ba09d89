import json

import pytest
from tests.records import alignment, cohort, dictionary, effect, failure, scores, segmenter, steering, summary

from seglens.documents import DocumentError, to_document
from seglens.runs import Run
from seglens.summaries import FILE, PhantomRecord, SplitRecord, summary_of

SCORES = scores({"edema": 0.3})
WHOLE = summary(
    cohorts=[cohort("a", splits={"test": SplitRecord(2, 12, 1)}, phantom=PhantomRecord("adult", {}, 8, 3))],
    segmenters=[segmenter("m", scores={"a": SCORES}, effects=(effect("stage3", None),))],
    dictionaries=[dictionary("m", control_explained_variance=None)],
    alignments=[alignment(0.7)],
    steering=[steering(SCORES, SCORES, {})],
    failures=[failure(3, None)],
    settings={"name": "s", "sizes": [1, 2]},
)


def test_a_summary_comes_back_as_it_was(tmp_path):
    assert summary_of(Run(tmp_path)) is None
    (tmp_path / FILE).write_text(json.dumps(to_document(WHOLE)))
    assert summary_of(Run(tmp_path)) == WHOLE


def test_labels_are_numbers_again(tmp_path):
    document = to_document(WHOLE)
    assert document["cohorts"][0]["labels"] == {"0": "background", "1": "edema"}
    (tmp_path / FILE).write_text(json.dumps(document))
    assert summary_of(Run(tmp_path)).cohorts[0].labels == {0: "background", 1: "edema"}


def test_what_is_missing_is_named_with_the_file(tmp_path):
    document = to_document(WHOLE)
    del document["segmenters"][0]["trained_on"]
    (tmp_path / FILE).write_text(json.dumps(document))
    with pytest.raises(DocumentError, match=r"summary\.json is damaged .*segmenters\.0\.trained_on: is missing"):
        summary_of(Run(tmp_path))
