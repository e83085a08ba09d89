import importlib
import json

import pytest
from benchmarks.__main__ import load, names
from benchmarks.environments import OWN, environments
from benchmarks.framework import Benchmark, Subject


def make(case):
    return lambda: None


def test_subjects_have_names_of_their_own_and_growth_names_cases():
    twice = [Subject("a", "ours", make), Subject("a", "peer", make)]
    with pytest.raises(ValueError, match="two subjects of one name"):
        Benchmark("b", "Something.", {"c": {}}, twice)
    with pytest.raises(ValueError, match=r"growth names cases \['d'\]; it has \['c'\]"):
        Benchmark("b", "Something.", {"c": {}}, twice[:1], growth={"tokens": ["c", "d"]})


@pytest.mark.parametrize("name", names())
def test_every_benchmark_of_the_project_can_be_run(name):
    benchmark = load(name)
    assert benchmark.name == name == importlib.import_module(f"benchmarks.{name}").__name__.split(".")[-1]
    assert benchmark.cases and benchmark.repeats >= 1 and benchmark.threads >= 1
    assert json.loads(json.dumps({case: dict(values) for case, values in benchmark.cases.items()}))
    assert any(subject.role == "ours" for subject in benchmark.subjects)
    assert {subject.environment for subject in benchmark.subjects} <= {OWN, *environments()}
    assert all(subject.role in ("ours", "peer", "other", "floor") for subject in benchmark.subjects)


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    with pytest.raises(SystemExit, match="no benchmark 'framework'; there are"):
        load("framework")
    with pytest.raises(SystemExit, match="no benchmark 'nothing'; there are"):
        load("nothing")
