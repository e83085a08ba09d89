"""The command: fast help, plain refusals, exit codes."""

import subprocess
import sys

import pytest
import yaml
from tests.faults.scans import write_cohort

from seglens import cli
from seglens.cohorts.checks import check_cohort
from seglens.cohorts.layouts import read_cohort
from seglens.studies.example import EXAMPLE, PAPER
from seglens.studies.input_checksums import remember
from seglens.verbs.data import FileOptions


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["seglens", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.processes
def test_help_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['seglens', '--help']\n"
        "from seglens import cli\n"
        "try: cli.main()\n"
        "except SystemExit as stop: code = stop.code\n"
        "print(code, sorted({'torch', 'transformers', 'monai', 'polars', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    for verb in ("demo", "run", "check", "phantom", "train", "extract", "fit", "describe", "diff", "steer", "report"):
        assert f"{verb} " in done.stdout


def test_the_example_is_printed(monkeypatch, capsys):
    assert run(monkeypatch, "run", "--example") == cli.DONE
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(EXAMPLE)
    assert run(monkeypatch, "run", "--example", "paper") == cli.DONE
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(PAPER)
    assert run(monkeypatch, "run", "--example", "papr") == cli.REFUSED
    assert "no example 'papr'; did you mean 'paper'? there are study, paper" in capsys.readouterr().err


def test_refusals_say_what_to_do_without_a_traceback(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "run") == cli.REFUSED
    assert "write one with `seglens run --example > study.yaml`" in capsys.readouterr().err
    assert run(monkeypatch, "check", str(tmp_path)) == cli.REFUSED
    assert str(tmp_path) in capsys.readouterr().err
    assert run(monkeypatch, "no-such-verb") == cli.REFUSED
    assert run(monkeypatch, "report", str(tmp_path)) == cli.REFUSED
    assert "no summary.json" in capsys.readouterr().err


def test_plan_takes_a_study_or_the_demo(monkeypatch, capsys):
    assert run(monkeypatch, "plan") == cli.REFUSED
    assert "either a study file or --demo" in capsys.readouterr().err
    assert run(monkeypatch, "plan", "study.yaml", "--demo") == cli.REFUSED


def test_experiments_are_listed_and_an_unknown_one_is_refused(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, "reproduce", "--list") == cli.DONE
    listed = capsys.readouterr().out
    assert "shared" in listed
    assert "Tables 1 and 7" in listed
    assert run(monkeypatch, "reproduce", "tabel1", "--out", str(tmp_path / "out")) == cli.REFUSED
    assert "no experiment tabel1; there are shared" in capsys.readouterr().err
    assert run(monkeypatch, "reproduce", "non_medical", "--faces", str(tmp_path)) == cli.REFUSED
    assert "CelebAMask-HQ layout" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch, capsys):
    monkeypatch.setenv("SEGLENS_DEBUG", "1")
    assert run(monkeypatch, "run") == cli.REFUSED
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "no study file given" in said


def test_a_fault_of_ours_is_exit_1(monkeypatch, capsys):
    monkeypatch.setattr("seglens.doctor.examine", lambda: 1 / 0)
    assert run(monkeypatch, "doctor") == cli.FAULT
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_doctor(monkeypatch, capsys):
    assert run(monkeypatch, "doctor") == cli.DONE
    assert "all is well" in capsys.readouterr().out
    assert run(monkeypatch, "doctor", "--repair") == cli.REFUSED
    assert "seglens doctor RUN --repair" in capsys.readouterr().err


def test_phantom_then_check(monkeypatch, capsys, tmp_path):
    arguments = ("--population", "adult", "--subjects", "2", "--size", "32", "--slices", "3", "--factor", "noise=ssa")
    assert run(monkeypatch, "phantom", "--out", str(tmp_path / "c"), *arguments) == cli.DONE
    assert run(monkeypatch, "check", str(tmp_path / "c")) == cli.DONE
    assert "2 cases, nothing wrong" in capsys.readouterr().out
    image = next((tmp_path / "c" / "imagesTr").glob("*_0001.nii.gz"))
    image.write_bytes(image.read_bytes()[:-20])
    assert run(monkeypatch, "check", str(tmp_path / "c")) == cli.QUARANTINED
    assert image.name.split("_")[0] in capsys.readouterr().out


def test_check_of_two_data_sets_reports_both_and_takes_patients(monkeypatch, capsys, tmp_path):
    for name in ("one", "two"):
        write_cohort(tmp_path / name, ["a_left", "a_right"])
        image = tmp_path / name / "a_left/a_left_t1.nii.gz"
        image.write_bytes(image.read_bytes()[:-20])
    for name in ("one", "two"):
        assert run(monkeypatch, "check", str(tmp_path / name), "--out", str(tmp_path / "seen")) == cli.QUARANTINED
    report = (tmp_path / "seen/quarantine.txt").read_text()
    assert all(name in report for name in ("one", "two"))
    found = FileOptions(patient="^[a-z]+").cohort(tmp_path / "one")
    assert {case.patient for case in found.cases} == {"a"}


COMMAND = """
import sys
import seglens.cli as cli
from seglens.runtime.distributed import rank_and_size, barrier

def answer():
    print(*rank_and_size())
    barrier()
    return cli.DONE, ""

cli._answer = answer
sys.argv = ["seglens", *sys.argv[1:]]
sys.exit(cli._as_one_of_many())
"""


@pytest.mark.parametrize(("asked", "seen"), [(("--debug", "run"), "0 2"), (("reproduce",), "0 1")])
def test_of_several_processes_all_do_a_study_and_the_first_does_other_verbs_as_if_alone(run_ranks, asked, seen):
    first, second = run_ranks("-c", COMMAND, *asked)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert (first.stdout.strip(), second.stdout) == (seen, "")


def test_two_data_sets_of_one_name_are_not_remembered_as_one(monkeypatch, capsys, tmp_path):
    for number, place in enumerate(("here", "there")):
        write_cohort(tmp_path / place / "data", ["a", "b"] if number else ["a"])
    check = ("check", "--out", str(tmp_path / "seen"))
    assert run(monkeypatch, *check, str(tmp_path / "here/data")) == cli.DONE
    assert run(monkeypatch, *check, str(tmp_path / "here/data")) == cli.DONE
    found = read_cohort(tmp_path / "here/data")
    remember(tmp_path / "seen", found, {}, check_cohort(found))  # as a study in the same folder does
    assert run(monkeypatch, *check, str(tmp_path / "there/data")) == cli.REFUSED
    said = " ".join(capsys.readouterr().err.split())
    assert "as data, and" in said
    assert "give another --out, or, if the files were moved, write their new place into" in said
    (tmp_path / "here").rename(tmp_path / "moved")
    memory = tmp_path / "seen/inputs/data.json"
    memory.write_text(memory.read_text().replace(f"{tmp_path}/here/", f"{tmp_path}/moved/"))
    image = tmp_path / "moved/data/a/a_t1.nii.gz"
    image.write_bytes((tmp_path / "there/data/b/b_t1.nii.gz").read_bytes())
    assert run(monkeypatch, *check, str(tmp_path / "moved/data")) == cli.QUARANTINED  # it knows them still
    assert "its sha256 differs" in capsys.readouterr().out
