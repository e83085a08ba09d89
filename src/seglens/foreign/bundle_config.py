"""Configuration of a MONAI bundle as plain values: references and arithmetic are followed, nothing in it is run.

The bundle language gives a text that begins with ``$`` to Python's ``eval`` and imports what ``_target_`` names. Here
such a text may be a reference, a list, or arithmetic on numbers; whatever else is needed is refused by its key.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from seglens.foreign.json_fields import MAX_ITEMS, Field, FieldError
from seglens.foreign.json_text import read_json
from seglens.foreign.yaml_text import MAX_CHARACTERS, YamlError, parse_yaml
from seglens.runtime.streams import printable

MAX_EXPRESSION = 300
"""Characters."""
MAX_STEPS = 64
"""From reference to reference."""
MAX_DEPTH = 40
MAX_VALUES = 20_000
"""That are made of one value, references counted as often as they are followed."""
MAX_NUMBER = 1e12
_REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")
_MOVED = re.compile(r"\$\s*(@\w+(?:(?:#|::)\w+)*)\.to\(\s*@device\s*\)\s*")
"""Of nearly every bundle: ``$@network_def.to(@device)`` is network_def."""
_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_FIX = "give the value yourself by settings={{{key!r}: ...}} (--set {key}=...)"


@dataclass(frozen=True)
class Config:
    """A bundle's configuration.

    Attributes:
        file: that it was read from.
        root: its entries, with the user's own settings in their places.
    """

    file: Path
    root: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path, settings: Mapping[str, Any] | None = None) -> "Config":
        """Read JSON or YAML.

        Args:
            file: ``.json``, ``.yaml`` or ``.yml``.
            settings: key to the value in its place, such as ``{"pixdim": [1.5, 1.5, 1.5]}``; ``#`` leads inside.

        Raises:
            FieldError: it cannot be read, is no object, or has no place for a setting.
        """
        fix = "take the file as its bundle has it"
        try:
            content = read_json(file) if file.suffix == ".json" else _yaml(file)
        except (ValueError, OSError) as error:
            raise FieldError(f"{file}: {error}; {fix}") from None
        root = _texts(file, content, 0)
        if not isinstance(root, dict):
            Field(file, "", root, fix).refuse("an object")
        for key, value in (settings or {}).items():
            _put(file, root, key, value)
        return cls(file, root)

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry of that name at the top."""
        return self.root.get(key) is not None

    def entry(self, key: str) -> Field:
        """An entry at the top, as it stands, ``$@name.to(@device)`` and ``@name`` followed to what they name.

        Raises:
            FieldError: there is none, or a circle.
        """
        return _Resolver(self).named(key)

    def literal(self, value: Field) -> Any:
        """Plain value that an entry stands for: numbers, texts, truths, None, lists and objects of them.

        Raises:
            FieldError: an expression that would have to be run, a reference to nothing or in a circle, or absurd sizes.
        """
        return _Resolver(self).literal(value)


