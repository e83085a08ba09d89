"""The doctor names what is there and what would break."""

import importlib.metadata

from seglens import doctor


def test_a_healthy_machine():
    text, healthy = doctor.examine()
    assert healthy
    for word in ("python", "torch", "record", "memory", "disk", "all is well"):
        assert word in text


def test_a_missing_package_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    text, healthy = doctor.examine()
    assert not healthy
    assert "no-such-package is not installed; run pip install no-such-package" in text


def test_a_torchvision_that_does_not_load_is_a_problem(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    problem = doctor.torchvision_problem()
    assert problem is not None
    assert "nms does not exist" in problem
    assert "pip uninstall torchvision" in problem


def test_a_torchvision_that_loads_is_none(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    assert doctor.torchvision_problem() is None
