"""Blocks of a page: plain frozen values, which the template turns into HTML (and escapes)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from markupsafe import Markup


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a line (``dash`` in SVG's notation), a marker, or a filled swatch."""

    label: str
    colour: str
    shape: Literal["line", "dot", "ring", "tick", "square"] = "square"
    dash: str = ""
    value: str = ""


@dataclass(frozen=True)
class Paragraph:
    """Text; ``tone`` "missing" says what was not run, "note" is small print, "answer" is what a page says first."""

    text: str
    tone: Literal["", "note", "missing", "key", "answer"] = ""
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Claim:
    """One claim with its verdict; ``section`` is the anchor of what shows it."""

    text: str
    verdict: Literal["holds", "does not hold", "too few patients"]
    section: str


@dataclass(frozen=True)
class Claims:
    """A list of claims, each a link to its section."""

    items: tuple[Claim, ...]
    kind: ClassVar[str] = "claims"


@dataclass(frozen=True)
class Link:
    """A link; with ``file`` a click saves what the address holds under that name."""

    text: str
    address: str
    file: str = ""
    kind: ClassVar[str] = "link"


@dataclass(frozen=True)
class Cell:
    """One cell of a table; with ``fill`` it is a square of a heat map, and ``ink`` is readable on it.

    ``mark`` is a word that must not be overlooked.
    """

    text: str
    sub: str = ""
    fill: str = ""
    ink: str = ""
    strong: bool = False
    text_cell: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption; the first column names the row, and ``sortable`` ones are sorted by a click."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    heat: bool = False
    sortable: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Chart:
    """A drawing in two layouts of the same numbers: for a desk and for a phone."""

    title: str
    wide: Markup
    narrow: Markup
    caption: str
    keys: tuple[Key, ...] = ()
    kind: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Picture:
    """One image as a data URI, with the text that stands for it and the label under it."""

    uri: str
    alt: str
    width: int
    height: int
    label: str = ""


@dataclass(frozen=True)
class Pictures:
    """A row of images that wraps."""

    title: str
    pictures: tuple[Picture, ...]
    caption: str
    keys: tuple[Key, ...] = ()
    per_row: int = 4
    kind: ClassVar[str] = "pictures"


@dataclass(frozen=True)
class Card:
    """A named thing with its facts and its images."""

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Cards:
    """Several cards side by side."""

    title: str
    cards: tuple[Card, ...]
    caption: str = ""
    keys: tuple[Key, ...] = ()
    kind: ClassVar[str] = "cards"


@dataclass(frozen=True)
class Drawing:
    """A small drawing without a caption."""

    svg: Markup
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True)
class Terms:
    """A glossary."""

    entries: tuple[tuple[str, str], ...]
    kind: ClassVar[str] = "terms"


@dataclass(frozen=True)
class Facts:
    """Short facts in a row: name and value."""

    entries: tuple[tuple[str, str], ...]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Code:
    """Text to be typed or read as it is."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Heading:
    """A sub-heading inside a section."""

    text: str
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Fold:
    """Details, closed until the reader opens them (open in print)."""

    title: str
    blocks: "tuple[Block, ...]"
    kind: ClassVar[str] = "fold"


Block: TypeAlias = (
    Paragraph
    | Claims
    | Link
    | Facts
    | Bullets
    | Table
    | Chart
    | Drawing
    | Pictures
    | Cards
    | Terms
    | Code
    | Heading
    | Fold
)


@dataclass(frozen=True)
class Section:
    """One chapter: ``id`` is its anchor, ``intro`` says in plain words what the reader sees; a ``folded`` one is closed
    until the reader opens it or follows a link to it.
    """

    id: str
    title: str
    intro: str
    blocks: tuple[Block, ...]
    folded: bool = False


def head(text: str, sub: str = "") -> Cell:
    """The cell that names a row."""
    return Cell(text, sub, text_cell=True)


def row(*cells: "Cell | str") -> tuple[Cell, ...]:
    """A table row; plain strings become cells."""
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Iterable[Any]], note: str = "", *, heat: bool = False
) -> Table:
    """A table from loosely typed rows."""
    return Table(caption, tuple(columns), tuple(row(*cells) for cells in rows), note, heat)
