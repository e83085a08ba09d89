from dataclasses import replace

from tests.records import cohort, segmenter, summary

from seglens.reports.sections.overview import run_section, sentences_section, stage_times


def test_without_results_there_is_nothing_to_say() -> None:
    assert sentences_section(summary()).blocks[0].tone == "missing"
    announce = sentences_section(summary(cohorts=[cohort("a", n_quarantined=2)])).blocks[0]
    assert announce.items == ("Cases left out because their files are faulty: a 2; see Cohorts for the fix.",)


def test_the_run_is_described() -> None:
    own = segmenter("m", architecture="unet", trained_on="adult")
    run = summary(study="s", seed=0, segmenters=[own], seconds=61.0, peak_rss_mib=2048)
    rows = {row[0].text: row[1].text for row in run_section(run, {}).blocks[0].rows}
    assert rows["Study"] == "s"
    assert rows["Seed"] == "0"
    assert rows["Segmenters"] == "m (unet, trained on adult, started from random weights)"
    assert rows["Time"] == "1 min 1 s"
    assert rows["Peak memory"] == "2.0 GiB"


def test_an_opened_model_may_have_seen_the_test_patients() -> None:
    opened = segmenter("m", architecture="unet", trained_on="adult", opened_from="theirs")
    for known in (True, False):
        own = replace(opened, unseen_is_known=known)
        rows = {row[0].text: row[1].text for row in run_section(summary(segmenters=[own]), {}).blocks[0].rows}
        assert rows["Segmenters"].startswith("m (unet, opened from theirs, its own cohort is adult")
        assert ("may have been trained on" in rows["Segmenters"]) is not known


def test_times_are_summed_by_kind_of_stage() -> None:
    chart = stage_times({"segmenter/a": 60.0, "segmenter/b": 30.0, "store/a": 5.0})
    assert "1 min 30 s" in chart.wide
    assert chart.wide.index("segmenter") < chart.wide.index("store")
