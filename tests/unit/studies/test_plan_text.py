from seglens.studies.plan_text import plan_text, unfit
from seglens.studies.planning import Plan, StagePlan

STORE = StagePlan("store/adult", 60.0, 7200.0, 2.0**30)
PLAN = Plan({"adult": 60}, {"adult": 200}, {"adult": 2496}, (STORE,), 2.0**30, {"adult": "stage2"}, 2)


def test_the_text_names_counts_times_and_what_auto_was_taken_for(tmp_path):
    text = plan_text(PLAN, tmp_path / "not" / "yet")
    for expected in (
        "slices of adult",
        "training steps of adult",
        "2,496",
        "120 min",
        "1.0 GiB",
        "auto is taken as stage2",
    ):
        assert expected in text


def test_what_fits_is_not_complained_about():
    assert unfit(PLAN, 2**31, 2**31) == []


def test_what_does_not_fit_comes_with_what_to_change():
    disk, memory = unfit(PLAN, 2**29, 2**29)
    assert "store: false" in disk and "batch_size" in memory
    (jobs,) = unfit(PLAN, 2**31, 2**30)
    assert "--jobs 1" in jobs
