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


def test_stages_of_another_record_are_named_and_threads_make_none():
    record = Provenance.current()
    other = replace(record, instruction_set="AVX9000")
    stages = {"store/b": other, "store/a": record, "atlas/a": replace(record, threads=record.threads + 1), "old": None}
    groups = by_record(stages)
    assert groups == {record.text: ["store/a", "atlas/a"], other.text: ["store/b"], "no record": ["old"]}
    sentence = record_sentence(groups)
    assert sentence.startswith(f"Computed by {record.text}; but store/b by {other.text}; but old by no record: ")
    assert record_sentence(by_record({"store/a": record})) == f"Computed by {record.text}."
