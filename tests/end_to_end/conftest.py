"""One quick demo for all tests that look at a finished run."""

import pytest

from seglens.runs import Run
from seglens.studies.demo import demo_settings
from seglens.studies.report import write_report
from seglens.studies.study import run_study


@pytest.fixture(scope="session")
def quick_run(made_once):
    """A finished quick demo, and its report."""

    def make(folder):
        write_report(run_study(demo_settings(seed=0, quick=True), folder))

    return Run(made_once("demo", make))
