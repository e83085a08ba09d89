import json
from dataclasses import asdict, replace

import pytest

from seglens.runtime.provenance import Provenance, by_record, record_sentence


def test_a_record_comes_back_from_json_and_is_read_strictly():
    record = Provenance.current()
    assert Provenance.from_json(json.loads(json.dumps(asdict(record)))) == record
    assert record.versions["torch"] in record.text and record.instruction_set in record.text
    with pytest.raises(KeyError):
        Provenance.from_json({"versions": {}})


def test_a_record_that_was_written_has_the_text_of_the_one_that_is():
    record = Provenance.current()
    written = json.dumps(asdict(record), sort_keys=True)
    assert Provenance.from_json(json.loads(written)).text == record.text


def test_stages_of_another_record_are_named():
    record = replace(Provenance.current(), threads=1)
    other, threads = replace(record, instruction_set="AVX9000"), replace(record, threads=2)
    stages = {"store/b": other, "store/a": record, "atlas/a": threads, "slices/a": record, "old": None}
    groups = by_record(stages)
    assert groups == {
        record.text: ["store/a", "slices/a"],
        other.text: ["store/b"],
        threads.text: ["atlas/a"],
        "no record": ["old"],
    }
    assert record.text.endswith("1 thread a stage") and threads.text.endswith("2 threads a stage")
    sentence = record_sentence(groups)
    assert sentence.startswith(
        f"Computed by {record.text}; but store/b by {other.text}; but atlas/a by {threads.text}; but old by no record: "
    )
    assert record_sentence(by_record({"store/a": record})) == f"Computed by {record.text}."