@dataclass
class _Resolver:
    """One value on its way to a plain one."""

    config: Config
    trail: list[str] = field(default_factory=list)
    count: int = 0

    def named(self, path: str) -> Field:
        """Entry that a name stands for, followed through names alone."""
        found = self.at(path)
        steps = [path]
        while isinstance(found.value, str) and (match := _MOVED.fullmatch(found.value) or _alone(found.value)):
            following = match[1].removeprefix("@")
            if following in steps or len(steps) > MAX_STEPS:
                self.circle(steps, following)
            steps.append(following)
            found = self.at(following)
        return found

    def at(self, path: str, hops: int = 0) -> Field:
        """The value that keys lead to, through ``hops`` references so far."""
        self.count += 1
        if hops > MAX_STEPS or self.count > MAX_VALUES:
            self.circle(self.trail, path)
        found: Any = self.config.root
        keys = re.split(r"#|::", path)
        for number, key in enumerate(keys):
            if isinstance(found, str) and (match := _alone(found)):
                found = self.at(match[1], hops + 1).value
            inside = isinstance(found, dict) and key in found
            if not inside and not (isinstance(found, list) and key.isdecimal() and int(key[:9]) < len(found)):
                at = ".".join(keys[:number]) or "it"
                raise FieldError(f"{self.config.file}: {printable(at[:200])} has no key {key[:80]!r}; {_fix(keys[0])}")
            found = found[key] if inside else found[int(key)]
        return self.field(path, found)

    def field(self, keys: str, value: Any) -> Field:
        """A value with its keys, and the cure of it."""
        return Field(self.config.file, printable(keys[:200]), value, _fix(keys[:200]))

    def literal(self, own: Field, depth: int = 0) -> Any:
        """As `Config.literal`."""
        self.count += 1
        if self.count > MAX_VALUES or depth > MAX_DEPTH:
            own.refuse(f"at most {MAX_VALUES} values and {MAX_DEPTH} levels, references followed")
        value = own.value
        if isinstance(value, dict):
            return {key: self.literal(entry, depth + 1) for key, entry in own.entries().items()}
        if isinstance(value, list):
            return [self.literal(item, depth + 1) for item in own.items()]
        if not isinstance(value, str):
            return own.number() if isinstance(value, float) else value
        if value.startswith("$"):
            return self.expression(own, depth)
        if match := _alone(value):
            return self.follow(match[1], depth)
        if value.startswith(("@", "%")):
            own.refuse("a value, @name, or @name#key; what stands in other files is not read")
        return value

    def follow(self, path: str, depth: int) -> Any:
        """The plain value behind a reference."""
        if path in self.trail or len(self.trail) > MAX_STEPS:
            self.circle(self.trail, path)
        self.trail.append(path)
        found = self.literal(self.at(path), depth + 1)
        self.trail.pop()
        return found

    def circle(self, steps: list[str], last: str) -> NoReturn:
        """Refuse references that lead round."""
        shown = " -> ".join(printable(step[:80]) for step in (*steps[:8], last))
        raise FieldError(
            f"{self.config.file}: @{printable(last[:80])} leads round: {shown}; legal: references that end at a value; "
            f"{_fix(last[:200])}"
        )

    def expression(self, own: Field, depth: int) -> Any:
        """Value of a ``$`` text that is a reference, a list or arithmetic."""
        text = own.value[1:].strip()
        names: list[str] = []

        def placeholder(match: re.Match[str]) -> str:
            names.append(match[1])
            return f"_{len(names) - 1}_"

        if len(text) > MAX_EXPRESSION:
            _never_run(own)
        try:
            tree = ast.parse(_REFERENCE.sub(placeholder, text), mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            _never_run(own)
        known = {f"_{number}_": name for number, name in enumerate(names)}
        return self.node(tree.body, own, known, depth)

    def node(self, node: ast.expr, own: Field, known: Mapping[str, str], depth: int) -> Any:
        """Value of a part of an expression."""
        depth += 1
        if depth > MAX_DEPTH:
            _never_run(own)
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str | None):
            return node.value
        if isinstance(node, ast.Name) and node.id in known:
            return self.follow(known[node.id], depth)
        if isinstance(node, ast.List | ast.Tuple):
            return [self.node(item, own, known, depth) for item in node.elts]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -_number(self.node(node.operand, own, known, depth), own)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = (self.node(side, own, known, depth) for side in (node.left, node.right))
            if isinstance(left, list) and isinstance(right, list) and isinstance(node.op, ast.Add):
                if len(left) + len(right) > MAX_ITEMS:
                    own.refuse(f"lists of at most {MAX_ITEMS} values")
                return left + right
            try:
                return _number(_OPERATORS[type(node.op)](_number(left, own), _number(right, own)), own)
            except ZeroDivisionError:
                own.refuse("a division by something else than 0")
        match node:
            case ast.Call(func=ast.Name(id="len"), args=[only], keywords=[]):
                sized = self.node(only, own, known, depth)
                if isinstance(sized, list | dict | str):
                    return len(sized)
        _never_run(own)


def _alone(text: str) -> re.Match[str] | None:
    """A text that is one reference, ``@name`` or ``$@name``."""
    return _REFERENCE.fullmatch(text.removeprefix("$").strip())


def _number(value: Any, own: Field) -> int | float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or abs(value) > MAX_NUMBER:
        own.refuse(f"+ - * / // on numbers up to {MAX_NUMBER:g}, and + on lists")
    return value


def _never_run(own: Field) -> NoReturn:
    own.refuse("a plain value, @name, len(@name), or + - * / on numbers; code in a bundle is never run")


def _fix(keys: str) -> str:
    return _FIX.format(key=printable(keys).replace("::", "#"))


def _yaml(file: Path) -> Any:
    with file.open("rb") as opened:
        raw = opened.read(4 * MAX_CHARACTERS + 1)
    try:
        return parse_yaml(raw.decode("utf-8-sig")).content
    except YamlError as error:
        raise ValueError(f"cannot be read as YAML ({error})") from None


def _texts(file: Path, content: Any, depth: int) -> Any:
    """The same with texts as keys, as JSON has them."""
    if depth > MAX_DEPTH:
        raise FieldError(f"{file}: more than {MAX_DEPTH} levels; take the file as its bundle has it")
    if isinstance(content, dict):
        return {str(key): _texts(file, value, depth + 1) for key, value in content.items()}
    if isinstance(content, list):
        return [_texts(file, value, depth + 1) for value in content]
    known = content is None or isinstance(content, bool | int | float | str)
    return content if known else str(content)


def _put(file: Path, root: dict[str, Any], path: str, value: Any) -> None:
    """Put a user's own value into its place."""
    *above, last = path.split("#")
    found: Any = root
    for key in above:
        found = found.get(key) if isinstance(found, dict) else _item(found, key)
    if isinstance(found, list) and last.isdecimal() and int(last[:9]) < len(found):
        found[int(last)] = value
    elif isinstance(found, dict):
        found[last] = value
    else:
        raise FieldError(
            f"{file}: there is no place for the setting {path[:200]!r}; legal: a key of the file, with # to what is "
            f"inside, such as {next(iter(root), 'network_def')!r}; name one"
        )


def _item(found: Any, key: str) -> Any:
    inside = isinstance(found, list) and key.isdecimal() and int(key[:9]) < len(found)
    return found[int(key)] if inside else None
