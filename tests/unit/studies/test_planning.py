import pytest
from tests.crash import smallest_study

from seglens.studies.planning import Plan, StagePlan, extended, plan_study


def test_a_line_through_both_measurements_is_extended():
    assert extended((10.0, 3.0), (20.0, 5.0), 100.0) == pytest.approx(21.0)


def test_a_line_neither_falls_nor_begins_below_nothing():
    assert extended((10.0, 5.0), (20.0, 3.0), 100.0) == 3.0
    assert extended((10.0, 1.0), (20.0, 4.0), 100.0) == pytest.approx(20.0)


def test_equal_work_takes_the_longer_of_both():
    assert extended((1.0, 2.0), (1.0, 3.0), 1.0) == 3.0


def test_a_study_takes_its_stages_over_the_jobs_or_its_longest():
    stages = tuple(StagePlan(name, 1.0, seconds, 10.0) for name, seconds in (("x/a", 4.0), ("x/b", 1.0), ("y/a", 1.0)))
    assert Plan({}, {}, {}, stages, 0.0, {}, 1).seconds == 6
    assert Plan({}, {}, {}, stages, 0.0, {}, 2).seconds == 4
    assert Plan({}, {}, {}, stages, 0.0, {}, 2).n_bytes == 30


def test_no_number_of_jobs_is_faster_than_the_longest_chain_of_stages():
    stages = (
        StagePlan("x/a", 1.0, 4.0, 0.0),
        StagePlan("y/a", 1.0, 3.0, 0.0, ("x/a",)),
        StagePlan("z/a", 1.0, 2.0, 0.0),
    )
    made = Plan({}, {}, {}, stages, 0.0, {}, 8)
    assert made.chain == 7.0 and made.seconds == 7.0


@pytest.mark.slow
def test_every_stage_of_a_study_of_pictures_is_planned(tmp_path):
    settings = smallest_study(tmp_path / "data")
    before = sorted((tmp_path / "data").rglob("*"))
    made = plan_study(settings, jobs=1)
    assert made.slices == {"discs": 24}  # 8 patients, 3 slices each
    assert {stage.stage for stage in made.stages} >= {
        *("check/discs", "slices/discs", "segmenter/first", "segmenter/second", "dictionary/first"),
        *("alignment/first~second", "steering/first-discs-tumour", "failures/first-discs"),
    }
    assert all(stage.seconds >= 0 and stage.n_bytes > 0 for stage in made.stages)
    assert sorted((tmp_path / "data").rglob("*")) == before and sorted(tmp_path.iterdir()) == [tmp_path / "data"]
