from seglens.reports.sections.overview import findings_section, run_section, stage_times, study_name


def test_findings_of_the_summary_are_taken_as_they_are() -> None:
    assert findings_section({"findings": ["One.", "Two."]}).blocks[0].items == ("One.", "Two.")
    assert findings_section({}).blocks[0].tone == "missing"


def test_the_run_is_described() -> None:
    segmenter = {"name": "m", "architecture": "unet", "trained_on": "adult", "init_from": None}
    summary = {"study": {"name": "s"}, "seed": 0, "segmenters": [segmenter], "seconds": 61, "peak_rss_mib": 2048}
    rows = {row[0].text: row[1].text for row in run_section(summary, {}).blocks[0].rows}
    assert rows["Study"] == "s"
    assert rows["Seed"] == "0"
    assert rows["Segmenters"] == "m (unet, trained on adult, started from random weights)"
    assert rows["Time"] == "1 min 1 s"
    assert rows["Peak memory"] == "2.0 GiB"
    assert study_name({}) == "unnamed study"


def test_times_are_summed_by_kind_of_stage() -> None:
    chart = stage_times({"segmenter/a": 60.0, "segmenter/b": 30.0, "store/a": 5.0})
    assert "1 min 30 s" in chart.wide
    assert chart.wide.index("segmenter") < chart.wide.index("store")
