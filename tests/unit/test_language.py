"""The house's language: names in the package are the field's terms, and each names one thing."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "seglens"
FILES = sorted(SOURCE.rglob("*.py"))

WORDS = {
    *("rival", "rivals", "contest", "contests", "contestant", "contestants", "lever", "levers", "lead", "leads"),
    *("judge", "judged", "correction", "corrections", "joint", "planted", "restyling", "rehearse", "rehearsed"),
    *("cure", "cures", "fate", "fates", "twin", "twins", "said", "told", "gathered", "dealt", "summed"),
}
"""Parts of a name that nobody searches for."""
NAMES = {
    *("Seen", "LatentEffects", "CannotCarryError", "NoRoomError", "AS_THEY_LIE", "cut", "held", "wait", "stand_in"),
    *("is_first", "from_first", "common_tokens", "kept_activations"),
}
MODULES = {
    *(
        "room",
        "running",
        "team",
        "halving",
        "writing",
        "allocator",
        "nearest",
        "processes",
        "contents",
        "units",
        "planes",
    ),
    *("stacks", "walking", "market", "restyling", "planted", "joint", "common_tokens", "kept_activations"),
    *("directions", "faces", "condition", "inputs", "paper", "contest", "corrections", "levers"),
}
LIMITS = re.compile(r"_?(MOST|LARGEST|LONGEST|MINIMUM|LEAST|SMALLEST)(_|$)")
"""A limit is called MAX or MIN."""


def names_in(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a module gives or uses, apart from attributes of others' objects, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.Name():
                yield node.id, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Attribute(value=ast.Name(id="self")):
                yield node.attr, node.lineno
            case ast.ImportFrom():
                yield from ((alias.asname or alias.name, node.lineno) for alias in node.names)


def is_old(name: str) -> bool:
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
    return bool(WORDS & set(parts)) or name.lstrip("_") in NAMES or bool(LIMITS.match(name))


@pytest.mark.parametrize("name", ["rival_values", "JointModel", "MOST_PAIRS", "_held", "is_first", "SMALLEST"])
def test_an_old_name_is_seen(name):
    assert is_old(name)


@pytest.mark.parametrize("name", ["held_out", "jointly", "arrival", "least_squares", "wait_for", "KTH_LARGEST"])
def test_other_names_are_left_alone(name):
    assert not is_old(name)


def test_no_old_word_is_a_name():
    found = {
        f"{path.relative_to(SOURCE)}:{line} {name}"
        for path in FILES
        for name, line in names_in(ast.parse(path.read_text()))
        if is_old(name)
    }
    assert not found, "docs: see the table of names in CHANGELOG.md\n" + "\n".join(sorted(found))


def test_no_module_has_an_old_name():
    assert not {
        str(path.relative_to(SOURCE)) for path in FILES if MODULES & set(path.relative_to(SOURCE).with_suffix("").parts)
    }


def test_a_class_name_names_one_class():
    places = Counter(
        node.name for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in places.items() if count > 1]


def test_no_file_name_is_there_three_times():
    places = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert not [name for name, count in places.items() if count > 2]


def test_no_file_is_longer_than_400_lines():
    assert not {str(path.relative_to(SOURCE)) for path in FILES if len(path.read_text().splitlines()) > 400}


def test_first_lines_begin_with_a_verb_or_a_noun():
    first_lines = {
        f"{path.relative_to(SOURCE)}: {docstring.splitlines()[0]}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module)
        and (docstring := ast.get_docstring(node))
    }
    assert not sorted(line for line in first_lines if re.match(r"[^ ]+: (What|Which|Who|Whoever|Whose)\b", line))
