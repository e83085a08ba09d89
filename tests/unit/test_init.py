"""The public names: each resolves, is typed, is handed on by its folder, and costs nothing before it is used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import seglens

ROOT = Path(seglens.__file__).parent


def names_of(stub: Path) -> Iterator[tuple[str, str]]:
    """Pairs of module, below the stub's package, and name."""
    for node in ast.walk(ast.parse(stub.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, f"{stub}: {alias.name} is not exported to type checkers"
                yield str(node.module), alias.name


PUBLIC = sorted(names_of(ROOT / "__init__.pyi"))


def test_nothing_is_public_twice() -> None:
    assert len({name for _, name in PUBLIC}) == len(PUBLIC) > 70
    assert set(seglens.__all__) == set(dir(seglens)) == {name for _, name in PUBLIC}


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_a_name_is_that_of_its_module(module: str, name: str) -> None:
    value = getattr(import_module(f"seglens.{module}"), name)
    assert value.__module__ == f"seglens.{module}" and value.__doc__
    assert getattr(seglens, name) is value
    folder, _, below = module.partition(".")
    if name != below:
        assert getattr(import_module(f"seglens.{folder}"), name) is value


@pytest.mark.parametrize("stub", sorted(ROOT.glob("*/__init__.pyi")), ids=lambda stub: stub.parent.name)
def test_a_folder_hands_on_no_other_names(stub: Path) -> None:
    mine = {(f"{stub.parent.name}.{module}", name) for module, name in names_of(stub)}
    assert mine and mine <= set(PUBLIC)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = seglens.no_such_name


@pytest.mark.processes
def test_importing_costs_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import seglens, seglens.cohorts, seglens.steering;"
        "print(*(name for name in set(sys.modules) - before if name.split('.')[0] in {'torch', 'numpy', 'polars'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.processes
def test_a_type_checker_knows_the_types(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import seglens as sl\nfrom seglens.cohorts import read_cohort\n\n"
        "reveal_type(sl.extract)\nreveal_type(sl.Lens)\nreveal_type(read_cohort)\nsl.no_such_name\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(script)],
        cwd=ROOT.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    extract, lens, read, unknown = done.stdout.splitlines()[:4]
    assert "segmenter: seglens.segmenters.segmenter.Segmenter" in extract and "ActivationStore" in extract
    assert "-> seglens.dictionaries.lens.Lens" in lens
    assert "-> seglens.cohorts.case.Cohort" in read
    assert 'no attribute "no_such_name"' in unknown, done.stdout
