"""One quick demo for all tests that look at a finished run."""

import pytest

from seglens.studies.demo import demo_settings
from seglens.studies.report import write_report
from seglens.studies.study import run_study


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory):
    """A finished quick demo, with the stages that were announced while it ran."""
    run = run_study(demo_settings(seed=0, quick=True), tmp_path_factory.mktemp("demo") / "run")
    write_report(run)
    return run
