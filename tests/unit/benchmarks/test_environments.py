import subprocess
import sys
from importlib import metadata

import pytest
from benchmarks import environments
from benchmarks.framework import Unavailable


@pytest.fixture
def one_environment(tmp_path, monkeypatch):
    """A project folder with one environment that needs nothing."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "peer.txt").write_text("# nothing\n")
    for name, value in {"PROJECT": tmp_path, "REQUIREMENTS": tmp_path / "requirements"}.items():
        monkeypatch.setattr(environments, name, value)
    monkeypatch.setattr(environments, "CACHE", tmp_path / "cache")
    environments.python_of.cache_clear()
    yield tmp_path
    environments.python_of.cache_clear()


@pytest.mark.processes
def test_an_environment_is_made_once_and_again_when_its_requirements_change(one_environment, capsys):
    python = environments.python_of("peer")
    assert (
        subprocess.run([python, "-c", "import sys; sys.exit(sys.prefix == sys.base_prefix)"], check=False).returncode
        == 0
    )
    assert "making the environment peer" in capsys.readouterr().err
    environments.python_of.cache_clear()
    environments.python_of("peer")
    assert capsys.readouterr().err == ""
    (one_environment / "requirements" / "peer.txt").write_text("# nothing, said otherwise\n")
    environments.python_of.cache_clear()
    environments.python_of("peer")
    assert "making the environment peer" in capsys.readouterr().err


@pytest.mark.processes
def test_what_cannot_be_installed_is_unavailable_until_asked_again(one_environment, capsys):
    missing = one_environment / "nowhere.whl"
    (one_environment / "requirements" / "peer.txt").write_text(f"{missing}\n")
    with pytest.raises(Unavailable, match="environment peer cannot be made here: ERROR"):
        environments.python_of("peer")
    assert not (one_environment / "cache" / "peer").exists()
    capsys.readouterr()
    with pytest.raises(Unavailable, match="to try again: python -m benchmarks --environments make"):
        environments.python_of("peer")
    assert capsys.readouterr().err == ""  # remembered, not tried again
    (one_environment / "requirements" / "peer.txt").write_text("# nothing\n")
    environments.forget_failures()
    assert (one_environment / "cache" / "peer").exists() is False
    environments.python_of("peer")
    assert (one_environment / "cache" / "peer" / "requirements.txt").exists()


def test_own_is_this_python_and_an_unknown_name_is_refused(one_environment):
    assert environments.python_of("own") == sys.executable
    with pytest.raises(ValueError, match=r"no environment 'other'; there are \['own', 'peer'\]"):
        environments.python_of("other")


def test_every_environment_with_torch_bounds_it():
    # the newest torch without an upper bound is several GB of CUDA on a machine that has no GPU
    for name in environments.environments():
        text = (environments.REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        assert all(line == "torch>=2.10,<2.14" for line in text if line.startswith("torch")), name
    assert environments.versions("own")["numpy"] == metadata.version("numpy")
