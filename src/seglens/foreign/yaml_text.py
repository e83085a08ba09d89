"""YAML that others wrote: plain values only, within bounds, and every value knows its line."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from seglens.foreign.plain_numbers import DECIMAL, decimal_number, whole_number

MAX_CHARACTERS = 2**18
MAX_DEPTH = 20
MAX_DIGITS = 100
MAX_VALUES = 20_000
"""With every alias counted as often as it is used: nine lines of aliases can stand for billions of values."""
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
MERGE = "tag:yaml.org,2002:merge"
"""The key ``<<``: its mapping's entries are taken over where the one that it stands in has none of that name."""

Place = tuple[Any, ...]


class YamlError(ValueError):
    """Text that is no YAML, or more of it than anybody writes by hand."""


@dataclass(frozen=True)
class Parsed:
    """Content of a YAML text, and where each value stands in it.

    Attributes:
        content: mappings, lists, numbers, texts, truths and None; dates where a tag says so.
        lines: the line, from 1, of each value: keys of mappings and numbers of list items lead to it.
    """

    content: Any
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int:
        """The line of a value, or of the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def parse_yaml(text: str) -> Parsed:
    """Read one YAML document of plain values; a tag that names a class is refused.

    Raises:
        YamlError: with the line, where there is one: no YAML, a key given twice, or more characters, levels or values
            than the bounds of this module.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"it holds {len(text)} characters; legal are {MAX_CHARACTERS}")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Parsed(None, {})
        lines: dict[Place, int] = {}
        _Walk(loader, lines).visit(root, (), 0)
        return Parsed(loader.construct_document(root), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise YamlError(where + " ".join(str(part) for part in (error.context, error.problem) if part)) from None
    except yaml.YAMLError as error:
        raise YamlError(str(error).splitlines()[0]) from None


class _Loader(yaml.SafeLoader):
    """The safe loader with the numbers and truths of YAML 1.2, which stops at a depth, not at the end of the stack."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise YamlError(f"line {self.line + 1}: more than {MAX_DEPTH} levels; write it flatter")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    """A whole number with the tag ``!!int`` or without; 010, 1:30 and 1_000 mean different things to others."""
    return whole_number(str(loader.construct_scalar(node)).removeprefix("+"), max_digits=MAX_DIGITS)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    special = text.lower().replace(".inf", "inf").replace(".nan", "nan")
    return float(special) if _SPECIAL.fullmatch(text) else decimal_number(text)


_Loader.yaml_implicit_resolvers = {}  # in the order in which they are tried; any other text is text
for _tag, _text, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", DECIMAL.pattern, "-+.0123456789"),
    ("float", _SPECIAL.pattern, "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_text})\Z"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


class _Walk:
    """One look at every value before any is made of them."""

    def __init__(self, loader: _Loader, lines: dict[Place, int]):
        self._loader = loader
        self._lines = lines
        self._values = 0

    def visit(self, node: yaml.Node, place: Place, depth: int) -> None:
        """Look at a value and all that is in it."""
        line = node.start_mark.line + 1
        self._values += 1
        if self._values > MAX_VALUES:
            raise YamlError(f"line {line}: more than {MAX_VALUES} values, aliases counted as often as they are used")
        if depth > MAX_DEPTH:
            raise YamlError(f"line {line}: more than {MAX_DEPTH} levels, or an alias to what it stands in")
        self._lines.setdefault(place, line)
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self.visit(item, (*place, number), depth + 1)
        elif isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, place, depth)
        else:
            self._value(node)

    def _visit_mapping(self, node: yaml.MappingNode, place: Place, depth: int) -> None:
        first: dict[Any, int] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError(f"line {line}: a list or mapping as a key; keys are names or numbers")
            if key_node.tag == MERGE:
                self.visit(value, place, depth + 1)
                continue
            key = self._value(key_node)
            spelt = [key, str(key)]  # 1 and "1" are one key to whoever reads numbers from keys
            if same := [one for one in spelt if one in first]:
                raise YamlError(f"line {line}: {str(key)[:80]!r} stands there twice, first in line {first[same[0]]}")
            first |= dict.fromkeys(spelt, line)
            self._lines[*place, key] = line
            self.visit(value, (*place, key), depth + 1)

    def _value(self, node: yaml.Node) -> Any:
        """A single value; what is no date or number after all is refused with its line."""
        if isinstance(node.value, str) and _NO_TEXT.search(node.value):
            raise YamlError(
                f"line {node.start_mark.line + 1}: {node.value[:40]!a} has a character that no name or text may hold "
                "(NUL, or half of a surrogate pair); leave it out"
            )
        try:
            return self._loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML's readers of dates, numbers and truths raise whatever comes
            line, text = node.start_mark.line + 1, str(node.value)[:40]
            raise YamlError(f"line {line}: {text!r} cannot be read as {node.tag}; put text into quotes") from error
