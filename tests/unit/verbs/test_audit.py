import json
from dataclasses import replace
from functools import partial

import pytest
from tests.faults.scans import write_cohort
from tests.toys import answer

from seglens.artifacts import new_artifact
from seglens.audit import auditing
from seglens.cohorts.case import TUMOUR_LABELS
from seglens.cohorts.preprocessing import Preprocessing
from seglens.dictionaries.fit_settings import FitSettings
from seglens.segmenters.architectures import build_segmenter
from seglens.verbs.options import DONE, REFUSED

TINY = {
    "hidden_sizes": (8, 16, 24, 32),
    "depths": (1, 1, 1, 1),
    "num_attention_heads": (1, 2, 3, 4),
    "decoder_hidden_size": 8,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("verb")
    made = build_segmenter("segformer-b0", sequences=("T1",), labels=TUMOUR_LABELS, size=32, seed=0, settings=TINY)
    segmenter = replace(made, preprocessing=Preprocessing(("T1",), 32, foreground="brain"))
    with new_artifact(root / "model", kind="segmenter", inputs={}) as draft:
        segmenter.write(draft)
    write_cohort(root / "source", [f"p{number}" for number in range(6)], n_sequences=1)
    write_cohort(root / "target", ["q0", "q1"], n_sequences=1, seed=300)
    for mask in (root / "target").rglob("*_seg.nii.gz"):
        mask.unlink()
    return root


def asked(folders, out, **others):
    options = {"model": folders / "model", "source": folders / "source", "target": folders / "target", "out": out}
    return [text for name, value in (options | others).items() for text in (f"--{name}", value)]


def test_the_command_writes_an_audit(monkeypatch, capsys, folders, tmp_path):
    small = FitSettings(expansion=1, steps=2, batch_size=64)
    monkeypatch.setattr(auditing, "AuditSettings", partial(auditing.AuditSettings, fit=small))
    assert answer(monkeypatch, "audit", *asked(folders, tmp_path / "out", hookpoint="stage1", hospitals="1")) == DONE
    document = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert document["verdict"]["sentence"] in capsys.readouterr().out
    assert [row["volume"] for row in document["volumes"]] and document["settings"]["hookpoint"] == "stage1"


REFUSALS = [
    ({"split": "tset"}, "no case in the split 'tset'; it has"),
    ({"threshold": 1.5}, "no Dice between 0 and 1"),
    ({"hookpoint": "stage9"}, "no hookpoint 'stage9'"),
    ({"fold": "0"}, "--fold, --set and --module are of a model of others"),
]


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused_before_anything_is_written(monkeypatch, capsys, folders, tmp_path, case):
    others, message = case
    assert answer(monkeypatch, "audit", *asked(folders, tmp_path / "out", **others)) == REFUSED
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
