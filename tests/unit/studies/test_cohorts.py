from pathlib import Path

import numpy as np
import pytest
from tests.faults.scans import head, write_cohort, write_nifti

from seglens.cohorts.findings import CheckReport
from seglens.runs import Run
from seglens.studies.cohorts import preprocessing_of
from seglens.studies.settings import SettingsError, StudySettings
from seglens.studies.stages import Study
from seglens.studies.table import analysis_table


def settings(**changed: object) -> StudySettings:
    content = {
        "sequences": ["T1"],
        "size": 32,
        "cohorts": {"a": {"sources": [{"path": "/a"}]}, "b": {"sources": [{"path": "/b"}]}},
        "segmenters": {"s": {"cohort": "a"}},
    }
    return StudySettings.parse(content | changed, "here")


def report(foreground: str) -> CheckReport:
    return CheckReport("c", ("x",), (), {}, foreground)


def test_one_rule_for_all_cohorts_of_a_study() -> None:
    brain, none = report("brain"), report("none")
    own = settings(clip_percentiles=[20, 80])
    assert preprocessing_of(own, [brain, brain]).foreground == "brain"
    assert preprocessing_of(own, [brain, none]).foreground == "none"
    assert preprocessing_of(own, [none]).clip_percentiles == (20, 80)
    assert preprocessing_of(settings(foreground="nonzero"), []).foreground == "nonzero"
    with pytest.raises(SettingsError, match=r"foreground.*no foreground rule 'brian'; did you mean 'brain'"):
        settings(foreground="brian")
    with pytest.raises(SettingsError, match=r"clip_percentiles.*must rise"):
        settings(clip_percentiles=[80, 20])


@pytest.mark.parametrize("rule", ["auto", "nonzero"])
def test_cohorts_are_cut_by_the_study_s_rule(tmp_path: Path, rule: str) -> None:
    stripped, whole = (write_cohort(tmp_path / name, ["a", "b", "c"], n_sequences=1) for name in ("one", "two"))
    for number, case in enumerate(("a", "b", "c")):
        noisy = head(50 + number)[0] + np.random.default_rng(number).integers(1, 9, (24, 28, 12))
        write_nifti(whole / f"{case}/{case}_t1.nii.gz", noisy.astype(np.int16))
    cohorts = {name: {"sources": [{"path": str(path)}]} for name, path in (("one", stripped), ("two", whole))}
    own = settings(foreground=rule, cohorts=cohorts, segmenters={"s": {"cohort": "one"}})
    run = Run(tmp_path / "run")
    study = Study(own, run, analysis_table())
    slices = {name: study.slices(name) for name in cohorts}
    for one in slices.values():
        assert one.preprocessing is not None
        assert one.preprocessing.foreground == ("none" if rule == "auto" else rule)
    documents = {name: run.artifact(f"check/{name}").document("check") for name in cohorts}
    settled = {"one": "brain", "two": "none"} if rule == "auto" else dict.fromkeys(cohorts, rule)
    assert {name: document["foreground"] for name, document in documents.items()} == settled
    assert (slices["one"].brains().float().mean() < slices["two"].brains().float().mean()) == (rule == "nonzero")
