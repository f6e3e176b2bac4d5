"""What a page is made of: plain records, which the template draws and escapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from resnet_parity.engines.registry import ENGINES
from resnet_parity.render import svg


class Block:
    """What stands by itself in a section."""

    @property
    def tag(self) -> str:
        """What the template knows it by."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Text(Block):
    """A paragraph."""

    text: str


class Heading(Text):
    """Below that of a section."""


@dataclass(frozen=True)
class Notice(Text):
    """A sentence that must not be missed; `kind` is bad, warn or note, and `mark` says it too."""

    kind: str = "bad"
    mark: str = "✗"


@dataclass(frozen=True)
class Missing(Text):
    """What was not measured, and the command that would measure it."""

    command: str


@dataclass(frozen=True)
class Cell:
    """Of a table, where its text alone does not say all; `kind` is its CSS class."""

    text: str
    kind: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table(Block):
    """The first column heads the rows; the others hold figures, except for those in `words`."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    words: Sequence[int] = ()
    legend: Sequence[Cell] = ()
    kind: str = ""


@dataclass(frozen=True)
class Picture:
    """A chart, and the same figures as a table."""

    caption: str
    svg: Markup
    table: Table | None = None


@dataclass(frozen=True)
class Pictures(Block):
    """Charts beside one another that share a legend."""

    pictures: Sequence[Picture]
    legend: Sequence[tuple[Markup, str]] = ()
    table: Table | None = None
    keys: Sequence[Cell] = ()


@dataclass(frozen=True)
class Drawing(Block):
    """A picture that may be wider than the page."""

    caption: str
    svg: Markup


@dataclass(frozen=True)
class Facts(Block):
    """Figures that stand out, each with what it is."""

    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Commands(Block):
    """Commands, one below the other, each with what it measures."""

    lines: Sequence[tuple[str, str]]


class Styles(dict[str, int]):
    """Which colour, dash and mark a side has: an engine the same in every report, and others the
    ones that are left, in the order in which they come.
    """

    def __init__(self) -> None:
        super().__init__({engine: i for i, engine in enumerate(ENGINES)})

    def __missing__(self, side: str) -> int:
        return self.setdefault(side, len(self))


def legend(styles: Styles, sides: Sequence[str]) -> list[tuple[Markup, str]]:
    """A swatch for each side."""
    return [(svg.swatch(styles[side]), side) for side in sides]


def over(text: str) -> Cell:
    """A cell with what is over its bound."""
    return Cell(f"✗ {text}", "over")
