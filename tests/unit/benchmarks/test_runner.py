import math

import pytest
from benchmarks.framework import Benchmark, Subject
from benchmarks.runner import Figures, figures_of, ratios, run
from tests.unit.benchmarks import toy

MODULE = "tests.unit.benchmarks.toy"


@pytest.fixture(scope="module")
def result(bare_workers):
    return run(toy.BENCHMARK, MODULE, cases=["small"], repeats=3, say=lambda words: None)


def test_rows_hold_ratios_and_every_broken_subject_is_left_out_with_its_reason(result):
    rows = {row.subject: row for row in result.rows}
    assert list(rows) == ["ours", "slow peer", "floor", "holding", "child", "settings"]
    peers = ("slow peer", "holding", "child", "settings")
    fastest = min(rows[name].cpu_ms for name in peers)
    for row in result.rows:
        assert (row.benchmark, row.case) == ("toy", "small")
        assert row.cpu_ms > 0 and row.wall_ms > 0 and row.peak_mib >= 0
        assert math.isclose(row.x_floor, row.cpu_ms / rows["floor"].cpu_ms)
        assert math.isclose(row.x_best_peer, row.cpu_ms / fastest)
    assert {one.subject: one.reason for one in result.left_out} == {
        "refusing": "the peer is not for this machine",
        "breaking": "ValueError: broken in set-up",
        "breaking later": "RuntimeError: broken in the second repeat",
        "dying": "its process ended with code 3: last words",
        "elsewhere": "environment nowhere cannot be made here",
    }


def test_cpu_time_counts_child_processes(result):
    (child,) = (row for row in result.rows if row.subject == "child")
    assert child.cpu_ms >= 100  # the child burns that much by its own clock


def test_memory_is_that_of_the_repeats(result):
    (holding,) = (row for row in result.rows if row.subject == "holding")
    assert 49 <= holding.peak_mib < 100  # the 300 MiB of set-up alone are not in it


def test_without_floor_or_peer_there_is_no_ratio():
    def figures(cpu_ms):
        return Figures(cpu_ms, cpu_ms, 0.0)

    alone = Benchmark("alone", "One.", {"c": {}}, [Subject("us", "ours", toy.make_holding)])
    (row,) = ratios(alone, "c", {"us": figures(2.0)})
    assert row.x_floor is None and row.x_best_peer is None
    both = Benchmark(
        "both",
        "Two of each.",
        {"c": {}},
        [Subject(f"{role} {i}", role, toy.make_holding) for role in ("ours", "peer", "floor") for i in (1, 2)],
    )
    times = {"ours 2": 3.0, "peer 1": 12.0, "peer 2": 6.0, "floor 1": 1.5, "floor 2": 2.0}
    rows = ratios(both, "c", {name: figures(cpu_ms) for name, cpu_ms in times.items()})
    assert [(row.subject, row.x_floor, row.x_best_peer) for row in rows] == [
        ("ours 2", 2.0, 0.5),
        ("peer 1", 8.0, 2.0),
        ("peer 2", 4.0, 1.0),
        ("floor 1", 1.0, 0.25),
        ("floor 2", 2.0 / 1.5, 2.0 / 6.0),
    ]


def test_times_of_a_share_stand_for_the_whole_case_and_memory_does_not():
    times = [(2.0, 5.0), (9.0, 9.0), (3.0, 4.0)]
    assert figures_of(times, 7.0, 1.0) == Figures(3.0, 5.0, 7.0)
    assert figures_of(times, 7.0, 1 / 4) == Figures(12.0, 20.0, 7.0)


def test_unknown_cases_and_no_repeats_are_refused():
    with pytest.raises(ValueError, match=r"cases \['large'\] are none of \['small', 'twice', 'four times'\]"):
        run(toy.BENCHMARK, MODULE, cases=["large"], repeats=3, say=print)
    with pytest.raises(ValueError, match="repeats 0 is below 1"):
        run(toy.BENCHMARK, MODULE, cases=["small"], repeats=0, say=print)
